/** Fidelity over position at a glance: a bar for each token, a gap where none is known. */

import { element } from "../element.js";
import { onceAFrame } from "../frame.js";
import { BANDS, fidelityClass } from "../palette.js";

const HEIGHT = 56;
/** What is lower is cut there: how far below 0 it is hardly matters. */
const LOWEST = -0.3;
const PAGE = 50;
const STEPS = {
  ArrowRight: 1,
  ArrowUp: 1,
  ArrowLeft: -1,
  ArrowDown: -1,
  PageUp: PAGE,
  PageDown: -PAGE,
  Home: -Infinity,
  End: Infinity,
};

export class Strip {
  /** Bars lie below marks: thousands of them need not be drawn again when another is chosen. */
  #bars = element("canvas", { "aria-hidden": "true" });
  #marks = element("canvas", { "aria-hidden": "true" });
  #colours = new Map();
  #probe = element("i", { class: "unseen", "aria-hidden": "true" });
  #reading = null;
  #order = [];
  #index = new Map();
  #selected = null;
  #pinned = new Set();
  #found = new Set();
  #drawMarks = onceAFrame(() => this.#layMarks());
  /** Asks for the bars to be drawn with the next frame. */
  update = onceAFrame(() => this.#layBars());

  /** @param {(position: number) => void} select */
  constructor(select) {
    const listeners = {
      pointerdown: (event) => this.#point(event, select),
      pointermove: (event) => event.buttons & 1 && this.#point(event, select),
      keydown: (event) => this.#key(event, select),
    };
    const attributes = {
      id: "strip",
      class: "strip",
      role: "slider",
      tabindex: 0,
      "aria-label": "Fidelity over position",
      "aria-orientation": "horizontal",
    };
    this.root = element(
      "div",
      { ...attributes, on: listeners },
      this.#bars,
      this.#marks,
      this.#probe,
    );
    const all = () => {
      this.update();
      this.#drawMarks();
    };
    new ResizeObserver(all).observe(this.root);
    document.addEventListener("theme", () => {
      this.#colours.clear();
      all();
    });
  }

  /** @param {import("../reading.js").Reading} reading @param {number[]} order of its positions. */
  show(reading, order) {
    this.#reading = reading;
    this.#order = order;
    this.#index = new Map(order.map((position, index) => [position, index]));
    this.root.setAttribute("aria-valuemin", String(order[0] ?? 0));
    this.root.setAttribute("aria-valuemax", String(order.at(-1) ?? 0));
    this.select(null);
    this.update();
  }

  /** @param {number|null} position */
  select(position) {
    this.#selected = position;
    const at = position ?? this.#order[0] ?? 0;
    const fve = this.#reading?.fve(at) ?? null;
    this.root.setAttribute("aria-valuenow", String(at));
    this.root.setAttribute(
      "aria-valuetext",
      `position ${at}, ${fve === null ? "not scored" : `FVE ${fve.toFixed(2)}`}`,
    );
    this.#drawMarks();
  }

  /** @param {Iterable<number>} pinned @param {Iterable<number>} found */
  mark(pinned, found) {
    this.#pinned = new Set(pinned);
    this.#found = new Set(found);
    this.#drawMarks();
  }

  #point(event, select) {
    if (!this.#order.length) return;
    event.preventDefault();
    this.root.focus({ preventScroll: true });
    this.root.setPointerCapture(event.pointerId);
    const box = this.#bars.getBoundingClientRect();
    this.#go(Math.floor(((event.clientX - box.left) / box.width) * this.#order.length), select);
  }

  #key(event, select) {
    const step = STEPS[event.key];
    if (step === undefined || !this.#order.length) return;
    event.preventDefault();
    this.#go((this.#index.get(this.#selected) ?? 0) + step, select);
  }

  #go(index, select) {
    select(this.#order[Math.min(Math.max(index, 0), this.#order.length - 1)]);
  }

  /** FVE up from a line at 0, below 0 down from it. */
  #layBars() {
    const [pen, width] = pencil(this.#bars, this.root);
    if (!width || !this.#reading) return;
    const each = width / this.#order.length;
    const wide = Math.max(each - (each > 4 ? 1 : 0), 0.75);
    const zero = y(0);
    pen.fillStyle = this.#colour("line");
    pen.fillRect(0, zero, width, 1);
    pen.fillRect(0, y(1), width, 1);
    const bars = new Map();
    const add = (name, left, top, height) => {
      if (!bars.has(name)) bars.set(name, new Path2D());
      bars.get(name).rect(left, top, wide, height);
    };
    this.#order.forEach((position, index) => {
      const fve = this.#reading.fve(position);
      if (fve !== null) {
        const top = y(Math.min(Math.max(fve, LOWEST), 1));
        add(
          fidelityClass(fve),
          index * each,
          Math.min(top, zero),
          Math.max(Math.abs(zero - top), 2),
        );
      } else if (this.#reading.hasFailed(position)) add("bad", index * each, zero - 2, 5);
    });
    for (const [name, path] of bars) {
      pen.fillStyle = this.#colour(name);
      pen.fill(path);
    }
  }

  #layMarks() {
    const [pen, width] = pencil(this.#marks, this.root);
    if (!width) return;
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

/**
 * A canvas as large as what it lies on, and empty.
 *
 * @returns {[CanvasRenderingContext2D, number]} with its width.
 */
function pencil(canvas, under) {
  const width = under.clientWidth;
  const ratio = Math.min(window.devicePixelRatio, 2);
  const [pixels, lines] = [Math.round(width * ratio), Math.round(HEIGHT * ratio)];
  if (canvas.width !== pixels || canvas.height !== lines)
    [canvas.width, canvas.height] = [pixels, lines];
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, HEIGHT);
  return [pen, width];
}

function y(fve) {
  const share = (fve - LOWEST) / (1 - LOWEST);
  return Math.round(HEIGHT - 2 - share * (HEIGHT - 6));
}
