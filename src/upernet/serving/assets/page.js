// The page: its photos, what is shown of them, and what the person does.

import * as api from "./api.js";
import { readLink, writeLink } from "./link.js";
import { channels, decodeMap, fromBase64, paint, regionAt, UNSURE } from "./maps.js";
import { element, markLegend, percent, readPixel, readable, showLegend, showModel, showPixel, showRegion, showSummary } from "./panel.js";
import { Viewer } from "./viewer.js";

const MAX_SIDE = 1600; // the shown maps; saved files have the size of the photo
const ONLY_SERVERS_DECODE = /\.(heic|heif|hif|tiff?|ppm|pgm|pbm)$/i; // most browsers do not
const AT_ONCE = 2; // photos that are sent at a time

const byId = (id) => document.getElementById(id);
const photos = []; // { name, example, file, thumbnail, image, parse, maps, state, error }
const details = new Map(); // model -> what the server says of it
const view = { model: "", level: "object", shown: "classes", opacity: 0.6, split: 0, isolated: null, region: null, hovered: null };
let current = null;
let wanted = readLink(location.hash); // the view of a link, until its photo is there
const overlay = document.createElement("canvas");

const viewer = new Viewer(byId("canvas"), {
  onPoint: pointAt,
  onPick: pickRegion,
  onLeave: leavePoint,
  onChange: saveView,
});

// ---------------------------------------------------------------- photos

function addPhotos(files) {
  const images = [...files].filter((file) => file.type.startsWith("image/") || /\.(heic|heif|tiff?)$/i.test(file.name));
  if (!images.length) {
    say("That is not a photo; choose JPEG, PNG, WebP, TIFF, AVIF, BMP, GIF or HEIC files.", true);
    return;
  }
  say("");
  const added = images.map((file) => ({ name: file.name || "pasted photo", file, state: "waiting", maps: {} }));
  photos.push(...added);
  open(added[0]);
  parseWaiting();
}

async function addExample(name) {
  const known = photos.find((photo) => photo.example === name);
  if (known) return open(known);
  try {
    const photo = { name, example: name, file: await api.example(name), state: "waiting", maps: {} };
    photos.push(photo);
    open(photo);
    parseWaiting();
  } catch (error) {
    say(error.message, true);
  }
}

function open(photo) {
  current = photo;
  Object.assign(view, { isolated: null, region: null, hovered: null });
  document.body.classList.remove("empty");
  byId("start").hidden = true;
  for (const id of ["viewer", "panel"]) byId(id).hidden = false;
  document.querySelector("main").classList.add("open");
  viewer.photo = null;
  viewer.overlay = null;
  viewer.fit();
  showStrip();
  loadImage(photo).then(() => photo === current && show());
  show();
}

/** Decodes the photo in the browser, if it can; otherwise the server sends it with the parse. */
async function loadImage(photo) {
  if (photo.image || photo.undecodable) return;
  try {
    photo.image = await createImageBitmap(photo.file);
    photo.thumbnail = URL.createObjectURL(photo.file);
  } catch {
    photo.undecodable = true;
  }
  showStrip();
}

async function parseWaiting() {
  while (photos.filter(({ state }) => state === "parsing").length < AT_ONCE) {
    const photo = photos.find(({ state }) => state === "waiting");
    if (!photo) return;
    photo.state = "parsing";
    parsePhoto(photo).finally(() => {
      showStrip();
      if (photo === current) show();
      parseWaiting();
    });
  }
}

async function parsePhoto(photo) {
  const model = view.model;
  showStrip();
  if (photo === current) show();
  const decoding = loadImage(photo);
  const parameters = [["model", model], ["max_side", MAX_SIDE], ["include", "pixels"]];
  if (ONLY_SERVERS_DECODE.test(photo.name)) {
    await decoding;
    if (photo.undecodable) parameters.push(["include", "photo"]);
  }
  const start = performance.now();
  try {
    const response = await api.parse(photo.file, photo.name, parameters, (seconds) => {
      photo.note = `The server is busy; trying again in ${seconds} s`;
      if (photo === current) show();
    });
    const parse = await response.json();
    await decoding;
    if (photo.undecodable && !parse.photo) throw new api.ServerError("The browser cannot show this photo; save it as JPEG or PNG.");
    const maps = {};
    for (const [level, { pixels }] of Object.entries(parse.maps)) maps[level] = await decodeMap(pixels);
    if (parse.photo) {
      const jpeg = fromBase64(parse.photo, "image/jpeg");
      photo.image = await createImageBitmap(jpeg);
      photo.thumbnail = URL.createObjectURL(jpeg);
    }
    delete parse.maps;
    delete parse.photo;
    Object.assign(photo, { parse, maps, state: "done", note: null, seconds: (performance.now() - start) / 1000 });
  } catch (error) {
    Object.assign(photo, { state: "failed", error: error.message, note: null });
  }
}

// ---------------------------------------------------------------- showing

function levelsOf(photo) {
  return Object.keys(photo.maps);
}

function show() {
  const { parse, maps, state, image } = current;
  byId("busy").hidden = state === "done" || state === "failed";
  byId("busy-text").textContent = current.note ?? (state === "waiting" ? "Waiting" : "Parsing");
  byId("panel").inert = state !== "done";
  if (state === "failed") say(current.error, true);
  byId("caption").textContent = caption();
  if (image) {
    const map = Object.values(maps)[0];
    const scale = Math.min(1, MAX_SIDE / Math.max(image.width, image.height));
    const size = map ? [map.width, map.height] : [image.width, image.height].map((side) => Math.round(side * scale));
    viewer.show(image, ...size);
  }
  if (state !== "done") return;
  if (!levelsOf(current).includes(view.level)) view.level = levelsOf(current)[0];
  showSummary(parse);
  byId("caution").hidden = parse.familiar !== false;
  byId("caution").textContent = "This photo is unlike those that the model has learned from.";
  byId("canvas").setAttribute("aria-label", `${current.name}. ${parse.description.replaceAll("\n", " ")}`);
  showLevels();
  showLevel();
  if (wanted) restore();
}

function caption() {
  const { name, parse, state, seconds } = current;
  if (state === "failed") return `${name}: not parsed.`;
  if (state !== "done") return name;
  const network = parse.seconds.network / Math.max(1, parse.seconds.batch);
  return `${name}, ${parse.width} × ${parse.height} pixels as shown; parsed in ${seconds.toFixed(2)} s ` +
    `(network and label maps ${network.toFixed(2)} s) with ${parse.model}.`;
}

function showLevels() {
  const levels = levelsOf(current);
  const box = byId("levels");
  if ([...box.querySelectorAll("input")].map(({ value }) => value).join() !== levels.join()) {
    for (const label of box.querySelectorAll("label")) label.remove();
    for (const level of levels) {
      const input = element("input", { type: "radio", name: "level", value: level });
      input.addEventListener("change", () => setLevel(level));
      box.append(element("label", {}, input, element("span", { textContent: level[0].toUpperCase() + level.slice(1) })));
    }
  }
  for (const input of box.querySelectorAll("input")) input.checked = input.value === view.level;
}

function setLevel(level) {
  Object.assign(view, { level, isolated: null, region: null, hovered: null });
  showLevels();
  showLevel();
}

function colorsOf(level) {
  const known = details.get(current.parse.model) ?? details.get(view.model);
  return known.taxonomy.levels[level].classes.map(({ color }) => color);
}

function showLevel() {
  showLegend(current.parse[view.level], colorsOf(view.level), {
    onHover: (label) => hover(label),
    onPick: (label) => isolate(view.isolated === label && view.region === null ? null : label),
  });
  byId("scale").hidden = view.shown !== "confidence";
  repaint();
}

function repaint() {
  if (current?.state !== "done") return;
  const map = current.maps[view.level];
  const image = paint(map, colorsOf(view.level).map(channels), {
    ...view,
    background: current.parse[view.level].background,
    isolated: view.region ? view.region.mask : view.isolated,
  });
  Object.assign(overlay, { width: map.width, height: map.height });
  overlay.getContext("2d").putImageData(image, 0, 0);
  viewer.overlay = overlay;
  viewer.split = view.split;
  viewer.draw();
  markLegend(view.hovered, view.isolated);
  byId("show-all").hidden = view.isolated === null;
  showRegion(view.region, current.parse, view.level);
  saveView();
}

function hover(label) {
  if (view.hovered === label) return;
  view.hovered = label;
  if (view.isolated === null) repaint();
  else markLegend(view.hovered, view.isolated);
}

function isolate(label, region = null) {
  Object.assign(view, { isolated: label, region });
  repaint();
}

function pointAt(x, y, kind) {
  if (current?.state !== "done") return;
  const found = readPixel(current.parse, current.maps, x, y);
  const label = current.maps[view.level].labels[y * viewer.size[0] + x];
  if (kind !== "hover") {
    viewer.point = [x, y];
    viewer.draw();
  }
  byId("reading").setAttribute("aria-live", kind === "hover" ? "off" : "polite");
  showPixel(found);
  showTip(found.line, x, y);
  hover(label);
}

function showTip(line, x, y) {
  const tip = byId("tip");
  const { scale, left, top } = viewer.place();
  tip.textContent = line;
  tip.hidden = false;
  const [right, bottom] = [viewer.canvas.clientWidth - tip.offsetWidth - 4, viewer.canvas.clientHeight - tip.offsetHeight - 4];
  tip.style.left = `${Math.max(4, Math.min(right, left + scale * x + 16))}px`;
  tip.style.top = `${Math.max(4, Math.min(bottom, top + scale * y + 16))}px`;
}

function leavePoint() {
  byId("tip").hidden = true;
  hover(null);
}

function pickRegion(x, y) {
  if (current?.state !== "done") return;
  if (view.region?.mask[y * viewer.size[0] + x]) return isolate(null);
  const region = regionAt(current.maps[view.level], x, y);
  isolate(region.label, region);
}

function showStrip() {
  byId("strip").replaceChildren(...photos.map((photo) => {
    const states = { waiting: "waiting", parsing: "parsing", failed: "failed" };
    const button = element("button", { type: "button", title: photo.name, "aria-label": `${photo.name}${photo.state === "done" ? "" : `, ${photo.state}`}` });
    if (photo === current) button.setAttribute("aria-current", "true");
    if (photo.thumbnail) button.append(element("img", { src: photo.thumbnail, alt: "" }));
    if (states[photo.state]) button.append(element("span", { className: "state", textContent: states[photo.state] }));
    button.addEventListener("click", () => {
      open(photo);
      byId("strip").children[photos.indexOf(photo)].firstChild.focus();
    });
    return element("li", {}, button);
  }));
}

function say(text, isError = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("error", isError);
}

// ---------------------------------------------------------------- links and files

function saveView() {
  if (current?.state !== "done" || wanted) return;
  history.replaceState(null, "", `#${writeLink({ ...view, photo: current.example, names: current.parse[view.level].names, viewer })}`);
}

/** Sets the view of a link, once the first photo is there. */
function restore() {
  const { level, shown, opacity, split, isolated, zoom, center } = wanted;
  const isExample = wanted.photo === current.example;
  wanted = null;
  Object.assign(view, { shown, opacity, split });
  byId("opacity").value = 100 * opacity;
  byId("split").value = 100 * split;
  document.querySelector(`input[name="show"][value="${shown}"]`).checked = true;
  if (isExample) Object.assign(viewer, { zoom, center });
  viewer.changed();
  setLevel(current.maps[level] ? level : view.level);
  const label = current.parse[view.level].names.indexOf(isolated);
  if (label >= 0 || isolated === "unsure") isolate(label >= 0 ? label : UNSURE);
}

async function copyLink() {
  saveView();
  const note = current?.example ? "" : " It restores the view; your photo stays with you, so open it again there.";
  try {
    await navigator.clipboard.writeText(location.href);
    say(`The link is copied.${note}`);
  } catch {
    say(`Copy the address of this page.${note}`);
  }
}

function save(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

const stem = () => current.name.replace(/\.[^.]*$/, "");

function saveOverlay() {
  const { image } = current;
  const canvas = new OffscreenCanvas(image.width, image.height);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(overlay, 0, 0, image.width, image.height);
  canvas.convertToBlob({ type: "image/png" }).then((blob) => save(blob, `${stem()}_${view.level}.png`));
}

async function saveFromServer(form, name) {
  say("Parsing in the full size of the photo.");
  try {
    const response = await api.parse(current.file, current.name, [["model", view.model], ["format", form]]);
    save(await response.blob(), name);
    say("");
  } catch (error) {
    say(error.message, true);
  }
}

// ---------------------------------------------------------------- controls

function listen() {
  const files = byId("files");
  for (const id of ["choose", "add"]) byId(id).addEventListener("click", () => files.click());
  files.addEventListener("change", () => {
    if (files.files.length) addPhotos(files.files);
    files.value = "";
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dragging"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    if (event.dataTransfer.files.length) addPhotos(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) addPhotos(event.clipboardData.files);
  });
  for (const input of document.querySelectorAll('input[name="show"]')) {
    input.addEventListener("change", () => setShown(input.value));
  }
  byId("opacity").addEventListener("input", (event) => {
    view.opacity = event.target.value / 100;
    repaint();
  });
  byId("split").addEventListener("input", (event) => {
    view.split = event.target.value / 100;
    viewer.split = view.split;
    viewer.draw();
    saveView();
  });
  byId("zoom-in").addEventListener("click", () => viewer.zoomBy(1.4));
  byId("zoom-out").addEventListener("click", () => viewer.zoomBy(1 / 1.4));
  byId("fit").addEventListener("click", () => viewer.fit());
  byId("show-all").addEventListener("click", () => isolate(null));
  byId("copy-link").addEventListener("click", copyLink);
  byId("save-overlay").addEventListener("click", saveOverlay);
  byId("save-zip").addEventListener("click", () => saveFromServer("zip", `${stem()}.zip`));
  byId("save-json").addEventListener("click", () => saveFromServer("json", `${stem()}.json`));
  byId("model").addEventListener("change", (event) => changeModel(event.target.value));
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.matches("input[type=password], input[type=text], select") || event.ctrlKey || event.metaKey;
    if (isTyping || event.altKey || current?.state !== "done") return;
    const level = levelsOf(current)[Number(event.key) - 1];
    if (event.key === "Escape") isolate(null);
    else if (level) setLevel(level);
    else if (event.key === "c") setShown(view.shown === "classes" ? "confidence" : "classes");
  });
}

function setShown(shown) {
  view.shown = shown;
  document.querySelector(`input[name="show"][value="${shown}"]`).checked = true;
  showLevel();
}

async function changeModel(name) {
  view.model = name;
  try {
    if (!details.has(name)) details.set(name, await api.modelDetails(name));
    showModel(details.get(name));
  } catch (error) {
    say(error.message, true);
    return;
  }
  for (const photo of photos) Object.assign(photo, { state: "waiting", parse: null, maps: {}, error: null });
  if (current) open(current);
  parseWaiting();
}

function askForToken(problem) {
  const dialog = byId("token-dialog");
  byId("token-error").textContent = problem;
  byId("token").value = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(byId("token").value.trim()), { once: true }));
}

async function start() {
  api.onTokenNeeded(askForToken);
  listen();
  try {
    const known = await api.models();
    const asked = known.find(({ name }) => name === wanted?.model) ?? known[0];
    byId("model").replaceChildren(...known.map(({ name }) => element("option", { value: name, textContent: name, selected: name === asked.name })));
    await changeModel(asked.name);
    const examples = await api.examples();
    byId("examples-title").hidden = !examples.length;
    byId("examples").replaceChildren(...examples.map((name) => {
      const label = readable(name.replace(/\.[^.]*$/, ""));
      const button = element("button", { type: "button" }, element("img", { src: `/assets/examples/${name}`, alt: "", loading: "lazy" }), element("span", { textContent: label }));
      button.addEventListener("click", () => addExample(name));
      return element("li", {}, button);
    }));
    if (examples.includes(wanted?.photo)) await addExample(wanted.photo);
    else if (wanted) say("The link restores a view; open its photo to see it.");
  } catch (error) {
    say(error.message, true);
  }
}

start();
