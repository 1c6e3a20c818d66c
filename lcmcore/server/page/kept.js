// Pictures that were kept: in this browser's own store, so that they outlive the page.

const STORE = "pictures";

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

async function store(mode) {
  const opening = indexedDB.open("lcm", 1);
  opening.onupgradeneeded = () =>
    opening.result.createObjectStore(STORE, { keyPath: "id", autoIncrement: true });
  return (await done(opening)).transaction(STORE, mode).objectStore(STORE);
}

/**
 * The list of kept pictures: {blob, source, seed, caption}, as `main.js` makes them. `onChoose` is
 * called with the one that is chosen, or null.
 */
export class Kept {
  onChoose = () => {};
  chosen = null;

  #section;
  #list;

  constructor(section) {
    this.#section = section;
    this.#list = section.querySelector("ul");
  }

  /** Show what was kept before. */
  async load() {
    try {
      for (const each of await done((await store("readonly")).getAll())) this.#show(each);
    } catch {
      // A private window may have no store: what is kept lasts as long as the page.
    }
  }

  async add(picture) {
    const item = { ...picture };
    try {
      item.id = await done((await store("readwrite")).add(item));
    } catch {
      item.id = undefined;
    }
    this.#show(item);
    this.#section.scrollLeft = this.#section.scrollWidth;
  }

  /** Choose none. */
  release() {
    if (this.chosen) this.#choose(null);
  }

  get last() {
    return this.#list.lastElementChild?.item ?? null;
  }

  #show(item) {
    const entry = document.createElement("li");
    entry.item = item;
    const open = document.createElement("button");
    Object.assign(open, { type: "button", title: item.caption, className: "thumb" });
    open.setAttribute("aria-pressed", "false");
    const image = new Image();
    image.src = URL.createObjectURL(item.blob);
    image.alt = item.caption;
    open.append(image);
    open.onclick = () => this.#choose(this.chosen === item ? null : item);
    const remove = document.createElement("button");
    Object.assign(remove, { type: "button", textContent: "×", className: "remove" });
    remove.setAttribute("aria-label", `Remove: ${item.caption}`);
    remove.onclick = () => this.#remove(entry);
    entry.append(open, remove);
    this.#list.append(entry);
    this.#section.hidden = false;
    return entry;
  }

  #choose(item) {
    this.chosen = item;
    for (const entry of this.#list.children) {
      entry.firstElementChild.setAttribute("aria-pressed", String(entry.item === item));
    }
    this.onChoose(item);
  }

  async #remove(entry) {
    const { item } = entry;
    if (this.chosen === item) this.#choose(null);
    URL.revokeObjectURL(entry.querySelector("img").src);
    entry.remove();
    this.#section.hidden = !this.#list.children.length;
    if (item.id !== undefined) await done((await store("readwrite")).delete(item.id));
  }
}
