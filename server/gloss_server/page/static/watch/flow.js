/**
 * The flow: tokens in the order of the text, each beside its explanations, the newest in view.
 *
 * It follows what is being said until its reader scrolls up or moves along it, and again from its
 * end on.
 */

import { button, element } from "../element.js";
import { plural } from "../words.js";
import { Row, tokenChip } from "./row.js";
import { skipMeaning } from "./words.js";

/** Nearer to the end than this is at the end. */
const NEAR_PIXELS = 24;
/** Where the first explanation that still grows stands in the view: finished ones are above it. */
const GROWING_AT = 0.6;

export class Flow {
  /** @type {HTMLElement} */
  root;

  #list = element("ol", {
    id: "watch-rows",
    class: "flow",
    "aria-label": "Tokens, and what their activations say",
  });
  #newest;
  #listener;
  #record = null;
  #every = 1;
  /** @type {Map<number, Row>} */
  #rows = new Map();
  /** @type {Map<number, HTMLElement>} Rows that hold tokens between every n-th. */
  #between = new Map();
  #follows = true;
  #lastTop = 0;
  #numUnseen = 0;

  /**
   * @param {Object} listener
   * @param {(position: number) => void} listener.select somebody has moved to a token.
   * @param {() => void} listener.follow somebody wants to follow the newest.
   */
  constructor(listener) {
    this.#listener = listener;
    this.#newest = button("watch-newest", "", () => this.follow(), {
      class: "newest",
      hidden: true,
    });
    this.root = element("div", { class: "flow-box" }, this.#list, this.#newest);
    this.#list.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#list.addEventListener("keydown", (event) => this.#press(event));
    this.#list.addEventListener("click", (event) => {
      if (!event.target.closest("button")) this.#choose(event.target.closest("li"));
    });
  }

  /**
   * Begin anew.
   *
   * @param {import("./record.js").WatchRecord} record
   * @param {number} every of the watch.
   */
  begin(record, every) {
    this.#record = record;
    this.#every = every;
    this.#rows.clear();
    this.#between.clear();
    this.#list.replaceChildren();
    this.follow();
  }

  /** @param {number[]} changed positions, ascending. */
  draw(changed) {
    const before = this.#list.childElementCount;
    for (const position of changed) this.#drawToken(position);
    const first = this.#list.firstElementChild;
    if (first && !this.#list.querySelector(':scope > [tabindex="0"]')) first.tabIndex = 0;
    if (this.#follows) this.#toNewest();
    else this.#numUnseen += this.#list.childElementCount - before;
    this.#say();
  }

  /** Keep the newest in view from now on. */
  follow() {
    this.#setFollows(true);
    this.#toNewest();
    this.#say();
    this.#listener.follow();
  }

  /** Bring a token's row into view. @param {number} position */
  reveal(position) {
    const item = this.#rows.get(position)?.root ?? this.#between.get(position);
    if (!item) return;
    this.#setFollows(false);
    this.#list.scrollTop = item.offsetTop - (this.#list.clientHeight - item.offsetHeight) / 2;
    this.#lastTop = this.#list.scrollTop;
    this.#mark(item);
    this.#say();
  }

  #drawToken(position) {
    const row = this.#rows.get(position);
    const { reading, skipped } = this.#record;
    if (row) row.draw();
    else if (skipped.get(position) === "every") this.#drawBetween(position);
    else if (!this.#record.isPrompt(position) || reading.places.has(position)) {
      const made = new Row(this.#record, position, this.#every);
      this.#rows.set(position, made);
      this.#insert(made.root, position);
    }
  }

  /** Tokens between every n-th stand together, and why is said once. */
  #drawBetween(position) {
    if (this.#between.has(position)) return;
    const chip = tokenChip(this.#record.reading.tokens.get(position));
    let item = this.#list.lastElementChild;
    if (item?.classList.contains("flow-between")) item.firstElementChild.append(chip);
    else {
      const note = element(
        "p",
        { class: "note" },
        `Not explained: ${skipMeaning("every", this.#every)}.`,
      );
      const head = element(
        "div",
        { class: "head" },
        element("span", { class: "position" }, String(position)),
        chip,
      );
      item = element(
        "li",
        { class: "flow-between", tabindex: "-1", "data-position": position },
        head,
        element("div", { class: "said" }, note),
      );
      this.#list.append(item);
    }
    this.#between.set(position, item);
  }

  /** Rows come in the order of the text, but for those of the prompt, which may be read late. */
  #insert(item, position) {
    const last = this.#list.lastElementChild;
    if (!last || Number(last.dataset.position) < position) return this.#list.append(item);
    const after = [...this.#list.children].find(
      (other) => Number(other.dataset.position) > position,
    );
    this.#list.insertBefore(item, after);
  }

  /** While it follows, the browser adjusts nothing: whoever scrolls up is the reader. */
  #scrolled() {
    const { scrollTop: top, scrollHeight, clientHeight } = this.#list;
    const left = scrollHeight - clientHeight - top;
    // Rows that become smaller move the end up, larger ones what is in view down: nobody scrolled.
    if (top < this.#lastTop - 1 && left > 1) this.#setFollows(false);
    else if (top > this.#lastTop && left < NEAR_PIXELS) this.#setFollows(true);
    this.#lastTop = top;
    this.#say();
  }

  #press(event) {
    const item = event.target.closest("li");
    if (!item || event.altKey || event.ctrlKey || event.metaKey) return;
    const to = {
      ArrowDown: () => item.nextElementSibling,
      ArrowUp: () => item.previousElementSibling,
      Home: () => this.#list.firstElementChild,
      End: () => this.#list.lastElementChild,
    }[event.key]?.();
    if (to === undefined) return;
    event.preventDefault();
    if (to === null) return;
    if (event.key === "End") this.follow();
    else this.#setFollows(false);
    this.#choose(to);
  }

  #choose(item) {
    if (!item) return;
    this.#mark(item);
    item.focus({ preventScroll: true });
    item.scrollIntoView({ block: "nearest" });
    this.#lastTop = this.#list.scrollTop;
    this.#listener.select(Number(item.dataset.position));
  }

  /** One row is reached with Tab. */
  #mark(item) {
    for (const other of this.#list.querySelectorAll(':scope > [tabindex="0"]')) {
      other.tabIndex = -1;
      other.classList.remove("chosen");
    }
    item.tabIndex = 0;
    item.classList.add("chosen");
  }

  #setFollows(follows) {
    this.#follows = follows;
    if (follows) this.#numUnseen = 0;
    this.#list.classList.toggle("following", follows);
  }

  /** Never back up: who has scrolled on to the very end stays there until the rest has come. */
  #toNewest() {
    this.#list.scrollTop = Math.max(this.#newestTop(), this.#list.scrollTop);
    this.#lastTop = this.#list.scrollTop;
  }

  /** The end, or what is being said where more than a view of it waits behind that. */
  #newestTop() {
    const end = this.#list.scrollHeight - this.#list.clientHeight;
    const [first] = this.#record?.missing ?? [];
    const growing = this.#rows.get(first)?.root;
    return growing ? Math.min(end, growing.offsetTop - GROWING_AT * this.#list.clientHeight) : end;
  }

  #say() {
    this.#newest.hidden = this.#follows;
    const said =
      this.#numUnseen > 0
        ? `Follow the newest, ${plural(this.#numUnseen, "row")} below`
        : "Follow the newest";
    if (this.#newest.textContent !== said) this.#newest.textContent = said;
  }
}
