// The panel beside the photo: description, scene, labels at a point, legend, and the model.

import { UNSURE } from "./maps.js";

const byId = (id) => document.getElementById(id);

const METRICS = { top1: "top-1", top5: "top-5", miou: "mIoU", pixel_accuracy: "pixel accuracy", mean_accuracy: "mean accuracy" };

export const percent = (share) => (share > 0 && share < 0.005 ? "< 1 %" : `${Math.round(100 * share)} %`);

/** Returns an element with properties, attributes (`data-...`, `aria-...`) and children. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-")) made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

/** Returns a bar as SVG, because the page's policy allows no styles in elements. */
function bar(share) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "bar");
  svg.setAttribute("viewBox", "0 0 100 3");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const rect = document.createElementNS(svg.namespaceURI, "rect");
  for (const [key, value] of Object.entries({ width: 100 * share, height: 3 })) rect.setAttribute(key, value);
  svg.append(rect);
  return svg;
}

function swatch(color) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "swatch");
  svg.setAttribute("viewBox", "0 0 14 14");
  svg.setAttribute("aria-hidden", "true");
  const rect = document.createElementNS(svg.namespaceURI, "rect");
  for (const [key, value] of Object.entries({ width: 14, height: 14, fill: color })) rect.setAttribute(key, value);
  svg.append(rect);
  return svg;
}

export function showSummary(parse) {
  const lines = parse.description.split("\n");
  byId("description").replaceChildren(...lines.map((line) => element("p", { textContent: line })));
  byId("scene-section").hidden = !parse.scene;
  if (!parse.scene) return;
  const ranked = parse.scene.ranked.map(({ name, probability }) =>
    element("li", {}, element("span", { textContent: readable(name) }),
      element("span", { className: "share", textContent: percent(probability) }), bar(probability)));
  if (parse.scene.name === null) ranked.unshift(element("li", { className: "quiet", textContent: "Not sure; perhaps" }));
  byId("scene").replaceChildren(...ranked);
}

/**
 * Lists the classes of a level with their shares.
 *
 * colors: "#rrggbb" per class. onHover(label or null) and onPick(label) tell what the person does.
 */
export function showLegend(level, colors, { onHover, onPick }) {
  const rows = Object.entries(level.shares).map(([name, share]) => {
    const label = name === "unsure" ? UNSURE : level.names.indexOf(name);
    const isPlain = label === UNSURE || (level.background && label === 0);
    const button = element("button", { type: "button", "aria-pressed": "false", "data-label": label },
      swatch(isPlain ? "#9a9a9a" : colors[label]),
      element("span", { textContent: level.background && label === 0 ? "none of them" : readable(name) }),
      element("span", { className: "share", textContent: percent(share) }), bar(share));
    for (const [event, value] of [["pointerenter", label], ["pointerleave", null], ["focus", label], ["blur", null]]) {
      button.addEventListener(event, () => onHover(value));
    }
    button.addEventListener("click", () => onPick(label));
    return element("li", {}, button);
  });
  byId("legend").replaceChildren(...rows);
}

/** Marks the rows of the legend of the class under the pointer, and of the isolated one. */
export function markLegend(hovered, isolated) {
  for (const button of byId("legend").querySelectorAll("button")) {
    const label = Number(button.dataset.label);
    button.classList.toggle("hovered", label === hovered);
    button.setAttribute("aria-pressed", String(label === isolated));
  }
}

/**
 * Returns what all levels say of a pixel: one line for people, and a row per level.
 *
 * maps: level -> decoded map. parse: the answer of the server.
 */
export function readPixel(parse, maps, x, y) {
  const rows = [];
  for (const [level, map] of Object.entries(maps)) {
    const i = y * map.width + x;
    const [label, confidence] = [map.labels[i], map.confidence[i] / 255];
    const isNone = label === UNSURE || (parse[level].background && label === 0);
    rows.push({ level, name: isNone ? null : readable(parse[level].names[label]), isUnsure: label === UNSURE, confidence });
  }
  const named = (level) => rows.find((row) => row.level === level)?.name;
  const thing = [named("object"), named("part")].filter(Boolean).join(" > ");
  const others = rows.filter(({ level, name }) => name && level !== "object" && level !== "part").map(({ name }) => name);
  const said = [thing, ...others.filter((name) => !thing.endsWith(`> ${name}`))].filter(Boolean);
  const first = rows.find(({ name }) => name);
  const line = said.length ? `${said.join(", ")}, ${percent(first.confidence)}` : "Unsure";
  return { line, rows };
}

export function showPixel({ line, rows }) {
  byId("reading").textContent = line;
  byId("pixel").hidden = false;
  byId("pixel").tBodies[0].replaceChildren(...rows.map(({ level, name, isUnsure, confidence }) =>
    element("tr", {}, element("th", { scope: "row", textContent: level }),
      element("td", { textContent: name ?? (isUnsure ? "unsure" : "none") }),
      element("td", { textContent: percent(confidence) }))));
}

export function showRegion(region, parse, level) {
  const place = byId("region");
  place.hidden = region === null;
  if (region === null) return;
  const name = region.label === UNSURE ? "unsure" : readable(parse[level].names[region.label]);
  const share = percent(region.area / region.mask.length);
  place.textContent = `Region: ${name}, ${share} of the photo, mean confidence ${percent(region.confidence)}.`;
}

export function showModel(details) {
  const facts = [
    ["Name", details.name],
    ["Levels", details.levels.map(({ name, classes }) => `${name} (${classes})`).join(", ")],
    ["Terms", details.research_only ? "research and non-commercial use only" : details.license || "not stated"],
  ];
  for (const [level, scores] of Object.entries(details.card.scores ?? {})) {
    const listed = Object.entries(scores).filter(([metric]) => metric in METRICS).slice(0, 2)
      .map(([metric, value]) => `${METRICS[metric]} ${value.toFixed(2)}`);
    if (listed.length) facts.push([`Score, ${level}`, listed.join(", ")]);
  }
  const list = element("dl");
  for (const [name, value] of facts) {
    list.append(element("dt", { textContent: name }), element("dd", { textContent: value }));
  }
  const classes = Object.entries(details.taxonomy.levels).map(([level, { classes: known }]) =>
    element("details", {}, element("summary", { textContent: `The ${known.length} names of the level ${level}` }),
      element("p", { textContent: known.map(({ name }) => readable(name)).join(", ") })));
  const limits = "It knows only the names below. Where it is not sure, it says so; on photos unlike those that it has " +
    "learned from, expect mistakes.";
  byId("about").replaceChildren(element("p", { textContent: details.description }),
    element("p", { className: "quiet", textContent: limits }), list, ...classes);
}

export function readable(name) {
  return name.replaceAll("_", " ");
}
