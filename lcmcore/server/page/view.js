// The picture's pane: what is shown, beside what it is compared, and whether it is being made.

const SOON = 120; // milliseconds before a busy sign: a fast answer needs none

const byId = (id) => document.getElementById(id);

export class View {
  shown = null; // {blob, source, seed, caption}
  #urls = {};
  #busy = 0;

  constructor() {
    byId("cut").addEventListener("input", () => this.#cut());
  }

  /** Show a picture that is complete. */
  show(picture) {
    this.shown = picture;
    this.#put("picture", picture.blob);
    byId("picture").alt = picture.caption;
    byId("picture").classList.remove("preview");
    this.say(picture.caption);
    for (const id of ["reuse", "compare", "save", "keep"]) byId(id).disabled = false;
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
    clearTimeout(this.#busy);
    if (!on) byId("view").classList.remove("slow");
    else this.#busy = setTimeout(() => byId("view").classList.add("slow"), SOON);
    byId("view").setAttribute("aria-busy", String(on));
    byId("line").hidden = byId("stop").hidden = !on;
    byId("line").style.removeProperty("--done");
  }

  /** How far the work is, from 0 to 1. */
  progress(done) {
    byId("line").style.setProperty("--done", done);
  }

  say(text) {
    byId("status").textContent = text;
  }

  #put(id, blob) {
    const image = byId(id);
    if (this.#urls[id]) URL.revokeObjectURL(this.#urls[id]);
    this.#urls[id] = image.src = URL.createObjectURL(blob);
    image.hidden = false;
    byId("empty").hidden = true;
  }

  #cut() {
    byId("view").style.setProperty("--cut", `${byId("cut").value}%`);
  }
}
