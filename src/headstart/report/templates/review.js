"use strict";
const content = JSON.parse(document.getElementById("content").textContent);
const { classes, images, key } = content;
const letters = "1234567890bcefghijlmnopqrtvwxyz"; // without a d k s u, which are commands
const keyed = classes.length <= letters.length;
const list = document.getElementById("images"), finder = document.getElementById("finder");
const find = document.getElementById("find"), matches = document.getElementById("matches");
const known = new Set([...classes, "drop"]), decisions = new Map();
let current = 0, chosen = 0, found = [], cards = [];

try { // Some browsers keep nothing for a page that was opened from a file.
  for (const [name, label] of Object.entries(JSON.parse(localStorage.getItem(key)) || {})) {
    if (known.has(label) && images.some(image => image.name === name)) decisions.set(name, label);
  }
} catch { /* nothing was kept */ }

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function show(i) {
  const image = images[i], decision = decisions.get(image.name), card = cards[i];
  card.classList.toggle("decided", decision !== undefined);
  card.lastChild.textContent = decision === undefined ? "" : decision === image.label ? "keep" : decision === "drop" ? "drop" : "→ " + decision;
  card.setAttribute("aria-label", `${image.name}, labeled ${image.label}. ${image.why}. ${card.lastChild.textContent}`);
  const changed = images.filter(one => decisions.has(one.name) && decisions.get(one.name) !== one.label).length;
  document.getElementById("status").textContent = `${decisions.size} of ${images.length} decided, ${changed} to change`;
}

function go(i) {
  if (!images.length) return;
  cards[current].tabIndex = -1;
  current = Math.max(0, Math.min(images.length - 1, i));
  cards[current].tabIndex = 0;
  cards[current].focus();
}

function decide(label) {
  if (!images.length) return;
  const { name } = images[current];
  if (label === undefined) decisions.delete(name); else decisions.set(name, label);
  try { localStorage.setItem(key, JSON.stringify(Object.fromEntries(decisions))); } catch { /* kept until the page is closed */ }
  show(current);
  if (label !== undefined) go(current + 1);
}

function cell(text) { return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text; }

function save() {
  const rows = images.filter(image => decisions.has(image.name)).map(image => cell(image.name) + "," + cell(decisions.get(image.name)));
  const link = element("a");
  link.href = URL.createObjectURL(new Blob(["file_name,label\n" + rows.map(row => row + "\n").join("")], { type: "text/csv" }));
  link.download = "labels.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function search() {
  const wanted = find.value.trim().toLowerCase();
  const begins = classes.filter(name => name.toLowerCase().startsWith(wanted));
  found = [...begins, ...classes.filter(name => !begins.includes(name) && name.toLowerCase().includes(wanted))].slice(0, 8);
  chosen = Math.max(0, Math.min(chosen, found.length - 1));
  matches.replaceChildren(...found.map((name, i) => {
    const item = element("li", name);
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", String(i === chosen));
    item.addEventListener("click", () => { close(); decide(name); });
    return item;
  }));
}

function open() { finder.hidden = false; find.value = ""; chosen = 0; search(); find.focus(); }
function close() { finder.hidden = true; go(current); }

find.addEventListener("input", () => { chosen = 0; search(); });
find.addEventListener("keydown", event => {
  event.stopPropagation();
  if (event.key === "Escape") close();
  else if (event.key === "Enter") { const name = found[chosen]; close(); if (name !== undefined) decide(name); }
  else if (event.key === "ArrowDown") { chosen += 1; search(); }
  else if (event.key === "ArrowUp") { chosen -= 1; search(); }
  else return;
  event.preventDefault();
});

function columns() { return getComputedStyle(list).gridTemplateColumns.split(" ").length; }

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || (event.target.tagName === "BUTTON" && ["Enter", " "].includes(event.key))) return;
  const image = images[current], at = letters.indexOf(event.key);
  const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns(), ArrowUp: -columns(), Home: -images.length, End: images.length };
  if (event.key in moves) go(current + moves[event.key]);
  else if (event.key === "k" && image) decide(image.label);
  else if (event.key === "d") decide("drop");
  else if (event.key === "u" || event.key === "Backspace") decide(undefined);
  else if ((event.key === "Enter" || event.key === "a") && image && image.suggested) decide(image.suggested);
  else if (event.key === "/") open();
  else if (event.key === "s") save();
  else if (keyed && at >= 0 && at < classes.length) decide(classes[at]);
  else return;
  event.preventDefault();
});
document.getElementById("save").addEventListener("click", save);

if (keyed) document.getElementById("classes").append(...classes.flatMap((name, i) => [element("kbd", letters[i]), " " + name + "  "]));
cards = images.map((image, i) => {
  const card = element("li"), picture = element("img");
  picture.src = image.uri;
  picture.alt = "";
  card.tabIndex = -1;
  card.append(picture, element("p", image.label, "label"), element("p", image.why), element("p", image.name, "soft"), element("p", "", "decision"));
  card.addEventListener("focus", () => { cards[current].tabIndex = -1; current = i; card.tabIndex = 0; });
  return card;
});
list.append(...cards);
images.forEach((_, i) => show(i));
if (images.length) go(0); else document.getElementById("status").textContent = "There is nothing to review.";
