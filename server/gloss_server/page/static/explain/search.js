/** Searching in explanations: which tokens match, and going from one to the next. */

import { button, element } from "../element.js";
import { shownText } from "../shown.js";
import { count } from "../words.js";
import { saidSoFar } from "../reading.js";

export class Search {
  /** @type {Set<number>} Positions with a match. */
  found = new Set();
  #input = element("input", {
    id: "search",
    type: "search",
    placeholder: "Search in explanations",
    "aria-label": "Search in explanations",
    autocomplete: "off",
    spellcheck: "false",
  });
  #told = element("output", { id: "search-count", for: "search" });
  #steps = element("span", { class: "steps", hidden: true });
  #pattern = null;

  /**
   * @param {Object} listener
   * @param {() => void} listener.changed what is searched for is another.
   * @param {(position: number) => void} listener.select
   * @param {() => {order: number[], selected: number|null}} listener.place
   */
  constructor(listener) {
    const step = (by) => {
      const { order, selected } = listener.place();
      const next = this.#next(order, selected, by);
      if (next !== undefined) listener.select(next);
    };
    this.#steps.append(
      button("previous-match", "↑", () => step(-1), {
        class: "quiet",
        "aria-label": "Previous match",
      }),
      button("next-match", "↓", () => step(1), { class: "quiet", "aria-label": "Next match" }),
    );
    this.root = element(
      "div",
      { class: "search", role: "search", "aria-label": "Explanations" },
      this.#input,
      this.#told,
      this.#steps,
    );
    this.#input.addEventListener("input", () => {
      this.#compile();
      listener.changed();
    });
    this.#input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      step(event.shiftKey ? -1 : 1);
    });
  }

  get query() {
    return this.#input.value;
  }

  set query(query) {
    this.#input.value = query;
    this.#compile();
  }

  /** How an explanation becomes nodes: what was searched for stands out. */
  show = (text) => {
    if (this.#pattern === null) return shownText(text);
    const shown = document.createDocumentFragment();
    let end = 0;
    for (const match of text.matchAll(this.#pattern)) {
      shown.append(
        shownText(text.slice(end, match.index)),
        element("mark", {}, shownText(match[0])),
      );
      end = match.index + match[0].length;
    }
    shown.append(shownText(text.slice(end)));
    return shown;
  };

  /** Look at some positions again. @returns {boolean} whether other ones match now. */
  look(reading, positions) {
    let changed = false;
    for (const position of positions) {
      const matches = this.#pattern !== null && this.#matches(reading, position);
      if (matches === this.found.has(position)) continue;
      changed = true;
      if (matches) this.found.add(position);
      else this.found.delete(position);
    }
    this.#tell();
    return changed;
  }

  #matches(reading, position) {
    return (reading.samples.get(position) ?? []).some(
      (sample) => saidSoFar(sample).search(this.#pattern) >= 0,
    );
  }

  #next(order, selected, by) {
    const matches = order.filter((position) => this.found.has(position));
    if (by > 0)
      return matches.find((position) => selected === null || position > selected) ?? matches[0];
    return (
      matches.findLast((position) => selected === null || position < selected) ?? matches.at(-1)
    );
  }

  #compile() {
    const query = this.#input.value.trim();
    this.#pattern = query ? new RegExp(query.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "giu") : null;
  }

  #tell() {
    this.#told.textContent =
      this.#pattern === null
        ? ""
        : this.found.size
          ? `${count(this.found.size)} found`
          : "none found";
    this.#steps.hidden = !this.found.size;
  }
}
