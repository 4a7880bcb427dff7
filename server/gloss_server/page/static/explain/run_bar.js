/** The line above a text: what is being done, how far it has come, and what can be done with it. */

import { button, element } from "../element.js";
import { visible } from "../shown.js";
import { count, decimal, plural, silence } from "../words.js";

const TITLE_CHARACTERS = 120;
/** Before a text's tokens are there. */
const BEFORE = {
  running: "Asking the service …",
  waiting: "Waiting for the service …",
  stopped: "Stopped.",
  failed: "Refused.",
  done: "",
};
const STATES = {
  running: "Explaining: ",
  waiting: "Waiting for the service: ",
  stopped: "Stopped: ",
  failed: "Ended early: ",
  done: "",
};

export class RunBar {
  #title = element("h2", { id: "run-title", class: "run-title", dir: "auto" });
  #told = element("p", { id: "run-status" });
  #meter = element("progress", {
    id: "run-progress",
    "aria-label": "Tokens explained",
    value: 0,
    max: 1,
  });
  #documents = element("select", { id: "document", "aria-label": "Document of the file" });
  #buttons;

  /**
   * @param {Object} listener stop, goOn, retry, edit, save, link: what the buttons do; `choose` is
   *   given the number of a document.
   */
  constructor(listener) {
    this.#buttons = {
      stop: button("stop", "Stop", listener.stop),
      goOn: button("go-on", "Go on", listener.goOn, { class: "primary", hidden: true }),
      retry: button("retry-failed", "Ask for the failed again", listener.retry, { hidden: true }),
      edit: button("edit", "Edit", listener.edit, { "aria-controls": "composer" }),
      save: button("export", "Export JSONL", listener.save),
      link: button("copy-link", "Copy link", listener.link),
    };
    this.#documents.addEventListener("change", () =>
      listener.choose(Number(this.#documents.value)),
    );
    this.root = element(
      "section",
      { id: "run-bar", class: "run-bar", "aria-label": "This reading", hidden: true },
      element("div", { class: "run-words" }, this.#title, this.#told),
      this.#documents,
      element("div", { class: "row" }, ...Object.values(this.#buttons)),
      this.#meter,
    );
  }

  /** @param {string} title somebody's text. */
  set title(title) {
    this.#title.textContent = visible(
      title.length > TITLE_CHARACTERS ? `${title.slice(0, TITLE_CHARACTERS)} …` : title,
    );
  }

  /** @param {import("./jsonl.js").Document[]} documents of a file; none: nothing to choose. */
  set documents(documents) {
    const name = ({ docId, rows }) =>
      `${visible(docId.slice(0, 60))} (${plural(rows.length, "row")})`;
    this.#documents.replaceChildren();
    // One at a time: a file may have more documents than a call may have arguments.
    documents.forEach((one, number) =>
      this.#documents.append(element("option", { value: number }, name(one))),
    );
    this.#documents.hidden = documents.length < 2;
  }

  /**
   * @param {import("./run.js").Run|null} run null: it came from a file.
   * @param {import("../reading.js").Reading|null} reading null: nothing has been read yet.
   * @param {boolean} isEditing the form is open.
   * @returns {string} what is said.
   */
  update(run, reading, isEditing) {
    const progress = reading ? countDone(reading) : { done: 0, wanted: 0, failed: 0, fve: null };
    const busy = run !== null && !run.isOver;
    const left = progress.wanted - progress.done;
    this.root.hidden = run === null && reading === null;
    this.#buttons.stop.hidden = run === null;
    this.#buttons.stop.setAttribute("aria-disabled", String(!busy));
    this.#buttons.goOn.hidden = !(run && reading && run.isOver && left > 0);
    this.#buttons.retry.hidden = !(run?.isOver && progress.failed);
    this.#buttons.edit.setAttribute("aria-expanded", String(isEditing));
    this.#buttons.save.hidden = !reading?.rows.length;
    this.#buttons.link.hidden = run === null;
    this.#meter.max = Math.max(progress.wanted, 1);
    this.#meter.value = progress.done;
    this.#meter.hidden = !busy;
    const said = words(run, reading, progress);
    if (this.#told.textContent !== said) this.#told.textContent = said;
    return said;
  }
}

function countDone(reading) {
  let [done, failed, scored, sum] = [0, 0, 0, 0];
  for (const position of reading.wanted) if (reading.isDone(position)) done += 1;
  for (const { error, fve } of reading.rows) {
    if (error) failed += 1;
    if (fve === null) continue;
    scored += 1;
    sum += fve;
  }
  return { done, wanted: reading.wanted.length, failed, fve: scored ? sum / scored : null };
}

function words(run, reading, { done, wanted, failed, fve }) {
  const slow = [run?.state === "running" ? silence(run.lastAt) : ""].filter(Boolean);
  if (reading === null) return run === null ? "" : [BEFORE[run.state], ...slow].join(" · ");
  if (reading.failure) return "This text could not be read.";
  const state = run === null ? "From a file: " : STATES[run.state];
  const parts = [`${state}${count(done)} of ${plural(wanted, "token")} explained`];
  const others = reading.tokens.size - wanted;
  if (others) parts.push(`${count(others)} not asked for`);
  if (failed) parts.push(`${count(failed)} failed`);
  if (fve !== null) parts.push(`mean FVE ${decimal(fve, 2)}`);
  if (reading.seed !== null) parts.push(`seed ${reading.seed}`);
  return [...parts, ...slow].join(" · ");
}
