// Label maps in the browser: decoding, colors, and connected regions.

export const UNSURE = 65535;
const HIDDEN_OUTSIDE = 190; // alpha of the veil over everything that is not isolated
const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

export function fromBase64(text, type) {
  return new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], { type });
}

/** Decodes a map: an RGB PNG whose label is R + 256 G, and whose confidence is B / 255. */
export async function decodeMap(base64) {
  const bitmap = await createImageBitmap(fromBase64(base64, "image/png"), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const pixels = context.getImageData(0, 0, width, height).data;
  const labels = new Uint16Array(width * height);
  const confidence = new Uint8Array(width * height);
  for (let i = 0, j = 0; i < labels.length; i++, j += 4) {
    labels[i] = pixels[j] | (pixels[j + 1] << 8);
    confidence[i] = pixels[j + 2];
  }
  return { width, height, labels, confidence };
}

/** Returns "#rrggbb" as three numbers. */
export function channels(color) {
  return [1, 3, 5].map((start) => parseInt(color.slice(start, start + 2), 16));
}

/**
 * Paints a map as RGBA.
 *
 * map: what decodeMap returned. colors: three numbers per class. shown: "classes" or "confidence". background: whether
 * label 0 means none of the classes. isolated: null, a label, or a mask (Uint8Array); what is outside gets a veil.
 * hovered: a label whose edges are drawn, or null.
 */
export function paint(map, colors, { shown, opacity, background, isolated = null, hovered = null }) {
  const { width, height, labels, confidence } = map;
  const image = new ImageData(width, height);
  const words = new Uint32Array(image.data.buffer);
  const alpha = Math.round(255 * opacity);
  const palette = colors.map(([r, g, b]) => pack(r, g, b, alpha));
  const ramp = Array.from({ length: 256 }, (_, value) => pack(...viridis(value / 255), alpha));
  const veil = pack(12, 14, 18, HIDDEN_OUTSIDE);
  const edge = pack(255, 255, 255, 255);
  const byMask = isolated instanceof Uint8Array;
  for (let i = 0; i < words.length; i++) {
    const label = labels[i];
    if (isolated !== null) {
      words[i] = (byMask ? isolated[i] : label === isolated) ? 0 : veil;
    } else if (shown === "confidence") {
      words[i] = ramp[confidence[i]];
    } else if (label !== UNSURE && !(background && label === 0)) {
      words[i] = palette[label];
    }
  }
  if (hovered !== null && isolated === null) drawEdges(words, labels, width, height, hovered, edge);
  return image;
}

function drawEdges(words, labels, width, height, label, color) {
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const i = y * width + x;
      if (labels[i] !== label) continue;
      const isEdge =
        (x > 1 && labels[i - 2] !== label) || (x < width - 2 && labels[i + 2] !== label) ||
        (y > 1 && labels[i - 2 * width] !== label) || (y < height - 2 && labels[i + 2 * width] !== label);
      if (isEdge) words[i] = color;
    }
  }
}

/** Returns the connected region at a pixel: its mask, number of pixels and mean confidence. */
export function regionAt(map, x, y) {
  const { width, height, labels, confidence } = map;
  const label = labels[y * width + x];
  const mask = new Uint8Array(width * height);
  const stack = [y * width + x];
  mask[stack[0]] = 1;
  let area = 0;
  let sum = 0;
  while (stack.length) {
    const i = stack.pop();
    const column = i % width;
    area++;
    sum += confidence[i];
    for (let dy = -width; dy <= width; dy += width) {
      for (let dx = -1; dx <= 1; dx++) {
        const j = i + dy + dx;
        if (j < 0 || j >= mask.length || column + dx < 0 || column + dx >= width) continue;
        if (!mask[j] && labels[j] === label) {
          mask[j] = 1;
          stack.push(j);
        }
      }
    }
  }
  return { label, mask, area, confidence: sum / area / 255 };
}

function viridis(value) {
  const place = value * (VIRIDIS.length - 1);
  const lower = Math.min(Math.floor(place), VIRIDIS.length - 2);
  return VIRIDIS[lower].map((start, k) => Math.round(start + (place - lower) * (VIRIDIS[lower + 1][k] - start)));
}

// Canvas pixels are little-endian in all browsers: red is the lowest byte.
function pack(red, green, blue, alpha) {
  return ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}
