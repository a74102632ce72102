// The photo with its overlay: zoom, pan, comparison, and the point under the pointer.

const MOST_ZOOM = 40;
const STEP = 1.4;
const TAP_DISTANCE = 6; // pixels that a finger may move in a tap

/**
 * Shows a photo in a canvas.
 *
 * onPoint(x, y, kind): the pointer or the keyboard is at a pixel of the map; kind is "hover", "tap" or "key".
 * onPick(x, y): a region was clicked, or Enter was pressed. onLeave(): the pointer has left. onChange(): zoom or pan.
 */
export class Viewer {
  constructor(canvas, { onPoint, onPick, onLeave, onChange }) {
    Object.assign(this, { canvas, onPoint, onPick, onLeave, onChange });
    this.context = canvas.getContext("2d");
    this.photo = null; // what is drawn below the overlay
    this.overlay = null; // a canvas of the size of the map
    this.size = [1, 1]; // of the map; all coordinates are in its pixels
    this.split = 0; // share of the width where only the photo is shown
    this.zoom = 1; // relative to the fitted photo
    this.center = [0.5, 0.5]; // shares of the photo
    this.point = null;
    this.pointers = new Map();
    this.moved = 0;
    this.drawn = 0;
    this.listen();
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  show(photo, width, height) {
    const isSame = this.photo !== null && this.size[0] === width && this.size[1] === height;
    this.photo = photo;
    this.size = [width, height];
    if (!isSame) this.point = null;
    this.draw();
  }

  fit() {
    this.zoom = 1;
    this.center = [0.5, 0.5];
    this.changed();
  }

  zoomBy(factor, at = null) {
    const before = at && this.toMap(...at);
    this.zoom = Math.min(MOST_ZOOM, Math.max(1, this.zoom * factor));
    if (before) {
      const after = this.toMap(...at);
      this.center = this.center.map((value, k) => value + (before[k] - after[k]) / this.size[k]);
    }
    this.changed();
  }

  changed() {
    const { scale } = this.place();
    const box = [this.canvas.clientWidth, this.canvas.clientHeight];
    this.center = this.center.map((value, k) => {
      const half = Math.min(0.5, box[k] / (2 * scale * this.size[k]));
      return Math.min(1 - half, Math.max(half, value));
    });
    this.draw();
    this.onChange();
  }

  /** Returns the scale, and the place of the left top corner, in pixels of the page. */
  place() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const scale = this.zoom * Math.min(width / this.size[0], height / this.size[1]);
    return {
      scale,
      left: width / 2 - scale * this.size[0] * this.center[0],
      top: height / 2 - scale * this.size[1] * this.center[1],
    };
  }

  toMap(x, y) {
    const { scale, left, top } = this.place();
    return [(x - left) / scale, (y - top) / scale];
  }

  /** Returns the pixel of the map at a place in the canvas; null outside the photo. */
  pixelAt(x, y) {
    const [column, row] = this.toMap(x, y).map(Math.floor);
    const isInside = column >= 0 && row >= 0 && column < this.size[0] && row < this.size[1];
    return isInside ? [column, row] : null;
  }

  draw() {
    cancelAnimationFrame(this.drawn);
    this.drawn = requestAnimationFrame(() => this.drawNow());
  }

  drawNow() {
    const { canvas, context } = this;
    const density = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.max(1, Math.round(side * density)));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    context.setTransform(density, 0, 0, density, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!this.photo) return;
    const { scale, left, top } = this.place();
    const box = [left, top, scale * this.size[0], scale * this.size[1]];
    context.imageSmoothingQuality = "high";
    context.imageSmoothingEnabled = scale < 4;
    context.drawImage(this.photo, ...box);
    if (this.overlay) this.drawOverlay(context, box, scale);
    if (this.point) this.drawPoint(context, scale, left, top);
  }

  drawOverlay(context, box, scale) {
    const [left, top, width, height] = box;
    const cut = left + this.split * width;
    context.save();
    context.beginPath();
    context.rect(cut, top, left + width - cut, height);
    context.clip();
    context.imageSmoothingEnabled = scale < 3;
    context.drawImage(this.overlay, ...box);
    context.restore();
    if (this.split > 0) {
      context.fillStyle = "#fff";
      context.fillRect(cut - 1.5, top, 3, height);
      context.strokeStyle = "#0008";
      context.lineWidth = 1;
      context.strokeRect(cut - 2, top - 1, 4, height + 2);
    }
  }

  drawPoint(context, scale, left, top) {
    const [x, y] = [left + scale * (this.point[0] + 0.5), top + scale * (this.point[1] + 0.5)];
    for (const [color, width] of [["#000", 4], ["#fff", 2]]) {
      context.strokeStyle = color;
      context.lineWidth = width;
      context.beginPath();
      context.arc(x, y, 8, 0, 7);
      context.stroke();
    }
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("wheel", (event) => {
      if (!this.photo) return;
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY / 400), [event.offsetX, event.offsetY]);
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
      this.moved = this.pointers.size > 1 ? Infinity : 0;
    });
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => this.release(event, name === "pointerup"));
    }
    canvas.addEventListener("pointerleave", () => this.pointers.size || this.onLeave());
    canvas.addEventListener("dblclick", (event) => this.zoomBy(2, [event.offsetX, event.offsetY]));
    canvas.addEventListener("keydown", (event) => this.press(event));
  }

  move(event) {
    const now = [event.offsetX, event.offsetY];
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      const pixel = this.pixelAt(...now);
      if (pixel) this.onPoint(...pixel, "hover");
      else this.onLeave();
      return;
    }
    this.moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
    if (this.pointers.size === 2) {
      const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
      const distance = (place) => Math.hypot(place[0] - other[0], place[1] - other[1]);
      this.zoomBy(distance(now) / Math.max(1, distance(before)), now.map((value, k) => (value + other[k]) / 2));
    } else if (this.moved > TAP_DISTANCE) {
      const { scale } = this.place();
      this.canvas.classList.add("grabbing");
      this.center = this.center.map((value, k) => value - (now[k] - before[k]) / (scale * this.size[k]));
      this.changed();
    }
    this.pointers.set(event.pointerId, now);
  }

  release(event, isUp) {
    this.pointers.delete(event.pointerId);
    this.canvas.classList.remove("grabbing");
    const pixel = this.pixelAt(event.offsetX, event.offsetY);
    if (!isUp || this.moved > TAP_DISTANCE || !pixel) return;
    this.onPoint(...pixel, "tap");
    this.onPick(...pixel);
  }

  press(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const step = steps[event.key];
    if (step) {
      const far = Math.max(1, Math.round(Math.max(...this.size) / 100)) * (event.shiftKey ? 10 : 1);
      const from = this.point || this.size.map((side) => Math.floor(side / 2));
      this.point = from.map((value, k) => Math.min(this.size[k] - 1, Math.max(0, value + far * step[k])));
      this.draw();
      this.onPoint(...this.point, "key");
    } else if (event.key === "Enter" && this.point) {
      this.onPick(...this.point);
    } else if (event.key === "+" || event.key === "=") {
      this.zoomBy(STEP);
    } else if (event.key === "-") {
      this.zoomBy(1 / STEP);
    } else if (event.key === "0") {
      this.fit();
    } else {
      return;
    }
    event.preventDefault();
  }
}
