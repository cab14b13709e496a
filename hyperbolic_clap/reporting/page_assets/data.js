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
  return Number.isInteger(value) ? String(value) : value.toFixed(digits);
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

const branchNames = [...new Set(data.branches)].filter(Boolean).sort();
function branchColour(branch) {
  const order = ["Human sounds", "Animal", "Music", "Sounds of things", "Natural sounds", "Source-ambiguous sounds",
    "Channel, environment and background"];
  const i = order.indexOf(branch);
  return `--b${i < 0 ? 7 : i}`;
}

function colour(variable) {
  return getComputedStyle(document.documentElement).getPropertyValue(variable).trim();
}

// Whether the best class of clip i in file f is true; null where there is no saying.
function right(f, i) {
  const best = data.clips.best[f][i], truth = data.clips.truth[i];
  return best && best.length && truth.length ? truth.includes(best[0]) : null;
}
