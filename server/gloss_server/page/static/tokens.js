/**
 * The text, token by token: colours, marks, and moving along it by mouse or keyboard. To assistive
 * technology it is a list box whose active option is the chosen token.
 */

import { element } from "./element.js";
import { fidelityClass } from "./palette.js";
import { shownText, visible } from "./shown.js";
import { decimal } from "./words.js";

const LONGEST_TOKEN = 200;
const PAGE = 50;
const RIGHT_TO_LEFT = /\p{Script=Hebrew}|\p{Script=Arabic}|\p{Script=Syriac}|\p{Script=Thaana}/u;
/** Stands close to the word before it, where tokens bring no blanks of their own. */
const CLOSES = /^[.,;:!?%)\]}’”'…]/u;

export class Tokens {
  /** @type {Map<number, HTMLElement>} */
  #spans = new Map();
  /** @type {number[]} */
  #order = [];
  /** @type {import("./reading.js").Reading|null} */
  #reading = null;
  #selected = null;
  #hovered = null;
  #listener;
  /** Positions that carry a mark, by its class. @type {Map<string, Set<number>>} */
  #marked = new Map();
  /** Why positions are not explained, in words. @type {Map<number, string>} */
  #skipped = new Map();
  #prefix;
  /** Whether tokens bring no blanks of their own, so that words are set apart. */
  #isApart = false;

  /**
   * @param {Object} listener
   * @param {(position: number) => void} listener.select
   * @param {(position: number|null) => void} listener.hover null: no token is under the mouse.
   * @param {(position: number) => void} listener.pin
   * @param {string} [prefix] of its elements' ids.
   */
  constructor(listener, prefix = "") {
    this.#listener = listener;
    this.#prefix = prefix;
    this.root = element("div", {
      id: `${prefix}tokens`,
      class: "tokens",
      role: "listbox",
      tabindex: 0,
      "aria-label": "Tokens",
      "aria-orientation": "horizontal",
      on: {
        click: (event) => this.#onToken(event, (position) => listener.select(position)),
        dblclick: (event) => this.#onToken(event, (position) => listener.pin(position)),
        pointermove: (event) => this.#hover(event),
        pointerleave: () => this.#leave(),
        keydown: (event) => this.#key(event),
        // A click is about to say which token; the first one would only make the text jump.
        focus: () =>
          this.root.matches(":focus-visible") &&
          this.#selected === null &&
          this.#order.length &&
          listener.select(this.#order[0]),
      },
    });
  }

  /** Positions that are shown, in the order of the text. */
  get order() {
    return this.#order;
  }

  /** Show a text's tokens, uncoloured. @param {import("./reading.js").Reading} reading */
  show(reading) {
    this.#reading = reading;
    this.#spans.clear();
    this.#order = [...reading.tokens.keys()];
    this.#isApart = ![...reading.tokens.values()].some((token) => /^\s+\S/u.test(token));
    const wanted = new Set(reading.wanted);
    this.#marked = new Map([["unasked", new Set()]]);
    this.#skipped.clear();
    const text = document.createDocumentFragment();
    let before = -1;
    for (const [position, token] of reading.tokens) {
      if (position > before + 1 && before >= 0) text.append(gap(before + 1, position));
      before = position;
      if (this.#isApart && text.childNodes.length && !CLOSES.test(token)) text.append(" ");
      text.append(...this.#make(position, token, wanted.has(position)));
    }
    const all = [...reading.tokens.values()].join("");
    this.root.dir = RIGHT_TO_LEFT.test(/\p{L}/u.exec(all)?.[0] ?? "") ? "rtl" : "ltr";
    this.root.replaceChildren(text);
    this.#selected = null;
    this.root.removeAttribute("aria-activedescendant");
  }

  /**
   * The text has grown by a token.
   *
   * @param {number} position
   * @param {boolean} isWanted whether it is to be explained.
   */
  add(position, isWanted) {
    const token = this.#reading.tokens.get(position);
    this.#order.push(position);
    if (this.#isApart && this.#order.length > 1 && !/^\s/u.test(token) && !CLOSES.test(token))
      this.root.append(" ");
    this.root.append(...this.#make(position, token, isWanted));
  }

  /**
   * Show what is known of a token now.
   *
   * @param {number} position
   * @param {string} [skipped] why it is not explained; as before where it is not said.
   */
  update(position, skipped = this.#skipped.get(position) ?? "") {
    const shown = this.#spans.get(position);
    if (!shown) return;
    const reading = this.#reading;
    this.#skipped.set(position, skipped);
    const [fve, flags, failed] = [
      reading.fve(position),
      reading.flags(position),
      reading.hasFailed(position),
    ];
    const marks = [...this.#marked]
      .filter(([, positions]) => positions.has(position))
      .map(([name]) => name);
    const states = { failed, flagged: flags.length > 0, skipped: skipped !== "" };
    shown.className = [
      "token",
      fidelityClass(fve),
      ...Object.keys(states).filter((name) => states[name]),
      ...marks,
    ].join(" ");
    const scored = fve === null ? "not scored" : `FVE ${decimal(fve, 2)}`;
    const told = failed ? "failed" : marks.includes("unasked") ? "not asked for" : scored;
    const all = skipped ? `not explained: ${skipped}` : told;
    const token = visible(reading.tokens.get(position).slice(0, LONGEST_TOKEN));
    shown.setAttribute(
      "aria-label",
      `${token}, position ${position}, ${all}${flags.length ? ", flagged" : ""}`,
    );
  }

  /** @param {number|null} position @param {boolean} [scroll] */
  select(position, scroll = true) {
    this.#hovered = null;
    this.#spans.get(this.#selected)?.setAttribute("aria-selected", "false");
    this.#selected = position;
    const shown = this.#spans.get(position);
    if (!shown) return this.root.removeAttribute("aria-activedescendant");
    shown.setAttribute("aria-selected", "true");
    this.root.setAttribute("aria-activedescendant", shown.id);
    if (scroll) shown.scrollIntoView({ block: "nearest" });
  }

  /**
   * Set a mark on exactly these.
   *
   * @param {string} name a class.
   * @param {Iterable<number>} positions
   */
  mark(name, positions) {
    const before = this.#marked.get(name) ?? new Set();
    const now = new Set(positions);
    this.#marked.set(name, now);
    for (const position of before) if (!now.has(position)) this.update(position);
    for (const position of now) if (!before.has(position)) this.update(position);
  }

  focus() {
    this.root.focus({ preventScroll: true });
  }

  /** A token's element, and a line's end behind it where it has one. */
  #make(position, token, isWanted) {
    const shown = element("span", {
      id: `${this.#prefix}token-${position}`,
      role: "option",
      "data-position": position,
      "aria-selected": "false",
    });
    shown.append(shownText(token.slice(0, LONGEST_TOKEN)));
    if (!token) shown.append("∅");
    if (!isWanted) this.#marked.get("unasked").add(position);
    this.#spans.set(position, shown);
    this.update(position);
    return token.includes("\n") ? [shown, element("br")] : [shown];
  }

  /** Text that scrolls below a mouse which rests is not pointed at. */
  #hover(event) {
    if (event.pointerType !== "mouse" || (event.movementX === 0 && event.movementY === 0)) return;
    this.#onToken(event, (position) => {
      if (position === this.#hovered) return;
      this.#hovered = position;
      this.#listener.hover(position);
    });
  }

  #leave() {
    this.#hovered = null;
    this.#listener.hover(null);
  }

  #onToken(event, then) {
    const shown = event.target.closest(".token");
    if (shown) then(Number(shown.dataset.position));
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const next = this.#target(event.key);
    if (next !== undefined) this.#listener.select(next);
    else if (
      (event.key === "p" || event.key === " " || event.key === "Enter") &&
      this.#selected !== null
    ) {
      this.#listener.pin(this.#selected);
    } else return;
    event.preventDefault();
  }

  /** @returns {number|undefined} where a key leads. */
  #target(key) {
    const order = this.#order;
    if (!order.length) return undefined;
    if (this.#selected === null) return key.startsWith("Arrow") ? order[0] : undefined;
    const index = order.indexOf(this.#selected);
    const clamped = (at) => order[Math.min(Math.max(at, 0), order.length - 1)];
    const ahead = this.root.dir === "rtl" ? -1 : 1;
    if (key === "ArrowRight") return clamped(index + ahead);
    if (key === "ArrowLeft") return clamped(index - ahead);
    if (key === "ArrowDown") return this.#line(index, 1);
    if (key === "ArrowUp") return this.#line(index, -1);
    if (key === "Home") return order[0];
    if (key === "End") return order.at(-1);
    if (key === "PageDown") return clamped(index + PAGE);
    if (key === "PageUp") return clamped(index - PAGE);
    return undefined;
  }

  /** The token of the next line that stands nearest below or above. */
  #line(index, step) {
    const order = this.#order;
    const box = (at) => this.#spans.get(order[at]).getBoundingClientRect();
    const from = box(index);
    const middle = (from.left + from.right) / 2;
    let best = order[index];
    let bestDistance = Infinity;
    let line = null;
    for (let at = index + step; at >= 0 && at < order.length; at += step) {
      const to = box(at);
      if (Math.abs(to.top - from.top) < from.height / 2) continue;
      line ??= to.top;
      if (Math.abs(to.top - line) > from.height / 2) break;
      const distance = Math.abs((to.left + to.right) / 2 - middle);
      if (distance < bestDistance) [best, bestDistance] = [order[at], distance];
    }
    return best;
  }
}

/** Tokens that a file does not name. */
function gap(from, to) {
  const said =
    to - from === 1 ? "1 token is not in the file" : `${to - from} tokens are not in the file`;
  return element("span", { class: "gap", role: "presentation", title: said }, "⋯");
}
