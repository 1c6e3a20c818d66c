// The page: its controls, and what happens from a stroke to a picture.

import { ServerError, model as fetchModel, picture as fetchPicture, setKey } from "./api.js";
import { Kept } from "./kept.js";
import { Live } from "./live.js";
import { Paper } from "./paper.js";
import { View } from "./view.js";

const COLOURS = {
  ink: "#23252b",
  slate: "#8a8792",
  white: "#ffffff",
  sky: "#86b9e3",
  water: "#2f62b0",
  meadow: "#74a54b",
  forest: "#2c6140",
  sand: "#dcbc7c",
  earth: "#80563a",
  sun: "#f6c945",
  dusk: "#e0714d",
};
const EXAMPLE = "a green meadow with mountains and a lake and pine trees at sunset"; // the demo model draws landscapes
const STRENGTH = 0.45; // at which a picture follows what was drawn, and the prompt still paints it
const MASK_BLUR = 4; // pixels over which what is repainted passes into what is kept
const SLOW_STEP = 500; // milliseconds of a step from which previews are shown
const WRITING = 300; // milliseconds after a letter of the prompt
const SHAPES = [[1, 1], [1.5, 1], [1, 1.5], [1.5, 1.5], [2, 2]]; // times the model's own size

const byId = (id) => document.getElementById(id);
const settings = byId("settings");
const view = new View();
const kept = new Kept(byId("kept"));
const paper = new Paper(byId("layer"), byId("mask"), byId("ring"));
const live = new Live(make, (on) => view.busy(on), trouble);

let model = null;
let stepTime = SLOW_STEP; // milliseconds, of the last picture; not known at first
let current = null; // the newest picture

// From the drawing to a picture

function asked() {
  const values = { prompt: byId("prompt").value.trim() };
  for (const [name, value] of new FormData(settings)) if (value !== "") values[name] = value;
  for (const name of ["strength", "num_inference_steps", "seed", "guidance_scale"]) {
    if (values[name] !== undefined) values[name] = Number(values[name]);
  }
  return values;
}

async function make(signal) {
  const fields = asked();
  if (!fields.prompt) throw new ServerError("Write in a few words what the picture should show.");
  if (!byId("seed").validity.valid) throw new ServerError("A seed is a whole number, such as 7.");
  const [width, height] = fields.size.split("x").map(Number);
  const drawn = model.edits && !paper.isEmpty;
  const image = drawn ? await paper.image(width, height) : null;
  const mask = drawn && paper.hasMask ? await paper.maskImage(width, height) : null;
  if (!image) delete fields.strength;
  if (mask) fields.mask_blur = MASK_BLUR;
  const start = performance.now();
  const onPartial = ({ blob, step, steps }) => {
    if (signal.aborted) return;
    view.progress(step / steps);
    if ((performance.now() - start) / step < SLOW_STEP) return;
    settle(null);
    view.preview(blob, `Step ${step} of ${steps}`);
  };
  if (stepTime < SLOW_STEP) fields.partial_images = 0;
  const { blob, seed } = await fetchPicture(fields, { image, mask, signal, onPartial });
  const took = performance.now() - start;
  stepTime = took / Math.max(1, fields.num_inference_steps * (image ? fields.strength : 1));
  if (signal.aborted) return;
  current = { blob, seed, source: image, caption: captionOf(fields, seed, image, took) };
  byId("trouble").hidden = true;
  await settle(current);
}

function captionOf(fields, seed, image, took) {
  const strength = image ? ` · strength ${fields.strength}` : "";
  return `${(took / 1000).toFixed(took < 10000 ? 2 : 0)} s · seed ${seed}${strength}`;
}

/** The pane follows the drawing again; with a picture, shows it. */
function settle(picture) {
  kept.release();
  const shown = picture && view.show(picture);
  if (view.isComparing) compare(true);
  return shown;
}

async function trouble(error) {
  view.restore();
  const words = error instanceof ServerError ? error.message : `The page failed: ${error.message}`;
  const soon = error.retryAfter ? `${/[.?!]$/.test(words) ? "" : "."} Next try in ${error.retryAfter} s.` : "";
  byId("trouble").textContent = words.charAt(0).toUpperCase() + words.slice(1) + soon;
  byId("trouble").hidden = false;
  if (error.status === 401) askForKey();
  else if (soon && model) live.renewLater(error.retryAfter * 1000);
}

function askForKey() {
  byId("key").value = "";
  if (!byId("ask-key").open) byId("ask-key").showModal();
}

byId("ask-key").addEventListener("close", () => {
  if (!byId("key").value) return;
  setKey(byId("key").value);
  byId("trouble").hidden = true;
  if (model) live.renew();
  else start();
});

// The drawing

paper.onStroke = () => {
  byId("hint").hidden = true;
  live.follow(stepTime);
};
paper.onChange = () => {
  byId("hint").hidden = !paper.isEmpty;
  byId("undo").disabled = !paper.canUndo;
  byId("redo").disabled = !paper.canRedo;
  live.renew();
};
byId("undo").onclick = () => paper.undo();
byId("redo").onclick = () => paper.redo();
byId("clear").onclick = () => paper.clear();
byId("unmask").onclick = () => paper.clearMask();
byId("open").onclick = () => byId("file").click();
byId("file").onchange = ({ target }) => {
  load(target.files[0]);
  target.value = "";
};

async function load(file) {
  if (!file) return;
  try {
    const picture = await createImageBitmap(file);
    paper.place(picture);
    picture.close(); // a photograph has a hundred megabytes
  } catch {
    trouble(new ServerError("That is not a picture that this browser can read."));
  }
}

document.addEventListener("paste", ({ clipboardData }) => {
  const file = [...clipboardData.files].find(({ type }) => type.startsWith("image/"));
  if (file) load(file);
});
document.addEventListener("dragover", (event) => {
  if (![...event.dataTransfer.types].includes("Files")) return;
  event.preventDefault();
  byId("drop").hidden = false;
});
document.addEventListener("dragleave", ({ relatedTarget }) => {
  if (!relatedTarget) byId("drop").hidden = true;
});
document.addEventListener("drop", (event) => {
  byId("drop").hidden = true;
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  load(event.dataTransfer.files[0]);
});

function setTool(tool) {
  paper.tool = tool;
  document.querySelector(`[name=tool][value=${tool}]`).checked = true;
  byId("masking").hidden = tool !== "mask";
  byId("colours").hidden = tool === "mask";
}

function setWidth(width) {
  byId("width").value = width;
  paper.width = Number(byId("width").value);
}

function setColour(colour) {
  paper.colour = colour;
  byId("layer").style.setProperty("--ink", colour);
  if (paper.tool === "eraser" || paper.tool === "mask") setTool("brush");
}

function makeColours() {
  for (const [name, colour] of Object.entries(COLOURS)) {
    const label = document.createElement("label");
    label.title = name;
    label.style.setProperty("--paint", colour);
    label.innerHTML = `<input type="radio" name="colour" value="${colour}" aria-label="${name}">`;
    byId("colours").append(label);
  }
  const own = document.createElement("label");
  own.className = "own";
  own.title = "another colour";
  own.innerHTML = '<input type="color" value="#7a4fa3" aria-label="Another colour">';
  own.firstChild.oninput = own.firstChild.onclick = ({ target }) => {
    for (const each of byId("colours").querySelectorAll("[type=radio]")) each.checked = false;
    setColour(target.value);
  };
  byId("colours").append(own);
  byId("colours").addEventListener("change", ({ target }) => setColour(target.value));
  byId("colours").querySelector("input").checked = true;
}

for (const each of document.querySelectorAll("[name=tool]")) each.onchange = () => setTool(each.value);
for (const each of document.querySelectorAll("[name=masking]")) {
  each.onchange = () => (paper.unmasking = each.value === "remove");
}
byId("width").oninput = ({ target }) => setWidth(target.value);

// The settings

function showValues() {
  for (const output of settings.querySelectorAll("output")) {
    const input = byId(output.htmlFor.value);
    output.value = input.value;
    input.style.setProperty("--at", (input.value - input.min) / (input.max - input.min));
  }
}

function fitPrompt() {
  const prompt = byId("prompt");
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight}px`;
}

function setSize() {
  const [width, height] = byId("size").value.split("x").map(Number);
  byId("board").style.setProperty("--ratio", width / height);
  paper.resize(width, height);
}

function remember() {
  const values = Object.fromEntries([...new FormData(settings), ["prompt", byId("prompt").value]]);
  try {
    localStorage.setItem(`lcm-${model.id}`, JSON.stringify(values));
  } catch {
    // A browser may keep nothing.
  }
}

function recall() {
  let values = {};
  try {
    values = JSON.parse(localStorage.getItem(`lcm-${model.id}`)) ?? {};
  } catch {
    // As if there were nothing.
  }
  byId("prompt").value = values.prompt ?? (model.id === "demo" ? EXAMPLE : "");
  for (const [name, value] of Object.entries(values)) {
    const field = settings.elements.namedItem(name);
    if (!field) continue;
    if (field.tagName !== "SELECT" || [...field.options].some((each) => each.value === value)) {
      field.value = value;
    }
  }
}

settings.addEventListener("submit", (event) => event.preventDefault());
settings.addEventListener("input", ({ target }) => {
  showValues();
  if (target.type === "range") live.follow(stepTime);
  else if (target.id !== "size") live.renewLater(WRITING);
});
settings.addEventListener("change", ({ target }) => {
  if (target.id === "size") setSize();
  remember();
  live.renew();
});
byId("dice").onclick = () => {
  byId("seed").value = Math.floor(Math.random() * 2 ** 32);
  remember();
  live.renew();
};
byId("prompt").addEventListener("input", () => {
  fitPrompt();
  remember();
  live.renewLater(WRITING);
});
byId("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.isComposing) return;
  event.preventDefault();
  live.renew();
});
addEventListener("resize", fitPrompt);

// What is done with a picture

function compare(on) {
  if (!on || !view.shown) return view.compare(null);
  if (kept.chosen) return view.compare(current?.blob ?? kept.chosen.source, ["newest", "kept"]);
  if (current?.source) return view.compare(current.source, ["drawing", "picture"]);
  return view.compare(kept.last?.blob ?? null, ["kept", "newest"]);
}

kept.onChoose = (item) => {
  if (item) view.show(item);
  else if (current) view.show(current);
  if (view.isComparing) compare(true);
};

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(view.shown.blob);
  link.download = `lcm-${view.shown.seed}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

byId("keep").onclick = async () => {
  await kept.add(view.shown);
  view.say(`Kept · ${view.shown.caption}`);
};
byId("compare").onclick = () => compare(!view.isComparing);
byId("save").onclick = save;
byId("reuse").onclick = async () => paper.place(await createImageBitmap(view.shown.blob));
byId("stop").onclick = stop;
byId("help").onclick = () => byId("keys").showModal();

function stop() {
  live.stop();
  view.restore();
}

// The keyboard

const clicks = { o: "open", k: "keep", c: "compare", s: "save", d: "reuse", r: "dice", "?": "help", Delete: "clear" };
const tools = { b: "brush", e: "eraser", f: "fill", m: "mask" };

document.addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (document.querySelector("dialog[open]")) return;
  if (key === "Escape") return stop();
  if (target.matches("textarea, select, input:not([type=radio], [type=range])")) return;
  if (event.ctrlKey || event.metaKey) {
    if (key.toLowerCase() === "z") paper[event.shiftKey ? "redo" : "undo"]();
    else if (key.toLowerCase() === "y") paper.redo();
    else return;
  } else if (event.altKey) {
    return;
  } else if (clicks[key]) byId(clicks[key]).click();
  else if (tools[key]) setTool(tools[key]);
  else if (key === "p") byId("prompt").select();
  else if (key === "[" || key === "]") setWidth(paper.width * (key === "[" ? 0.8 : 1.25));
  else if (/^[0-9]$/.test(key)) {
    byId("colours").querySelectorAll("[type=radio]")[(Number(key) + 9) % 10].click();
  } else return;
  event.preventDefault();
});

// The start

function useModel() {
  byId("model").textContent = model.id;
  document.title = `${model.id} · lcm`;
  const [width, height] = model.size.split("x").map(Number);
  const round = (side) => Math.round(side / model.size_multiple) * model.size_multiple;
  const sizes = SHAPES
    .map(([x, y]) => [round(width * x), round(height * y)])
    .filter((each) => Math.max(...each) <= model.max_side);
  byId("size").replaceChildren(
    ...sizes.map(([w, h]) => new Option(`${w} × ${h}`, `${w}x${h}`)),
  );
  byId("steps").max = Math.min(12, model.max_steps);
  byId("steps").value = model.num_inference_steps;
  byId("strength").value = STRENGTH;
  byId("guidance").value = model.guidance_scale;
  byId("avoid").hidden = !model.negative_prompt;
  byId("board").classList.toggle("text-only", !model.edits);
  recall();
  showValues();
  fitPrompt();
  setSize();
}

async function start() {
  try {
    model = await fetchModel();
  } catch (error) {
    await trouble(error);
    if (error.status !== 401) setTimeout(start, 1000 * (error.retryAfter ?? 3));
    return;
  }
  byId("trouble").hidden = true;
  useModel();
  if (byId("prompt").value) live.renew();
}

makeColours();
kept.load();
start();
