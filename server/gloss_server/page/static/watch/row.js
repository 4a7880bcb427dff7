/** A token of the flow beside what its activation says, with its evidence, or why nothing. */

import { fveChip } from "../sample_card.js";
import { saidSoFar } from "../reading.js";
import { element } from "../element.js";
import { colour } from "../palette.js";
import { passage, shownText, visible } from "../shown.js";
import { decimal, flagMeaning } from "../words.js";
import { skipMeaning } from "./words.js";

const LONGEST_TOKEN = 80;

export class Row {
  /** @type {HTMLElement} an item of the flow. */
  root;

  #chip;
  #aside = element("small", { class: "aside" });
  #said = element("div", { class: "said" });
  /** @type {{root: HTMLElement, isFinished: boolean}[]} */
  #samples = [];
  #record;
  #position;
  #every;

  /**
   * @param {import("./record.js").WatchRecord} record
   * @param {number} position
   * @param {number} every of the watch.
   */
  constructor(record, position, every) {
    this.#record = record;
    this.#position = position;
    this.#every = every;
    this.#chip = tokenChip(record.reading.tokens.get(position));
    const head = element(
      "div",
      { class: "head" },
      element("span", { class: "position" }, String(position)),
      this.#chip,
      this.#aside,
    );
    this.root = element(
      "li",
      { id: `watch-row-${position}`, class: "flow-row", tabindex: "-1", "data-position": position },
      head,
      this.#said,
    );
    this.draw();
  }

  /** Show what is known now. */
  draw() {
    const { reading, skipped } = this.#record;
    const samples = reading.samples.get(this.#position) ?? [];
    const reason = skipped.get(this.#position);
    colour(this.#chip, reading.fve(this.#position));
    this.root.classList.toggle(
      "unsaid",
      !reason && !samples.some((sample) => sample.row || saidSoFar(sample)),
    );
    this.#aside.textContent = this.#when(samples);
    this.root.classList.toggle("skipped", reason !== undefined);
    if (reason) {
      const note = element(
        "p",
        { class: "note" },
        `Not explained: ${skipMeaning(reason, this.#every)}.`,
      );
      this.#said.replaceChildren(...this.#samples.map(({ root }) => root), note);
    } else if (!samples.length) {
      this.#said.replaceChildren(element("p", { class: "note" }, "…"));
    } else {
      samples.forEach((sample, index) => this.#drawSample(sample, index, samples.length));
    }
  }

  #drawSample(sample, index, numSamples) {
    if (!this.#samples.length) this.#said.replaceChildren();
    if (!this.#samples[index]) {
      const root = element("div", { class: "watch-sample" });
      this.#samples[index] = { root, isFinished: false };
      this.#said.append(root);
    }
    const shown = this.#samples[index];
    if (shown.isFinished) return;
    shown.isFinished = sample.row !== null;
    const label = numSamples > 1 ? `Sample ${index + 1}` : "";
    shown.root.replaceChildren(...(sample.row ? finished(sample.row, label) : [growing(sample)]));
  }

  /** How long after its token it was explained. */
  #when(samples) {
    if (this.#record.isPrompt(this.#position)) return "prompt";
    if (this.#record.late.has(this.#position)) return "after a pause";
    const lags = samples
      .map(({ row }) => row?.lag_seconds)
      .filter((lag) => typeof lag === "number");
    return lags.length ? `${decimal(Math.max(...lags), 2)} s later` : "";
  }
}

/**
 * A token by itself: blanks that it begins with are not told apart, one of blanks alone is visible.
 *
 * @param {string} token
 * @returns {HTMLElement}
 */
export function tokenChip(token) {
  const text = token.slice(0, LONGEST_TOKEN);
  const isBlank = text.trim() === "";
  const chip = element("span", { class: "watch-token", dir: "auto" });
  chip.append(
    isBlank ? visible(text).replaceAll(" ", "␣") || "∅" : shownText(text.replace(/^ +| +$/g, "")),
  );
  return chip;
}

/** @param {import("../reading.js").Sample} sample */
function growing(sample) {
  const said = saidSoFar(sample);
  const shown = element("p", { class: "passage growing", dir: "auto" });
  shown.append(said ? shownText(said) : "…");
  return shown;
}

/** @param {any} row @param {string} label */
function finished(row, label) {
  if (row.error) {
    return [
      element(
        "p",
        { class: "failed-row" },
        element("strong", {}, "It failed. "),
        visible(row.error.message),
      ),
    ];
  }
  const evidence = element("p", { class: "evidence" });
  if (label) evidence.append(element("span", {}, label));
  evidence.append(
    element("span", {}, "FVE ", fveChip(row.fve)),
    element("span", {}, `cosine ${decimal(row.cosine, 3)}`),
  );
  for (const flag of row.flags) {
    const mark = element("span", { class: "flag-mark", "aria-hidden": "true" });
    evidence.append(element("span", { class: "flag", "data-flag": flag }, mark, flagMeaning(flag)));
  }
  return [passage(row.explanation), evidence];
}
