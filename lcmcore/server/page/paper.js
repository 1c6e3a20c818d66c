// The drawing and its mask: two layers of pixels, the tools that change them, undo and redo.

const DETAIL = 1024; // pixels of the longer side of a layer
const UNDO_LIMIT = 20;
const TOLERANCE = 40; // of a fill: how far a channel may differ from where it began
const MASK = "#d4149c"; // unlike what is painted

/**
 * Tools: brush, eraser, fill, mask. Calls `onStroke` while a stroke is drawn, and `onChange` when
 * it, or any other change, is complete.
 */
export class Paper {
  tool = "brush";
  colour = "#23252b";
  width = 28; // thousandths of the longer side
  unmasking = false;
  onStroke = () => {};
  onChange = () => {};

  #layers; // {drawing, mask}: contexts
  #canvas;
  #ring;
  #undo = [];
  #redo = [];
  #stroke = null; // {context, last, pointer}
  #pen = null; // where the keyboard has its pen

  constructor(canvas, mask, ring) {
    this.#canvas = canvas;
    this.#ring = ring;
    this.#layers = {
      drawing: canvas.getContext("2d", { willReadFrequently: true }),
      mask: mask.getContext("2d", { willReadFrequently: true }),
    };
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#up(event));
    canvas.addEventListener("pointercancel", (event) => this.#up(event));
    canvas.addEventListener("pointerleave", () => (ring.hidden = true));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => this.#leaveKeyboard());
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  /** The size in pixels of the picture asked for; what is drawn is kept, cropped to its shape. */
  resize(width, height) {
    const scale = Math.max(1, Math.round(DETAIL / Math.max(width, height)));
    const [w, h] = [width * scale, height * scale];
    if (this.#canvas.width === w && this.#canvas.height === h) return;
    for (const context of Object.values(this.#layers)) {
      const before = context.canvas.width ? snapshot(context) : null;
      Object.assign(context.canvas, { width: w, height: h });
      if (before) cover(context, before);
    }
  }

  get isEmpty() {
    return !hasPixels(this.#layers.drawing);
  }

  get hasMask() {
    return hasPixels(this.#layers.mask);
  }

  get canUndo() {
    return this.#undo.length > 0;
  }

  get canRedo() {
    return this.#redo.length > 0;
  }

  /** The drawing on white, of that size, as a PNG blob. */
  image(width, height) {
    return flattened(this.#layers.drawing.canvas, "white", width, height);
  }

  /** The mask, white where the picture is repainted, as a PNG blob. */
  maskImage(width, height) {
    const { canvas } = this.#layers.mask;
    const white = blank(canvas.width, canvas.height);
    white.drawImage(canvas, 0, 0);
    white.globalCompositeOperation = "source-in";
    white.fillStyle = "white";
    white.fillRect(0, 0, canvas.width, canvas.height);
    return flattened(white.canvas, "black", width, height);
  }

  /** Draw a picture over everything, cropped to the drawing's shape. */
  place(picture) {
    this.#remember("drawing");
    cover(this.#layers.drawing, picture);
    this.onChange();
  }

  clear() {
    if (!this.isEmpty) this.#wipe("drawing");
  }

  clearMask() {
    if (this.hasMask) this.#wipe("mask");
  }

  undo() {
    this.#restore(this.#undo, this.#redo);
  }

  redo() {
    this.#restore(this.#redo, this.#undo);
  }

  #wipe(name) {
    this.#remember(name);
    const context = this.#layers[name];
    context.clearRect(0, 0, context.canvas.width, context.canvas.height);
    this.onChange();
  }

  #remember(name) {
    this.#undo.push([name, snapshot(this.#layers[name])]);
    if (this.#undo.length > UNDO_LIMIT) this.#undo.shift();
    this.#redo.length = 0;
  }

  #restore(from, to) {
    const entry = this.#stroke ? null : from.pop();
    if (!entry) return;
    const [name, before] = entry;
    const context = this.#layers[name];
    to.push([name, snapshot(context)]);
    cover(context, before);
    this.onChange();
  }

  // Pointers

  #at(event) {
    const box = this.#canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * this.#canvas.width,
      y: ((event.clientY - box.top) / box.height) * this.#canvas.height,
      pressure: event.pointerType === "pen" && event.pressure ? 0.3 + event.pressure : 1,
    };
  }

  #down(event) {
    if (event.button !== 0 || this.#stroke) return;
    this.#leaveKeyboard();
    const point = this.#at(event);
    if (this.tool === "fill") {
      this.#fill(point);
      return;
    }
    this.#canvas.setPointerCapture(event.pointerId);
    this.#begin(point, event.pointerId);
    this.onStroke();
  }

  #move(event) {
    this.#showRing(this.#at(event), event.pointerType === "touch");
    if (this.#stroke?.pointer !== event.pointerId) return;
    const all = event.getCoalescedEvents?.() ?? [];
    for (const each of all.length ? all : [event]) this.#extend(this.#at(each));
    this.onStroke();
  }

  #up(event) {
    if (this.#stroke?.pointer === event.pointerId) this.#end();
  }

  #begin(point, pointer) {
    const name = this.tool === "mask" ? "mask" : "drawing";
    this.#remember(name);
    const context = this.#layers[name];
    const erases = this.tool === "eraser" || (this.tool === "mask" && this.unmasking);
    context.globalCompositeOperation = erases ? "destination-out" : "source-over";
    context.strokeStyle = name === "mask" ? MASK : this.colour;
    context.lineCap = context.lineJoin = "round";
    this.#stroke = { context, pointer, last: point, middle: point };
    this.#extend(point);
  }

  /** By the middles of the lines between points, which are smooth where those have corners. */
  #extend(point) {
    const { context, last, middle } = this.#stroke;
    const next = { x: (last.x + point.x) / 2, y: (last.y + point.y) / 2 };
    context.lineWidth = this.#pixels() * point.pressure;
    context.beginPath();
    context.moveTo(middle.x, middle.y);
    context.quadraticCurveTo(last.x, last.y, next.x, next.y);
    context.lineTo(next.x + 0.01, next.y); // a dot, where the curve has no length
    context.stroke();
    Object.assign(this.#stroke, { last: point, middle: next });
  }

  #end() {
    const { context, last } = this.#stroke;
    this.#extend(last);
    context.globalCompositeOperation = "source-over";
    this.#stroke = null;
    this.onChange();
  }

  #pixels() {
    return (this.width / 1000) * Math.max(this.#canvas.width, this.#canvas.height);
  }

  #showRing({ x, y }, hidden) {
    const { width, height } = this.#canvas;
    const shown = this.tool === "fill" ? 6 : this.#pixels();
    this.#ring.hidden = hidden;
    this.#ring.style.cssText = `left:${(x / width) * 100}%;top:${(y / height) * 100}%;width:${
      (shown / width) * 100
    }%`;
  }

  // The keyboard: its pen is moved by the arrows, and set down and lifted by the space bar.

  #key(event) {
    const step = this.#canvas.width / (event.shiftKey ? 10 : 50);
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const { width, height } = this.#canvas;
    this.#pen ??= { x: width / 2, y: height / 2, pressure: 1 };
    if (moves[event.key]) {
      const [dx, dy] = moves[event.key];
      const x = Math.min(width, Math.max(0, this.#pen.x + dx * step));
      const y = Math.min(height, Math.max(0, this.#pen.y + dy * step));
      this.#pen = { x, y, pressure: 1 };
      if (this.#stroke?.pointer === "keyboard") {
        this.#extend(this.#pen);
        this.onStroke();
      }
    } else if (event.key === " " || event.key === "Enter") {
      if (this.#stroke) this.#leaveKeyboard();
      else if (this.tool === "fill") this.#fill(this.#pen);
      else this.#begin(this.#pen, "keyboard");
    } else {
      return;
    }
    event.preventDefault();
    this.#showRing(this.#pen, false);
  }

  #leaveKeyboard() {
    if (this.#stroke?.pointer === "keyboard") this.#end();
  }

  // Fill: the neighbours of a pixel that are of about its colour

  #fill({ x, y }) {
    this.#remember("drawing");
    const context = this.#layers.drawing;
    const { width, height } = context.canvas;
    const area = areaOf(context, Math.min(width - 1, Math.floor(x)), Math.min(height - 1, Math.floor(y)));
    const paint = blank(width, height);
    const image = paint.createImageData(width, height);
    const [red, green, blue] = channels(this.colour);
    for (let at = 0; at < area.length; at++) {
      if (area[at]) image.data.set([red, green, blue, 255], at * 4);
    }
    paint.putImageData(image, 0, 0);
    // A pixel to every side, beneath the soft edges of strokes.
    for (const [dx, dy] of [[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.drawImage(paint.canvas, dx, dy);
    }
    this.onChange();
  }
}

/** 1 for each pixel that is filled from (x, y). */
function areaOf(context, x, y) {
  const { width, height } = context.canvas;
  const { data } = context.getImageData(0, 0, width, height);
  const area = new Uint8Array(width * height);
  const start = (y * width + x) * 4;
  const from = data.slice(start, start + 4);
  const alike = (at) => {
    for (let channel = 0; channel < 4; channel++) {
      if (Math.abs(data[at * 4 + channel] - from[channel]) > TOLERANCE) return false;
    }
    return true;
  };
  const waiting = [y * width + x];
  while (waiting.length) {
    const at = waiting.pop();
    if (area[at]) continue;
    const row = at - (at % width);
    let left = at;
    let right = at;
    while (left > row && !area[left - 1] && alike(left - 1)) left--;
    while (right < row + width - 1 && !area[right + 1] && alike(right + 1)) right++;
    area.fill(1, left, right + 1);
    for (const other of [-width, width]) {
      let open = false;
      for (let each = left + other; each <= right + other; each++) {
        const inside = each >= 0 && each < area.length && !area[each] && alike(each);
        if (inside && !open) waiting.push(each);
        open = inside;
      }
    }
  }
  return area;
}

function channels(colour) {
  return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
}

function blank(width, height) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  return canvas.getContext("2d", { willReadFrequently: true });
}

function snapshot({ canvas }) {
  const copy = blank(canvas.width, canvas.height);
  copy.drawImage(canvas, 0, 0);
  return copy.canvas;
}

/** Put a picture into a layer in place of what is there, its middle, as large as fills it. */
function cover(context, picture) {
  const { width, height } = context.canvas;
  const scale = Math.max(width / picture.width, height / picture.height);
  const [w, h] = [picture.width * scale, picture.height * scale];
  context.clearRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, (width - w) / 2, (height - h) / 2, w, h);
}

function flattened(canvas, ground, width, height) {
  const context = blank(width, height);
  context.fillStyle = ground;
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(canvas, 0, 0, width, height);
  return new Promise((resolve) => context.canvas.toBlob(resolve, "image/png"));
}

function hasPixels({ canvas }) {
  const small = blank(128, 128);
  small.imageSmoothingQuality = "high";
  small.drawImage(canvas, 0, 0, 128, 128);
  const { data } = small.getImageData(0, 0, 128, 128);
  for (let at = 3; at < data.length; at += 4) if (data[at] > 3) return true;
  return false;
}
