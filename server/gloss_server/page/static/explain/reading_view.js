/**
 * A reading on the screen: the text, the strip above it, the chosen token, the pinned ones, the
 * search. What comes is gathered and shown with the next frame.
 */

import { element } from "../element.js";
import { afterPaint, onceAFrame } from "../frame.js";
import { legend } from "../legend.js";
import { FlagLegend } from "./flag_legend.js";
import { Panel } from "./panel.js";
import { Pins } from "./pins.js";
import { Search } from "./search.js";
import { Strip } from "./strip.js";
import { Tokens } from "../tokens.js";

/** A link of anybody's could pin every token, and each has its cards. */
const MOST_PINS = 100;
/** Name of the measure from a score's arrival until its token is painted in its colour. */
const COLOURED = "gloss:coloured";

/** The details lie over the text, as explain.css has it: growing there, they would slip under the mouse. */
const STACKED = matchMedia("(max-width: 60rem)");

export class ReadingView {
  /** @type {number|null} */
  selected = null;
  /** @type {number[]} */
  pinned = [];
  #reading = null;
  #hovered = null;
  #touched = new Set();
  #firstScoreAt = Infinity;
  #numScored = 0;
  #drawSoon = onceAFrame(() => this.#draw());
  #changed;

  /** @param {() => void} changed the selection, the pins or the search. */
  constructor(changed) {
    this.#changed = changed;
    const select = (position) => this.select(position);
    const pin = (position) => this.pin(position);
    this.tokens = new Tokens({ select, hover: (position) => this.#hover(position), pin });
    this.strip = new Strip(select);
    this.panel = new Panel({ move: (step) => this.#move(step), pin });
    this.pins = new Pins({ select, pin, clear: () => this.#setPins([]) });
    this.search = new Search({
      changed: () => this.#searched(),
      select,
      place: () => ({ order: this.tokens.order, selected: this.selected }),
    });
    this.flags = new FlagLegend();
    const layout = element(
      "div",
      { class: "reading" },
      element(
        "div",
        { class: "text" },
        legend(),
        element("div", { class: "tools" }, this.strip.root, this.search.root),
        this.tokens.root,
        this.flags.root,
      ),
      element(
        "aside",
        { id: "details", "aria-label": "Tokens in detail" },
        this.panel.root,
        this.pins.root,
      ),
    );
    this.root = element("div", { id: "results", hidden: true }, layout);
  }

  /** Show another reading. @param {import("../reading.js").Reading} reading */
  show(reading) {
    this.#reading = reading;
    this.selected = this.#hovered = null;
    this.pinned = [];
    this.root.hidden = false;
    this.tokens.show(reading);
    this.strip.show(reading, this.tokens.order);
    this.search.found.clear();
    this.panel.clear();
    this.#searched();
    this.#setPins([]);
  }

  /**
   * Something has come.
   *
   * @param {Iterable<number>} positions
   * @param {number} at when.
   * @param {number[]} scored those of the positions with a new score.
   */
  touch(positions, at, scored) {
    for (const position of positions) this.#touched.add(position);
    if (scored.length) {
      this.#firstScoreAt = Math.min(this.#firstScoreAt, at);
      this.#numScored += scored.length;
    }
    this.#drawSoon();
  }

  /** @param {number|null} position */
  select(position) {
    if (!this.#reading?.tokens.has(position)) return;
    this.selected = position;
    this.#hovered = null;
    this.tokens.select(position);
    this.strip.select(position);
    this.#showPanel();
    this.#changed();
  }

  /** Pin a token, or take it off. @param {number} position */
  pin(position) {
    const isPinned = this.pinned.includes(position);
    this.#setPins(
      isPinned ? this.pinned.filter((one) => one !== position) : [...this.pinned, position],
    );
  }

  /** @param {number[]} positions of a link; those that the text has not are left out. */
  restore(selected, positions, query) {
    this.search.query = query;
    this.#searched();
    const known = new Set(positions.filter((position) => this.#reading.tokens.has(position)));
    this.#setPins([...known].slice(0, MOST_PINS));
    if (selected !== null) this.select(selected);
  }

  #setPins(positions) {
    this.pinned = [...positions].sort((a, b) => a - b);
    this.tokens.mark("pinned", this.pinned);
    this.strip.mark(this.pinned, this.search.found);
    this.pins.show(this.#reading, this.pinned, this.search.show);
    this.#showPanel();
    this.#changed();
  }

  #hover(position) {
    if (STACKED.matches) return;
    this.#hovered = position;
    this.#showPanel();
  }

  #move(step) {
    const { order } = this.tokens;
    const index = order.indexOf(this.selected) + step;
    this.select(order[Math.min(Math.max(index, 0), order.length - 1)]);
  }

  #showPanel() {
    const position = this.#hovered ?? this.selected;
    if (position === null) this.panel.clear();
    else this.panel.show(this.#reading, position, this.pinned.includes(position), this.search.show);
  }

  #searched() {
    if (!this.#reading) return;
    this.search.look(this.#reading, this.tokens.order);
    this.#markFound();
    this.#showPanel();
    this.pins.show(this.#reading, this.pinned, this.search.show);
    this.#changed();
  }

  #markFound() {
    this.tokens.mark("found", this.search.found);
    this.strip.mark(this.pinned, this.search.found);
  }

  #draw() {
    const touched = this.#touched;
    this.#touched = new Set();
    for (const position of touched) this.tokens.update(position);
    this.strip.update();
    if (this.search.look(this.#reading, touched)) this.#markFound();
    if (touched.has(this.#hovered ?? this.selected)) this.#showPanel();
    if (this.pinned.some((position) => touched.has(position)))
      this.pins.show(this.#reading, this.pinned, this.search.show);
    this.flags.update(this.#reading);
    this.#measure();
  }

  #measure() {
    if (!this.#numScored) return;
    const [start, detail] = [this.#firstScoreAt, { count: this.#numScored }];
    [this.#firstScoreAt, this.#numScored] = [Infinity, 0];
    // A hidden page paints nothing.
    if (!document.hidden)
      afterPaint(() => performance.measure(COLOURED, { start, end: performance.now(), detail }));
  }
}
