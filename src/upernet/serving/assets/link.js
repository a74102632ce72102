// The view in the address of the page, so that a link restores it.

const DEFAULTS = { level: "object", shown: "classes", opacity: 0.6, split: 0, zoom: 1 };

/** Returns the text after "#" for a view. */
export function writeLink({ model, photo, level, shown, opacity, split, isolated, names, viewer }) {
  const fields = { model, photo, level, shown, opacity, split, zoom: round(viewer.zoom) };
  if (isolated !== null) fields.class = names[isolated] ?? "unsure";
  if (viewer.zoom > 1) fields.center = viewer.center.map(round).join();
  const told = Object.entries(fields).filter(([key, value]) => value !== undefined && value !== DEFAULTS[key]);
  return new URLSearchParams(told).toString();
}

/** Returns the view of a link; null if it has none. Values that make no sense become the defaults. */
export function readLink(hash) {
  const fields = new URLSearchParams(hash.slice(1));
  if (![...fields].length) return null;
  const number = (key, low, high) => {
    const value = parseFloat(fields.get(key));
    return value >= low && value <= high ? value : DEFAULTS[key];
  };
  const center = (fields.get("center") ?? "").split(",").map(Number);
  return {
    model: fields.get("model"),
    photo: fields.get("photo"),
    level: fields.get("level") ?? DEFAULTS.level,
    shown: fields.get("shown") === "confidence" ? "confidence" : "classes",
    opacity: number("opacity", 0, 1),
    split: number("split", 0, 1),
    zoom: number("zoom", 1, 40),
    isolated: fields.get("class"),
    center: center.length === 2 && center.every((value) => value >= 0 && value <= 1) ? center : [0.5, 0.5],
  };
}

function round(value) {
  return Math.round(1000 * value) / 1000;
}
