/** Fidelity over position at a glance: a bar for each token, a gap where none is known. */

import { element } from "../element.js";
import { onceAFrame } from "../frame.js";
import { BANDS, fidelityClass } from "../palette.js";

const HEIGHT = 56;
/** What is lower is cut there: how far below 0 it is hardly matters. */
const LOWEST = -0.3;

export class Strip {
  #canvas = element("canvas", { "aria-hidden": "true" });
  #colours = new Map();
  #probe = element("i", { class: "unseen", "aria-hidden": "true" });
  #reading = null;
  #order = [];
  #index = new Map();
  #selected = null;
  #pinned = new Set();
  #found = new Set();
  /** Asks for it to be drawn with the next frame. */
  update = onceAFrame(() => this.#draw());

  /** @param {(position: number) => void} select */
  constructor(select) {
    this.root = element("div", {
      id: "strip",
      class: "strip",
      role: "slider",
      tabindex: 0,
      "aria-label": "Fidelity over position",
      "aria-orientation": "horizontal",
      on: {
        pointerdown: (event) => this.#point(event, select),
        pointermove: (event) => event.buttons & 1 && this.#point(event, select),
        keydown: (event) => this.#key(event, select),
      },
    }, this.#canvas, this.#probe);
    new ResizeObserver(this.update).observe(this.root);
    document.addEventListener("theme", () => {
      this.#colours.clear();
      this.update();
    });
  }

  /** @param {import("./reading.js").Reading} reading @param {number[]} order of its positions. */
  show(reading, order) {
    this.#reading = reading;
    this.#order = order;
    this.#index = new Map(order.map((position, index) => [position, index]));
    this.root.setAttribute("aria-valuemin", String(order[0] ?? 0));
    this.root.setAttribute("aria-valuemax", String(order.at(-1) ?? 0));
    this.select(null);
  }

  /** @param {number|null} position */
  select(position) {
    this.#selected = position;
    const at = position ?? this.#order[0] ?? 0;
    const fve = this.#reading?.fve(at) ?? null;
    this.root.setAttribute("aria-valuenow", String(at));
    this.root.setAttribute("aria-valuetext", `position ${at}, ${fve === null ? "not scored" : `FVE ${fve.toFixed(2)}`}`);
    this.update();
  }

  /** @param {Iterable<number>} pinned @param {Iterable<number>} found */
  mark(pinned, found) {
    this.#pinned = new Set(pinned);
    this.#found = new Set(found);
    this.update();
  }

  #point(event, select) {
    if (!this.#order.length) return;
    event.preventDefault();
    this.root.setPointerCapture(event.pointerId);
    const box = this.#canvas.getBoundingClientRect();
    const index = Math.floor(((event.clientX - box.left) / box.width) * this.#order.length);
    select(this.#order[Math.min(Math.max(index, 0), this.#order.length - 1)]);
  }

  #key(event, select) {
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 50, PageDown: -50, Home: -Infinity, End: Infinity };
    const step = steps[event.key];
    if (step === undefined || !this.#order.length) return;
    event.preventDefault();
    const index = this.#index.get(this.#selected) ?? 0;
    select(this.#order[Math.min(Math.max(index + step, 0), this.#order.length - 1)]);
  }

  #draw() {
    const width = this.root.clientWidth;
    if (!width || !this.#reading) return;
    const ratio = Math.min(window.devicePixelRatio, 2);
    const [pixels, lines] = [Math.round(width * ratio), Math.round(HEIGHT * ratio)];
    if (this.#canvas.width !== pixels || this.#canvas.height !== lines) {
      this.#canvas.width = pixels;
      this.#canvas.height = lines;
    }
    const pen = this.#canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, HEIGHT);
    this.#bars(pen, width);
    this.#marks(pen, width);
  }

  /** FVE up from a line at 0, below 0 down from it. */
  #bars(pen, width) {
    const each = width / this.#order.length;
    const zero = y(0);
    pen.fillStyle = this.#colour("line");
    pen.fillRect(0, zero, width, 1);
    pen.fillRect(0, y(1), width, 1);
    this.#order.forEach((position, index) => {
      const fve = this.#reading.fve(position);
      const left = index * each;
      const wide = Math.max(each - (each > 4 ? 1 : 0), 0.75);
      if (fve === null) {
        if (!this.#reading.hasFailed(position)) return;
        pen.fillStyle = this.#colour("bad");
        pen.fillRect(left, zero - 2, wide, 5);
        return;
      }
      const top = y(Math.min(Math.max(fve, LOWEST), 1));
      pen.fillStyle = this.#colour(fidelityClass(fve));
      pen.fillRect(left, Math.min(top, zero), wide, Math.max(Math.abs(zero - top), 2));
    });
  }

  #marks(pen, width) {
    const each = width / this.#order.length;
    const tick = (position, name, top, height) => {
      const index = this.#index.get(position);
      pen.fillStyle = this.#colour(name);
      if (index !== undefined) pen.fillRect(index * each + each / 2 - 1, top, 2, height);
    };
    for (const position of this.#found) tick(position, "warn", 0, 4);
    for (const position of this.#pinned) tick(position, "accent", HEIGHT - 6, 6);
    if (this.#selected !== null) tick(this.#selected, "ink", 0, HEIGHT);
  }

  /** A colour of the style sheets, which a canvas cannot name. */
  #colour(name) {
    let colour = this.#colours.get(name);
    if (colour === undefined) {
      const isBand = BANDS.some((band) => band.name === name);
      this.#probe.style.color = `var(--${isBand ? `${name}-bar` : name})`;
      colour = getComputedStyle(this.#probe).color;
      this.#colours.set(name, colour);
    }
    return colour;
  }
}

function y(fve) {
  const share = (fve - LOWEST) / (1 - LOWEST);
  return Math.round(HEIGHT - 2 - share * (HEIGHT - 6));
}
