/** The line above a watch: what it does, how far it is, how explanations lag, its buttons. */

import { button, element } from "../element.js";
import { visible } from "../shown.js";
import { count, decimal, silence } from "../words.js";
import { endWord, skipSentence, stateWord } from "./words.js";

const TITLE_CHARACTERS = 120;
const FIGURES = [
  ["said", "said"],
  ["explained", "explained"],
  ["lag", "lag, p50"],
  ["lag-p95", "lag, p95"],
  ["fve", "mean FVE"],
  ["skipped", "not explained"],
  ["seed", "seed"],
];

export class Bar {
  /** @type {HTMLElement} */
  root;

  #title = element("h2", { id: "watch-title", class: "run-title", dir: "auto" });
  #state = element("p", { id: "watch-state", class: "watch-state", role: "status" });
  #figures = new Map();
  #note = element("p", { id: "watch-note", class: "quietly" });
  #buttons;

  /** @param {Object} listener pause, stop, edit, link: what the buttons do; pause goes on, too. */
  constructor(listener) {
    this.#buttons = {
      pause: button("watch-pause", "Pause", listener.pause, { class: "primary" }),
      stop: button("watch-stop", "Stop", listener.stop),
      edit: button("watch-edit", "New watch", listener.edit, { "aria-controls": "watch-composer" }),
      link: button("watch-link", "Copy link", listener.link),
    };
    const list = FIGURES.map(([id, name]) => {
      const value = element("dd", { id: `watch-told-${id}` }, "–");
      this.#figures.set(id, value);
      return element("div", {}, element("dt", {}, name), value);
    });
    const head = element("div", { class: "run-words" }, this.#title, this.#state);
    this.root = element(
      "section",
      { id: "watch-bar", class: "watch-bar", "aria-label": "This watch", hidden: true },
      element(
        "div",
        { class: "watch-head" },
        head,
        element("div", { class: "row" }, ...Object.values(this.#buttons)),
      ),
      element("dl", { class: "watch-figures" }, ...list),
      this.#note,
    );
  }

  /** Where somebody goes on when it has started. */
  focus() {
    this.#buttons.pause.focus();
  }

  /** @param {string} title somebody's text. */
  set title(title) {
    this.#title.textContent = visible(
      title.length > TITLE_CHARACTERS ? `${title.slice(0, TITLE_CHARACTERS)} …` : title,
    );
  }

  /**
   * @param {import("./run.js").WatchRun} run
   * @param {boolean} isEditing the form is open.
   */
  update(run, isEditing) {
    const { record, options } = run;
    this.root.hidden = false;
    this.#state.className = `watch-state ${run.isRunning ? "running" : run.state}`;
    say(this.#state, [`${stateWord(run.state)}.`, endWord(record)].filter(Boolean).join(" "));
    say(
      this.#buttons.pause,
      run.isRunning ? "Pause" : run.state === "failed" ? "Try again" : "Resume",
    );
    this.#buttons.pause.hidden = !run.isRunning && !run.isResumable;
    this.#buttons.stop.hidden = this.#buttons.pause.hidden;
    this.#buttons.edit.setAttribute("aria-expanded", String(isEditing));
    for (const [id, value] of Object.entries(figures(run))) say(this.#figures.get(id), value);
    const notes = [silent(run), skipSentence(record, options.every), goingOn(run)];
    say(this.#note, notes.filter(Boolean).join(" "));
  }
}

function figures({ record, options, spokenMs }) {
  const { reading, lags } = record;
  const rate = spokenMs > 0 ? `, ${decimal((1000 * (record.numSaid - 1)) / spokenMs, 1)}/s` : "";
  const done = reading.wanted.length - record.missing.length;
  const scored = reading.rows.filter(({ fve }) => fve !== null);
  const mean = scored.length ? scored.reduce((sum, { fve }) => sum + fve, 0) / scored.length : null;
  return {
    said: `${count(record.numSaid)}${rate}`,
    explained: `${count(done)} of ${count(reading.wanted.length)}`,
    lag: seconds(quantile(lags, 0.5)),
    "lag-p95": seconds(quantile(lags, 0.95)),
    fve: decimal(mean, 2),
    skipped: count(record.skipped.size),
    seed: options.seed,
  };
}

/** That nothing comes of a call. */
function silent({ state, isRunning, lastAt }) {
  const said = isRunning && state !== "waiting" ? silence(lastAt) : "";
  return said && `N${said.slice(1)}.`;
}

/** What a pause means for what is said after it. */
function goingOn({ record, state }) {
  const isInMiddle = record.numSaid > 0 && record.finishReason === "";
  return state === "paused" && isInMiddle ? "It goes on as it would have without the pause." : "";
}

/** The smallest value that a share of all do not exceed. @returns {number|null} */
function quantile(values, share) {
  const sorted = Float64Array.from(values).sort();
  return sorted.length ? sorted[Math.max(Math.ceil(share * sorted.length) - 1, 0)] : null;
}

function seconds(value) {
  return value === null ? "–" : `${decimal(value, 2)} s`;
}

/** A live region speaks only of what has changed. */
function say(shown, text) {
  if (shown.textContent !== text) shown.textContent = text;
}
