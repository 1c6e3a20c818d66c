// The server's side: OpenAI's images API, its stream of events, and its errors.

const KEY = "lcm-key";

/** What went wrong, in the server's words; `retryAfter` in seconds where trying again may help. */
export class ServerError extends Error {
  constructor(message, { status = 0, retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

export function setKey(key) {
  sessionStorage.setItem(KEY, key);
}

async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    throw error.name === "AbortError" ? error : unreachable();
  }
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  const after = Number(response.headers.get("retry-after"));
  throw new ServerError(error?.message ?? `The server answered ${response.status}.`, {
    status: response.status,
    retryAfter: response.status === 429 || response.status === 503 ? after || 2 : null,
  });
}

function unreachable() {
  return new ServerError("The server does not answer. Does lcm serve still run?", { retryAfter: 2 });
}

/** The model that is served: its sizes, defaults and limits. */
export async function model() {
  const { data } = await (await ask("v1/models")).json();
  return data[0];
}

/**
 * One picture: {blob, seed}. `fields` are those of the API; with `image` (a PNG blob) it is made
 * from that, within `mask`. Calls onPartial({blob, step, steps}) for each preview.
 */
export async function picture(fields, { image, mask, signal, onPartial }) {
  const asked = { ...fields, stream: true };
  const options = { method: "POST", signal };
  if (image) {
    options.body = form({ ...asked, image, mask });
  } else {
    options.body = JSON.stringify(asked);
    options.headers = { "Content-Type": "application/json" };
  }
  const response = await ask(image ? "v1/images/edits" : "v1/images/generations", options);
  for await (const { name, data } of events(response.body)) {
    if (data.error) throw new ServerError(data.error.message);
    const blob = png(data.b64_json);
    if (name.endsWith(".completed")) return { blob, seed: data.seed };
    onPartial({ blob, step: data.step, steps: data.steps });
  }
  throw unreachable();
}

function form(values) {
  const body = new FormData();
  for (const [name, value] of Object.entries(values)) {
    if (value instanceof Blob) body.append(name, value, `${name}.png`);
    else if (value !== undefined && value !== null) body.append(name, String(value));
  }
  return body;
}

function png(text) {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let at = 0; at < bytes.length; at++) bytes[at] = characters.charCodeAt(at);
  return new Blob([bytes], { type: "image/png" });
}

/** Server-sent events of a stream: {name, data}, data being JSON. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  const parts = [];
  while (true) {
    let chunk;
    try {
      chunk = await reader.read();
    } catch (error) {
      throw error.name === "AbortError" ? error : unreachable();
    }
    if (chunk.done) return;
    parts.push(chunk.value);
    if (!chunk.value.includes("\n\n") && !chunk.value.startsWith("\n")) continue;
    const blocks = parts.join("").split("\n\n");
    parts.length = 0;
    parts.push(blocks.pop());
    for (const block of blocks) {
      const [, name] = /^event: (.*)$/m.exec(block) ?? [];
      const [, data] = /^data: (.*)$/m.exec(block) ?? [];
      if (data) yield { name, data: JSON.parse(data) };
    }
  }
}
