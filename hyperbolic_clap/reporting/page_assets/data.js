"use strict";
// The data, and the few tools that every part uses. Texts of the data only ever become text nodes.
const data = JSON.parse(document.getElementById("data").textContent);
const parts = {}; // what one part does for another, by name

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

function draw(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function body(section) {
  return document.querySelector(`#${section} .body`);
}

function figure(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  return (Number.isInteger(value) ? String(value) : value.toFixed(digits)).replace("-", "−");
}

function signed(value) {
  return (value < 0 ? "−" : "+") + Math.abs(value).toFixed(4);
}

function labelled(text, control) {
  return make("label", {}, text, control);
}

function choice(options, onchange) {
  return make("select", { onchange }, options.map(([value, text]) => make("option", { value }, text)));
}

function scrolling(name, content) {
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": name }, content);
}

// One list of all class names for every field in which a class is looked for.
const classNames = make("datalist", { id: "class-names" }, data.names.map((name) => make("option", { value: name })));
document.body.append(classNames);
const classByName = new Map(data.names.map((name, i) => [name.toLowerCase(), i]));

function findClass(text) {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return -1;
  if (classByName.has(wanted)) return classByName.get(wanted);
  return data.names.findIndex((name) => name.toLowerCase().includes(wanted));
}

// Colours: AudioSet's subtrees have their own; other groups share the circle of hues, darker and lighter in turn, each
// as far from the ground as the others (oklch).
const groupNames = data.groups;
const night = matchMedia("(prefers-color-scheme: dark)");
function groupColour(group) {
  const order = ["Human sounds", "Animal", "Music", "Sounds of things", "Natural sounds", "Source-ambiguous sounds",
    "Channel, environment and background"];
  const i = order.indexOf(group), own = groupNames.indexOf(group);
  if (data.tree_name === "AudioSet's tree") return colour(`--b${i < 0 ? 7 : i}`);
  if (own < 0) return colour("--b7");
  const light = (own % 2 ? 45 : 62) + (night.matches ? 20 : 0);
  return `oklch(${light}% 0.17 ${Math.round(360 * own / groupNames.length)})`;
}

// 0 and the round steps (1, 2 or 5 times a power of ten) up to and above a value.
function ticks(top) {
  const power = 10 ** Math.floor(Math.log10(top / 4)), step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= top / 5);
  const count = Math.ceil(top / step - 1e-9);
  return Array.from({ length: count + 1 }, (_, i) => Number((i * step).toPrecision(6)));
}

// Whether any class has an ancestor in the class list, which a traversal could meet.
const climbs = Boolean(data.ancestors?.some((above) => above.length));

function colour(variable) {
  return getComputedStyle(document.documentElement).getPropertyValue(variable).trim();
}

// Whether the best class of clip i in file f is true; null where there is no saying.
function right(f, i) {
  const best = data.clips.best[f][i], truth = data.clips.truth[i];
  return best && best.length && truth.length ? truth.includes(best[0]) : null;
}
