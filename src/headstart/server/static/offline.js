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
  return async ({ data, width, height }) => {
    const outputs = await session.run({ images: new ort.Tensor("uint8", data, [1, height, width, 3]) });
    return [...outputs.probabilities.data];
  };
}

// One image at a time: a session can't run twice at once.
let last = Promise.resolve();
function probabilities(image) {
  runtime ??= opened();
  last = last.catch(() => {}).then(async () => (await runtime)(image));
  return last;
}

// An image file as upright RGB; transparency is laid on white.
async function decoded(content) {
  const bitmap = await createImageBitmap(new Blob([content])).catch(() => {
    throw new Error("it is no image that this browser can read");
  });
  const { width, height } = bitmap;
  const drawing = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  drawing.fillStyle = "white";
  drawing.fillRect(0, 0, width, height);
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
  return { label, probability, unsure, unfamiliar: null, top: ranked };
}

async function ask(path, { body } = {}) {
  if (path === "/models") {
    const model = { name: config.name, classes: config.label_names, sure_from: config.abstention?.threshold ?? null };
    return { models: [model] };
  }
  const top = Number(new URLSearchParams(path.split("?")[1]).get("top"));
  const image = square(await decoded(body), config.image);
  const found = prediction(await probabilities(image));
  return { predictions: [{ ...found, top: found.top.slice(0, top) }] };
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
