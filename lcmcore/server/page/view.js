// The picture's pane: what is shown, beside what it is compared, and whether it is being made.

const SOON = 400; // milliseconds before a busy sign: at each stroke it would only flicker

const byId = (id) => document.getElementById(id);

export class View {
  shown = null; // {blob, source, seed, caption}
  #next = {}; // by the element's id: the image that it shall show
  #busy = 0;

  constructor() {
    byId("cut").addEventListener("input", () => this.#cut());
  }

  /** Show a picture that is complete; resolves when it is to be seen. */
  show(picture) {
    this.shown = picture;
    const seen = this.#put("picture", picture.blob);
    byId("picture").alt = picture.caption;
    byId("picture").classList.remove("preview");
    this.say(picture.caption);
    for (const id of ["reuse", "compare", "save", "keep"]) byId(id).disabled = false;
    return seen;
  }

  /** Show one that is being made. */
  preview(blob, text) {
    this.#put("picture", blob);
    byId("picture").classList.add("preview");
    this.say(text);
  }

  /** Back from a preview of what was never completed. */
  restore() {
    if (this.shown && byId("picture").matches(".preview")) this.show(this.shown);
  }

  /** Show the picture beside another, left of a line that can be moved; null ends that. */
  compare(blob, names = []) {
    const on = Boolean(blob);
    if (on) this.#put("other", blob);
    for (const id of ["other", "cut", "names"]) byId(id).hidden = !on;
    byId("names").querySelectorAll("em").forEach((each, at) => (each.textContent = names[at] ?? ""));
    byId("compare").setAttribute("aria-pressed", String(on));
    this.#cut();
  }

  get isComparing() {
    return !byId("cut").hidden;
  }

  busy(on) {
    const sign = (shown) => (byId("line").hidden = byId("stop").hidden = !shown);
    clearTimeout(this.#busy);
    if (on) this.#busy = setTimeout(sign, SOON, true);
    else sign(false);
    byId("view").setAttribute("aria-busy", String(on));
    byId("line").style.removeProperty("--done");
  }

  /** How far the work is, from 0 to 1. */
  progress(done) {
    byId("line").style.setProperty("--done", done);
  }

  say(text) {
    byId("status").textContent = text;
  }

  /** A picture that is decoded before it is shown replaces the last without a flash. */
  async #put(id, blob) {
    const next = new Image();
    this.#next[id] = next;
    next.src = URL.createObjectURL(blob);
    await next.decode();
    const image = byId(id);
    const isNewest = this.#next[id] === next;
    URL.revokeObjectURL(isNewest ? image.src : next.src);
    if (!isNewest) return;
    image.src = next.src;
    image.hidden = false;
    byId("empty").hidden = true;
  }

  #cut() {
    byId("view").style.setProperty("--cut", `${byId("cut").value}%`);
  }
}
