"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = Object.fromEntries(data.columns.map((name, position) => [name, position]));
const MOST_EDGES = 120, MOST_ROWS = 500;
const SHOWN = [
  ["a", "A"], ["b", "B"], ["support", "photos"], ["known_share", "known"], ["area_share", "share of area"],
  ["area_lift", "lift of area"], ["frequency", "frequency"], ["lift", "lift in photos"],
];
const state = { pair: 0, score: "area_share", support: 0, search: "", above: false, known: false, a: null, b: null, chosen: null,
                sort: "area_share", down: true };
const find = (id) => document.getElementById(id);
const value = (relation, name) => relation.values[at[name]];
const words = (name) => name.replaceAll("_", " ");
const percent = (x) => (x > .995 && x < 1 ? "over 99" : (100 * x).toFixed(x < .01 && x > 0 ? 2 : 0)) + " %";
const times = (x) => (x < 10 ? x.toFixed(2) : x.toFixed(0)) + "×";
const isShare = (name) => ["frequency", "known_share", "area_share"].includes(name);
const isLittleKnown = (relation) => value(relation, "known_share") < data.littleKnown;
const largest = (numbers, least) => numbers.reduce((most, number) => Math.max(most, number), least);
const shown = (name, x) => name === "support" ? String(x) : isShare(name) ? percent(x) : times(x);

function element(parent, tag, attributes = {}, text = null) {
  const svg = parent instanceof SVGElement || tag === "svg";
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, content] of Object.entries(attributes)) made.setAttribute(name, content);
  if (text !== null) made.textContent = text;
  parent.append(made);
  return made;
}

function press(target, action) {
  target.addEventListener("click", action);
  target.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); action(); }
  });
}

function visible() {
  const lift = state.score === "frequency" || state.score === "lift" ? "lift_low" : "area_lift_low";
  const search = state.search.toLowerCase();
  return data.pairs[state.pair].relations.filter((relation) =>
    value(relation, "support") >= state.support
    && (!state.above || value(relation, lift) > 1)
    && (!state.known || !isLittleKnown(relation))
    && (state.a === null || value(relation, "a") === state.a)
    && (state.b === null || value(relation, "b") === state.b)
    && (!search || ["a", "b"].some((side) => words(value(relation, side)).toLowerCase().includes(search))));
}

function order(relations, name, down) {
  const sign = down ? -1 : 1;
  const compare = (x, y) => typeof x === "string" ? x.localeCompare(y) : x - y;
  return [...relations].sort((x, y) => sign * compare(value(x, name), value(y, name)));
}

function drawTabs() {
  data.pairs.forEach((pair, position) => {
    const tab = element(find("pairs"), "button", { type: "button" }, pair.pair.replace("-", " – "));
    tab.addEventListener("click", () => { openPair(position); draw(); });
  });
}

function openPair(position) {
  const relations = data.pairs[position].relations;
  Object.assign(state, { pair: position, a: null, b: null, support: data.minSupport });
  state.chosen = order(visible(), state.score, true).sort((x, y) => isLittleKnown(x) - isLittleKnown(y))[0] ?? null;
  const most = largest(relations.map((relation) => value(relation, "support")), data.minSupport);
  Object.assign(find("support"), { min: data.minSupport, max: most, value: data.minSupport });
}

function draw() {
  const focused = document.activeElement?.dataset.key;  // drawing replaces it
  [...find("pairs").children].forEach((tab, position) => tab.setAttribute("aria-current", position === state.pair));
  find("supportShown").textContent = state.support;
  const relations = visible();
  const strongest = order(relations, state.score, true).slice(0, MOST_EDGES);
  const only = [state.a, state.b].filter((name) => name !== null).map(words).join(" and ");
  find("caption").textContent = `${relations.length} of ${data.pairs[state.pair].relations.length} relations`
    + (only ? ` of ${only}` : "") + ` in ${data.pairs[state.pair].photos} photos`
    + (strongest.length < relations.length ? `; the graph shows the ${strongest.length} with the highest score` : "")
    + (relations.length > MOST_ROWS ? `; the table shows the first ${MOST_ROWS}` : "")
    + ". Choose a class, a line or a row to see more.";
  drawGraph(strongest);
  drawTable(order(relations, state.sort, state.down).slice(0, MOST_ROWS));
  drawDetail();
  if (focused) [...document.querySelectorAll("[data-key]")].find((each) => each.dataset.key === focused)?.focus({ preventScroll: true });
}

function drawGraph(relations) {
  const svg = find("graph"), width = Math.max(300, find("graphBox").clientWidth), step = 26, top = 40, bar = 8;
  svg.replaceChildren();
  const levels = data.pairs[state.pair].pair.split("-");
  const sides = ["a", "b"].map((side) => {
    const names = [...new Set(relations.map((relation) => value(relation, side)))];
    const weight = new Map(names.map((name) => [name, 0]));
    for (const relation of relations) {
      const name = value(relation, side);
      weight.set(name, Math.max(weight.get(name), value(relation, "photos_" + side)));
    }
    return { names: names.sort((x, y) => weight.get(y) - weight.get(x) || x.localeCompare(y)), weight };
  });
  // Sort the right side by the mean place of its neighbors, so that fewer lines cross.
  const place = new Map(sides[0].names.map((name, position) => [name, position]));
  const mean = new Map(sides[1].names.map((name) => {
    const own = relations.filter((relation) => value(relation, "b") === name);
    const total = own.reduce((sum, relation) => sum + value(relation, state.score), 0) || 1;
    return [name, own.reduce((sum, r) => sum + place.get(value(r, "a")) * value(r, state.score), 0) / total];
  }));
  sides[1].names.sort((x, y) => mean.get(x) - mean.get(y) || x.localeCompare(y));
  const rows = largest(sides.map((side) => side.names.length), 1), height = top + rows * step + 10;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("aria-label", `${relations.length} relations of ${levels.join(" and ")}`);
  // The labels get the room that the longest needs, at 7.5 pixels per letter, but leave some for the lines.
  const letters = Math.floor((width * .36 - 24) / 7.5);
  const room = sides.map((side, number) =>
    24 + 7.5 * Math.min(letters, largest(side.names.map((name) => words(name).length), levels[number].length)));
  const x = [room[0], width - room[1]];
  const y = sides.map((side) => new Map(side.names.map((name, position) =>
    [name, top + (position + .5) * (rows * step) / side.names.length])));
  const strongest = largest(relations.map((relation) => value(relation, state.score)), 1e-9);
  const paths = [];
  for (const relation of [...relations].reverse()) {
    const [from, to] = [y[0].get(value(relation, "a")), y[1].get(value(relation, "b"))];
    const half = (x[1] - x[0]) / 2;
    const path = element(svg, "path", {
      d: `M ${x[0]} ${from} C ${x[0] + half} ${from} ${x[1] - half} ${to} ${x[1]} ${to}`,
      "stroke-width": (1 + 11 * Math.max(0, value(relation, state.score)) / strongest).toFixed(2),
    });
    element(path, "title", {}, `${words(value(relation, "a"))} – ${words(value(relation, "b"))}: `
      + `${shown(state.score, value(relation, state.score))}, ${value(relation, "support")} photos`);
    path.addEventListener("click", () => choose(relation));
    path.classList.toggle("little", isLittleKnown(relation));
    if (relation === state.chosen) path.classList.add("lit");
    paths.push([path, relation]);
  }
  sides.forEach((side, number) => {
    const key = "ab"[number], left = number === 0;
    const anchor = left ? "end" : "start";
    element(svg, "text", { x: x[number] + (left ? -14 : 14), y: 22, "text-anchor": anchor, class: "level" }, levels[number]);
    const most = largest([...side.weight.values()], 1);
    for (const name of side.names) {
      const node = element(svg, "g", { class: `node ${key}`, tabindex: 0, role: "button", "data-key": `${key} ${name}` });
      const high = 4 + 16 * side.weight.get(name) / most;
      element(node, "rect", { x: x[number] - (left ? bar : 0), y: y[number].get(name) - high / 2, width: bar, height: high, rx: 2 });
      element(node, "text", { x: x[number] + (left ? -14 : 14), y: y[number].get(name) + 4.5, "text-anchor": anchor }, short(words(name), letters));
      element(node, "title", {}, `${words(name)}: in ${side.weight.get(name)} photos`);
      node.classList.toggle("chosen", state[key] === name);
      const light = (on) => {
        for (const [path, relation] of paths) {
          const own = value(relation, key) === name;
          path.classList.toggle("lit", on ? own : relation === state.chosen);
          path.classList.toggle("dim", on && !own);
        }
      };
      node.addEventListener("mouseenter", () => light(true));
      node.addEventListener("mouseleave", () => light(false));
      node.addEventListener("focus", () => light(true));
      node.addEventListener("blur", () => light(false));
      press(node, () => { state[key] = state[key] === name ? null : name; state.chosen = null; draw(); });
    }
  });
  if (!relations.length) element(svg, "text", { x: width / 2, y: 24, "text-anchor": "middle" }, "no relation passes the filters");
}

function short(name, letters) {
  return name.length > letters ? name.slice(0, letters - 1) + "…" : name;
}

function drawTable(relations) {
  const levels = data.pairs[state.pair].pair.split("-");
  const head = find("table").tHead, body = find("table").tBodies[0];
  head.replaceChildren();
  body.replaceChildren();
  const row = element(head, "tr");
  for (const [name, title] of SHOWN) {
    const cell = element(row, "th", { scope: "col" });
    const sorted = state.sort === name;
    if (sorted) cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    const text = (name === "a" ? levels[0] : name === "b" ? levels[1] : title) + (sorted ? (state.down ? " ▼" : " ▲") : "");
    element(cell, "button", { type: "button", "data-key": `sort ${name}` }, text).addEventListener("click", () => {
      state.down = sorted ? !state.down : name !== "a" && name !== "b";
      state.sort = name;
      draw();
    });
  }
  for (const relation of relations) {
    const line = element(body, "tr", { tabindex: 0, "data-key": `row ${value(relation, "a")} ${value(relation, "b")}` });
    line.classList.toggle("chosen", relation === state.chosen);
    for (const [name] of SHOWN) {
      const x = value(relation, name);
      if (name === "a" || name === "b") { element(line, "td", {}, words(x)); continue; }
      const cell = element(line, "td", {}, name === "support" ? `${x} of ${value(relation, "photos_a")}` : shown(name, x));
      if (name === "known_share") cell.classList.toggle("little", isLittleKnown(relation));
      else if (name !== "support") element(cell, "small", {}, ` (${range(relation, name)})`);
    }
    press(line, () => { choose(relation); find("detail").scrollIntoView({ block: "nearest" }); });
  }
}

function range(relation, name) {
  return `${shown(name, value(relation, name + "_low"))} – ${shown(name, value(relation, name + "_high"))}`;
}

function choose(relation) {
  state.chosen = state.chosen === relation ? null : relation;
  draw();
}

function drawDetail() {
  const box = find("detail"), relation = state.chosen;
  box.replaceChildren();
  if (relation === null) {
    element(box, "p", {}, "Choose a line of the graph or a row of the table to see its numbers and photos.");
    return;
  }
  const [levelA, levelB] = data.pairs[state.pair].pair.split("-");
  const [a, b] = [words(value(relation, "a")), words(value(relation, "b"))];
  const where = levelA === "scene" ? `photos of the scene ${a}` : `photos with ${a}`;
  element(box, "h2", {}, `${a} – ${b}`);
  element(box, "p", {}, `${value(relation, "support")} of ${value(relation, "photos_a")} ${where} show ${b}`
    + (levelA === "scene" ? "" : " on it") + `: ${percent(value(relation, "frequency"))} (${range(relation, "frequency")}). `
    + `Of all photos, ${percent(value(relation, "base_frequency"))} have ${b} anywhere.`);
  element(box, "p", isLittleKnown(relation) ? { class: "little" } : {},
    `The model was sure of the ${levelB} of ${percent(value(relation, "known_share"))} of the area of ${a}.`);
  element(box, "p", {}, `Of this area, ${percent(value(relation, "area_share"))} (${range(relation, "area_share")}) is ${b}, `
    + `which covers ${percent(value(relation, "base_area_share"))} of everything: `
    + `${times(value(relation, "area_lift"))} (${range(relation, "area_lift")}) as much.`);
  element(box, "p", {}, `PMI: ${value(relation, "pmi").toFixed(2)} bits in photos, ${value(relation, "area_pmi").toFixed(2)} bits of the area.`);
  for (const crop of relation.crops) {
    const figure = element(box, "figure");
    element(figure, "img", { src: "data:image/jpeg;base64," + crop.jpeg, alt: `${b} at ${a} in ${crop.name}` });
    element(figure, "figcaption", {}, crop.name);
  }
  if (!relation.crops.length) element(box, "p", {}, "There is no picture: the photo or its parse is no longer where it was, or the relation is rare.");
}

find("score").addEventListener("change", (event) => { state.score = state.sort = event.target.value; state.down = true; draw(); });
find("support").addEventListener("input", (event) => { state.support = Number(event.target.value); draw(); });
find("search").addEventListener("input", (event) => { state.search = event.target.value.trim(); draw(); });
find("above").addEventListener("change", (event) => { state.above = event.target.checked; draw(); });
find("known").addEventListener("change", (event) => { state.known = event.target.checked; draw(); });
window.addEventListener("resize", draw);
find("reset").addEventListener("click", () => {
  Object.assign(state, { search: "", above: false, known: false });
  find("search").value = "";
  find("above").checked = find("known").checked = false;
  openPair(state.pair);
  draw();
});
find("controls").addEventListener("submit", (event) => event.preventDefault());
if (data.pairs.length) { drawTabs(); openPair(0); draw(); }
else document.querySelector("main").replaceChildren(Object.assign(document.createElement("p"), { textContent: "No relation has enough photos." }));
