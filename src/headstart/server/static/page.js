// The page at /: sends images to the server that it came from, and shows what was predicted. Nothing is kept.

const SENDING = 4; // requests at one time
const SHOWN = 5; // classes for each image
const KINDS = {
  all: ["All", () => true],
  sure: ["Sure", (row) => row.found?.unsure === false && !row.found.unfamiliar],
  unsure: ["Not sure", (row) => row.found?.unsure],
  unfamiliar: ["Unfamiliar", (row) => row.found?.unfamiliar],
  failed: ["Failed", (row) => row.error],
};
const at = (id) => document.getElementById(id);
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const rows = [];
const queue = [];
let models = [];
let token = "";
let sending = 0;
let kind = "all";

class Refused extends Error {}

const modelOf = (row) => models.find((model) => model.name === row.model) ?? {};

const percent = (share) => {
  if (share >= 0.9995) return ">99.9%";
  if (share < 0.0005) return "<0.1%";
  return `${(100 * share).toFixed(1)}%`;
};

const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

// Asks the server again and again while it can't be reached or has no room; other errors are thrown as Refused.
async function askServer(path, options = {}) {
  for (let pause = 500; ; pause = Math.min(2 * pause, 5000)) {
    let answer;
    try {
      const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
      answer = await fetch(path, { ...options, headers, cache: "no-store" });
    } catch {
      trouble("The server does not answer. This page goes on by itself as soon as it does.");
    }
    if (answer && answer.status !== 503) {
      const body = await answer.json().catch(() => ({}));
      if (answer.status === 401) {
        await askForToken();
        continue;
      }
      trouble("");
      if (answer.ok || body.predictions) return body;
      throw new Refused(body.error || `the server answered with status ${answer.status}`);
    }
    await wait(answer ? 1000 * Number(answer.headers.get("Retry-After") || 1) : pause);
  }
}

// A page that holds its classifier has no server to ask.
const ask = globalThis.headstart?.ask ?? askServer;

let asked = null;
function askForToken() {
  token = "";
  at("access").hidden = false;
  asked ??= new Promise((done) => {
    at("access").onsubmit = (event) => {
      event.preventDefault();
      token = at("token").value.trim();
      at("access").hidden = true;
      asked = null;
      done();
    };
  });
  return asked;
}

function trouble(words) {
  if (at("trouble").textContent !== words) at("trouble").textContent = words;
  at("trouble").hidden = !words;
}

// Images in, from wherever they come.

function take(files, whence) {
  const taken = [...files];
  if (!taken.length) {
    trouble(`There is no image in what was ${whence}. Drop, paste or choose image files.`);
    return;
  }
  trouble("");
  const added = taken.map((file) => {
    const row = { name: file.name || "pasted image", file, url: URL.createObjectURL(file) };
    row.card = element("li", { className: "card" });
    draw(row);
    return row;
  });
  rows.push(...added);
  queue.push(...added);
  at("gallery").prepend(...added.map((row) => row.card));
  send();
  show();
}

function send() {
  while (sending < SENDING && queue.length) {
    sending += 1;
    classify(queue.shift()).finally(() => {
      sending -= 1;
      send();
    });
  }
}

async function classify(row, wanted = {}) {
  await known;
  row.model ??= at("model").value;
  try {
    const content = await row.file.arrayBuffer().catch(() => {
      throw new Refused("it can't be read; a folder can't be dropped, but the images in it can");
    });
    const query = new URLSearchParams({ top: SHOWN, model: row.model, ...wanted });
    const headers = { "Content-Type": row.file.type.startsWith("image/") ? row.file.type : "application/octet-stream" };
    const body = await ask(`/predict?${query}`, { method: "POST", body: content, headers });
    const [found] = body.predictions;
    if (found.error) row.error = found.error;
    else row.found = found;
  } catch (error) {
    if (row.found) trouble(`There is no evidence for ${row.name}: ${error.message ?? error}.`);
    else row.error = error.message ?? String(error);
  }
  if (row.removed) return;
  draw(row);
  show();
}

// Asked for one image at a time, since few people want to see it of many.
async function toggleEvidence(row) {
  row.explained = !row.explained;
  row.card.querySelector("button").setAttribute("aria-busy", "true");
  if (!row.explained || row.found.evidence) draw(row);
  else await classify(row, { evidence: true });
  if (row.removed) return;
  if (document.activeElement === document.body) row.card.querySelector("button")?.focus(); // the button was drawn again
  at("told").textContent = row.card.querySelector(".why")?.textContent ?? "The evidence is hidden.";
}

// What was found, as a card and as a list of cards.

function draw(row) {
  row.image ??= shownImage(row);
  const frame = element("div", { className: "frame" }, row.image);
  const parts = [frame, element("h3", { textContent: row.name, title: row.name })];
  const doubt = (words) => parts.push(element("p", { className: "doubt", textContent: words }));
  row.card.classList.toggle("failed", Boolean(row.error));
  if (row.error) {
    parts.push(element("p", { className: "verdict", textContent: "Not classified" }));
    doubt(`${row.error[0].toUpperCase()}${row.error.slice(1)}.`);
  } else if (row.found) {
    const { label, probability, unsure, unfamiliar, top } = row.found;
    parts.push(element("p", { className: "verdict" }, `${label} `, element("small", { textContent: percent(probability) })));
    if (unsure) doubt("Not sure");
    if (unfamiliar) doubt("Unlike what the model was trained on: it may be none of its classes.");
    parts.push(element("ol", { className: "bars" }, ...top.map(bar)));
    if (modelOf(row).evidence) parts.push(evidence(row, frame));
  } else {
    parts.push(element("p", { className: "verdict soft", textContent: "Waiting" }));
  }
  row.card.replaceChildren(...parts);
}

function shownImage(row) {
  const image = element("img", { src: row.url, alt: "", loading: "lazy" });
  image.onload = () => {
    image.classList.toggle("small", image.naturalWidth <= 64);
    if (row.explained) draw(row);
  };
  image.onerror = () => {
    image.hidden = true;
  };
  return image;
}

// A button that lays over the image what speaks for its class, and says in words where that is.
function evidence(row, frame) {
  const { label, evidence: found } = row.found;
  const about = element("span", { className: "unseen", textContent: ` for ${label} in ${row.name}` });
  const button = element("button", { type: "button", onclick: () => toggleEvidence(row) }, "Evidence", about);
  button.setAttribute("aria-pressed", String(Boolean(row.explained && found)));
  const place = element("div", { className: "evidence" }, button);
  if (row.explained && found) {
    place.append(element("p", { className: "why", textContent: evidenceWords(label, found) }));
    if (row.image.naturalWidth) frame.append(heat(row.image, found));
    frame.classList.add("explained");
  }
  return place;
}

function evidenceWords(label, { grid, box: [top, left, height, width] }) {
  const cells = grid.flatMap((line, y) => line.map((value, x) => [value, (x + 0.5) / line.length, (y + 0.5) / grid.length]));
  const sum = cells.reduce((total, [value]) => total + value, 0);
  const seen = height < 0.99 || width < 0.99 ? " Dark: not looked at." : "";
  if (!sum) return `No part of the image speaks for ${label}; the other classes fit even less.${seen}`;
  if (cells.filter(([value]) => value > 0.5).length > cells.length / 2) return `Red: evidence for ${label}, all over the image.${seen}`;
  const middle = (axis) => cells.reduce((total, cell) => total + cell[0] * cell[axis], 0) / sum;
  const third = (names, share) => names[Math.min(2, Math.max(0, Math.floor(3 * share)))];
  const row = third(["top", "middle", "bottom"], top + height * middle(2));
  const column = third(["left", "centre", "right"], left + width * middle(1));
  const where = `${row} ${column}`.replace("middle centre", "centre");
  return `Red: evidence for ${label}, mostly at the ${where}.${seen}`;
}

// Of the image's proportions, so that it is fitted into the frame as the image is.
function heat(image, { grid, box: [top, left, height, width] }) {
  const cells = new ImageData(grid[0].length, grid.length);
  grid.flat().forEach((value, place) => cells.data.set([255, 0, 60, Math.round(160 * value)], 4 * place));
  const small = new OffscreenCanvas(cells.width, cells.height);
  small.getContext("2d").putImageData(cells, 0, 0);
  const scale = 320 / Math.max(image.naturalWidth, image.naturalHeight);
  const [across, down] = [image.naturalWidth, image.naturalHeight].map((length) => Math.ceil(length * scale));
  const over = element("canvas", { width: across, height: down, ariaHidden: "true" });
  const [paper, box] = [over.getContext("2d"), [left * across, top * down, width * across, height * down]];
  paper.fillStyle = "rgb(0 0 0 / 55%)";
  paper.fillRect(0, 0, across, down);
  paper.clearRect(...box);
  paper.drawImage(small, ...box);
  return over;
}

function bar([name, probability]) {
  const fill = element("i");
  fill.style.width = `${100 * probability}%`;
  const track = element("span", { className: "track" }, fill);
  track.setAttribute("aria-hidden", "true");
  return element(
    "li",
    {},
    element("span", { className: "name", textContent: name, title: name }),
    track,
    element("span", { className: "figure", textContent: percent(probability) }),
  );
}

function show() {
  at("results").hidden = !rows.length;
  at("gallery").classList.toggle("only", rows.length === 1);
  drawFilters();
  const wanted = at("label").value;
  let shown = 0;
  for (const row of rows) {
    const fits = KINDS[kind][1](row) && (!wanted || row.found?.label === wanted);
    row.card.hidden = !fits;
    shown += Boolean(fits);
  }
  at("none").hidden = shown > 0;
  const waiting = rows.filter((row) => !row.found && !row.error).length;
  const meant = new Set(rows.filter((row) => row.found?.unsure).map((row) => modelOf(row).unsure));
  at("doubts").textContent = [...meant].filter(Boolean).map((why) => `Not sure: ${why}.`).join(" ");
  at("doubts").hidden = !meant.size;
  const failed = rows.filter((row) => row.error).length;
  const [only] = rows;
  const classified = `${rows.length - waiting - failed} of ${rows.length} image${rows.length === 1 ? "" : "s"} classified${failed ? `; ${failed} failed` : ""}.`;
  const words = rows.length === 1 && only.found ? `${only.name}: ${said(only)}` : classified;
  if (!waiting && rows.length) at("told").textContent = words;
}

const said = (row) => [...row.card.querySelectorAll(".verdict, .doubt")].map((part) => part.textContent).join(" ");

function drawFilters() {
  for (const [name, [title, fits]] of Object.entries(KINDS)) {
    const count = rows.filter(fits).length;
    let choice = at(`kind-${name}`);
    if (!choice) {
      choice = element("input", { type: "radio", name: "kind", id: `kind-${name}`, value: name, checked: name === kind });
      choice.onchange = () => {
        kind = name;
        show();
      };
      at("filters").append(element("label", { className: "choice" }, choice, element("span")));
    }
    choice.nextSibling.textContent = `${title} ${count}`;
    choice.parentElement.hidden = name !== "all" && name !== kind && !count;
  }
  const seen = [...new Set(rows.filter((row) => row.found).map((row) => row.found.label))].sort();
  const options = [...at("label").options].slice(1).map((option) => option.value);
  if (seen.join("\n") !== options.join("\n")) {
    const before = at("label").value;
    at("label").replaceChildren(new Option("all", ""), ...seen.map((label) => new Option(label, label)));
    at("label").value = seen.includes(before) ? before : "";
  }
}

// A cell that a spreadsheet would take for a formula gets an apostrophe before it.
const cell = (value) => {
  const text = String(value ?? "");
  return `"${(/^[=+\-@\t\r]/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
};

function download() {
  const head = ["file", "label", "probability", "unsure", "unfamiliar", "error"];
  const lines = rows
    .filter((row) => !row.card.hidden)
    .map(({ name, found = {}, error }) => [name, found.label, found.probability, found.unsure, found.unfamiliar, error]);
  const text = [head, ...lines].map((line) => line.map(cell).join(",")).join("\r\n");
  const url = URL.createObjectURL(new Blob(["\ufeff", text, "\r\n"], { type: "text/csv" }));
  element("a", { href: url, download: "predictions.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

function clear() {
  queue.length = 0;
  for (const row of rows.splice(0)) {
    row.removed = true;
    row.card.remove();
    URL.revokeObjectURL(row.url);
  }
  kind = "all";
  at("kind-all").checked = true;
  at("told").textContent = "Cleared.";
  show();
  at("choose").focus();
}

function describe() {
  const model = models.find((one) => one.name === at("model").value) ?? models[0];
  const named = model.classes.slice(0, 12).join(", ");
  const more = model.classes.length > 12 ? ` and ${model.classes.length - 12} more` : "";
  at("title").textContent = `Classify images with ${model.name}`;
  const blind = model.evidence ? "" : " It can't show where the evidence lies in an image.";
  const naive = model.novelty ? "" : " It can't recognise images unlike those that it was trained on, and names one of these classes for any image.";
  at("about").textContent = `It knows ${model.classes.length} classes: ${named}${more}.${naive}${blind}`;
}

async function begin() {
  if (matchMedia("(pointer: coarse)").matches) at("how").textContent = "Choose images, or take a photo";
  for (const input of [at("choose"), at("photo")]) {
    input.onchange = () => {
      take(input.files, "chosen");
      input.value = "";
    };
  }
  document.addEventListener("paste", (event) => {
    if (event.target.closest?.("input")) return;
    take(event.clipboardData.files, "pasted");
  });
  let depth = 0;
  const over = (change) => {
    depth = Math.max(0, depth + change);
    document.body.classList.toggle("over-page", depth > 0);
  };
  document.addEventListener("dragenter", () => over(1));
  document.addEventListener("dragleave", () => over(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    over(0);
    take(event.dataTransfer.files, "dropped");
  });
  at("label").onchange = show;
  at("download").onclick = download;
  at("clear").onclick = clear;
  at("model").onchange = describe;
  models = (await ask("/models")).models;
  at("model").replaceChildren(...models.map((model) => new Option(model.name, model.name)));
  at("models").hidden = models.length < 2;
  describe();
}

// Resolves once the models are known, without which no image can be sent.
const known = begin().catch((error) => trouble(String(error.message ?? error)));
