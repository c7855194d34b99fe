// Answers page.js in place of a server: the classifier and its runtime lie in this very page. Nothing is sent anywhere.

const stored = (id) => document.getElementById(id).textContent;
const bytesOf = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
const unpacked = async (id) => {
  const unzipped = new Blob([bytesOf(stored(`packed-${id}`))]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(unzipped).arrayBuffer());
};
const config = JSON.parse(stored("config"));

let runtime = null;
async function opened() {
  const code = URL.createObjectURL(new Blob([await unpacked("runtime")], { type: "text/javascript" }));
  const ort = await import(code);
  ort.env.wasm.numThreads = 1; // threads need a page that comes from a server
  ort.env.wasm.wasmBinary = await unpacked("runtime-wasm");
  const session = await ort.InferenceSession.create(await unpacked("model"));
  return ({ data, width, height }, outputs) => session.run({ images: new ort.Tensor("uint8", data, [1, height, width, 3]) }, outputs);
}

// One image at a time: a session can't run twice at once.
let last = Promise.resolve();
function computed(image, ...outputs) {
  runtime ??= opened();
  last = last.catch(() => {}).then(async () => (await runtime)(image, outputs));
  return last;
}
const probabilities = async (image) => [...(await computed(image, "probabilities")).probabilities.data];

// The orientation that EXIF notes in a WebP file. Not every browser heeds it, so in the bytes it becomes upright for all of them.
function takeOrientation(bytes) {
  const view = new DataView(bytes.buffer);
  const word = (at) => String.fromCharCode(...bytes.subarray(at, at + 4));
  if (word(0) !== "RIFF" || word(8) !== "WEBP") return 1;
  try {
    let at = 12;
    while (word(at) !== "EXIF") at += 8 + 2 * Math.ceil(view.getUint32(at + 4, true) / 2);
    const start = at + (word(at + 8) === "Exif" ? 14 : 8);
    const little = word(start).startsWith("II");
    let entry = start + view.getUint32(start + 4, little) + 2;
    const end = entry + 12 * view.getUint16(entry - 2, little);
    while (entry < end && view.getUint16(entry, little) !== 0x0112) entry += 12;
    const found = entry < end ? view.getUint16(entry + 8, little) : 1;
    if (entry < end) view.setUint16(entry + 8, 1, little);
    return found;
  } catch {
    return 1; // there is no EXIF, or it is damaged
  }
}

// An image file as upright RGB; transparency is laid on white.
async function decoded(content) {
  const bytes = new Uint8Array(await new Response(content).arrayBuffer());
  const turn = takeOrientation(bytes);
  const bitmap = await createImageBitmap(new Blob([bytes])).catch(() => {
    throw new Error("it is no image that this browser can read");
  });
  const { width: w, height: h } = bitmap;
  const [width, height] = turn >= 5 && turn <= 8 ? [h, w] : [w, h];
  const turns = {
    2: [-1, 0, 0, 1, w, 0],
    3: [-1, 0, 0, -1, w, h],
    4: [1, 0, 0, -1, 0, h],
    5: [0, 1, 1, 0, 0, 0],
    6: [0, 1, -1, 0, h, 0],
    7: [0, -1, -1, 0, h, w],
    8: [0, -1, 1, 0, 0, w],
  };
  const drawing = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  drawing.fillStyle = "white";
  drawing.fillRect(0, 0, width, height);
  drawing.imageSmoothingEnabled = false;
  drawing.setTransform(...(turns[turn] ?? [1, 0, 0, 1, 0, 0]));
  drawing.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = drawing.getImageData(0, 0, width, height);
  const pixels = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < data.length; from += 4, to += 3) {
    pixels[to] = data[from];
    pixels[to + 1] = data[from + 1];
    pixels[to + 2] = data[from + 2];
  }
  return { data: pixels, width, height };
}

function prediction(found) {
  const ranked = found.map((probability, place) => [config.label_names[place], probability]);
  ranked.sort((a, b) => b[1] - a[1]);
  const [label, probability] = ranked[0];
  const unsure = config.abstention ? !(config.abstention.threshold !== null && probability >= config.abstention.threshold) : null;
  return { label, probability, unsure, top: ranked };
}

// How unlike the training images an image is, from what the head sees of it; bundle/novelty.py of headstart has the formula.
async function scorer() {
  const { threshold, ...parts } = JSON.parse(new TextDecoder().decode(await unpacked("novelty")));
  const floats = (name) => new Float32Array(bytesOf(parts[name]).buffer);
  const [centre, axes, projection, middle, means, weights, scale] = ["centre", "axes", "projection", "middle", "means", "weights", "scale"].map(floats);
  const width = middle.length;
  const sum = (count, value) => {
    let total = 0;
    for (let place = 0; place < count; place += 1) total += value(place);
    return total;
  };
  return (features, logits) => {
    const size = features.length;
    const length = Math.max(Math.hypot(...features), 1e-12);
    const direction = features.map((value) => value / length);
    const depth = axes.length / size;
    const centred = direction.map((value, i) => value - centre[i]);
    const along = (axis) => sum(size, (i) => centred[i] * axes[i * depth + axis]);
    const residual = Math.sqrt(Math.max(0, sum(size, (i) => centred[i] ** 2) - sum(depth, (axis) => along(axis) ** 2)));
    const place = middle.map((value, axis) => sum(size, (i) => direction[i] * projection[i * width + axis]) - value);
    const distance = (row) => sum(width, (axis) => (place[axis] - means[row * width + axis]) ** 2);
    const nearest = Math.min(...config.label_names.map((_, row) => distance(row)));
    const mahalanobis = nearest - sum(width, (axis) => weights[axis] * place[axis] ** 2);
    const largest = Math.max(...logits);
    const energy = -largest - Math.log(logits.reduce((total, logit) => total + Math.exp(logit - largest), 0));
    const found = [residual, mahalanobis, energy];
    const novelty = sum(3, (part) => (found[part] - scale[2 * part]) / scale[2 * part + 1]);
    return { novelty, unfamiliar: novelty > threshold };
  };
}
let scoring = null;
const scored = async (features, logits) => (await (scoring ??= scorer()))(features, logits);

// What the server says of evidence: shares of the largest value, and the part of the image that they cover.
function evidence({ data, dims }, { width, height }, { fit, crop_pct }) {
  const largest = Math.max(1e-12, ...data);
  const shares = [...data].map((value) => Math.max(0, value) / largest);
  const grid = Array.from({ length: dims[1] }, (_, row) => shares.slice(row * dims[2], (row + 1) * dims[2]));
  const side = { crop: Math.min(width, height), pad: Math.max(width, height) }[fit];
  const [tall, wide] = [side ?? height, side ?? width].map((length, axis) => (crop_pct * length) / [height, width][axis]);
  return { grid, box: [(1 - tall) / 2, (1 - wide) / 2, tall, wide] };
}

async function ask(path, { body } = {}) {
  if (path === "/models") {
    const { name, label_names: classes, evidence: has } = config;
    return { models: [{ name, classes, unsure: config.unsure, novelty: config.novelty, evidence: has }] };
  }
  const query = new URLSearchParams(path.split("?")[1]);
  const image = await decoded(body);
  const outputs = ["probabilities", ...(query.get("evidence") ? ["evidence"] : []), ...(config.novelty ? ["features", "logits"] : [])];
  const found = await computed(square(image, config.image), ...outputs);
  const told = prediction([...found.probabilities.data]);
  if (found.features) Object.assign(told, await scored(found.features.data, [...found.logits.data]));
  if (found.evidence) told.evidence = evidence(found.evidence, image, config.image);
  return { predictions: [{ ...told, top: told.top.slice(0, Number(query.get("top"))) }] };
}

// The squares and probabilities that came with the classifier, computed again by this browser.
async function check() {
  const { squares, probabilities: wanted } = JSON.parse(new TextDecoder().decode(await unpacked("golden")));
  let largest = 0;
  for (const [place, { side, data }] of squares.entries()) {
    const found = await probabilities({ data: bytesOf(data), width: side, height: side });
    found.forEach((value, index) => (largest = Math.max(largest, Math.abs(value - wanted[place][index]))));
  }
  return { images: squares.length, largest };
}

globalThis.headstart = { ask, check };
document.getElementById("check").onclick = async () => {
  const said = document.getElementById("checked");
  said.textContent = "Checking";
  try {
    const { images, largest } = await check();
    const verdict = largest <= config.tolerance ? "This browser answers as measured" : "This browser answers differently";
    said.textContent = `${verdict}: the largest difference of a probability is ${largest.toPrecision(2)}, over ${images} images.`;
  } catch (error) {
    said.textContent = `The check failed: ${error.message ?? error}.`;
  }
};
