/** The Explain view: asks, shows what comes, and keeps all of it in the address. */

import { copyLink } from "../copy_link.js";
import { damageOf } from "../damage.js";
import { element } from "../element.js";
import { Fault } from "../fault.js";
import { onceAFrame } from "../frame.js";
import { Composer } from "./composer.js";
import { ModelFacts } from "./facts.js";
import { readDocuments, writeRows } from "./jsonl.js";
import { Notice } from "../notice.js";
import { Reading } from "../reading.js";
import { visible } from "../shown.js";
import { ReadingView } from "./reading_view.js";
import { RunBar } from "./run_bar.js";
import { Run } from "./run.js";

const NAME = "explain";
const TELL_EVERY_MS = 1000;

/**
 * @typedef {Object} Ask what was asked for, as the address has it.
 * @property {Run} run
 * @property {string} title
 * @property {Object<string, string>} values what stood in the form.
 * @property {string} seed empty: the service draws it.
 * @property {Object<string, string>} link with what is chosen in it; empty: it came from the form.
 */

/**
 * @param {HTMLElement} root
 * @param {import("../main.js").Context} context
 * @returns {import("../main.js").View}
 */
export function mount(root, context) {
  const view = new ExplainView(root, context);
  return { show: () => view.open(), hide() {} };
}

class ExplainView {
  /** @type {Ask|null} What is seen comes from it; null: from a file, or there is nothing. */
  #seen = null;
  /** @type {Ask|null} It has not been opened yet, so what was there before is still seen. */
  #asking = null;
  /** @type {Reading|null} What is seen. */
  #reading = null;
  /** @type {import("./jsonl.js").Document[]} */
  #documents = [];
  /** @type {Object<string, string>|null} A link that was not opened, till the form is edited. */
  #kept = null;
  #written = null;
  /** @type {File|null} It is being read. */
  #file = null;
  #isOpening = false;
  #context;
  #composer;
  #bar;
  #shown;
  #intro = intro();
  #facts = new ModelFacts();
  #notice = new Notice();
  #fileStatus = element("p", { id: "file-status", role: "status", class: "quietly" });
  #tellSoon = onceAFrame(() => this.#tell());

  constructor(root, context) {
    this.#context = context;
    this.#composer = new Composer({
      ask: (asked) => this.#ask(asked),
      open: (file) => this.#openFile(file),
      edited: () => {
        this.#kept = null;
        this.#write();
      },
    });
    this.#bar = new RunBar({
      stop: () => this.#stop(),
      goOn: () => this.#seen?.run.go(),
      retry: () => this.#retry(),
      edit: () => this.#edit(this.#composer.root.hidden),
      save: () => this.#save(),
      link: (event) => copyLink(event.currentTarget, context.url, context.announce),
      choose: (number) => this.#show(Reading.of(this.#documents[number].rows)),
    });
    this.#shown = new ReadingView(() => this.#write());
    root.append(
      element("h1", { class: "unseen" }, "Explain"),
      this.#intro,
      this.#composer.root,
      this.#notice.root,
      this.#fileStatus,
      this.#bar.root,
      this.#shown.root,
      this.#facts.root,
    );
    root.addEventListener(
      "dragover",
      (event) => event.dataTransfer.types.includes("Files") && event.preventDefault(),
    );
    root.addEventListener("drop", (event) => {
      event.preventDefault();
      if (event.dataTransfer.files.length) this.#openFile(event.dataTransfer.files[0]);
    });
    context.service.addEventListener("change", () => this.#serviceChanged());
    setInterval(() => this.#isRunning && this.#tell(), TELL_EVERY_MS);
  }

  /** The view is seen; where the address is another one than was written, it is opened. */
  open() {
    const parameters = this.#context.url.read(NAME);
    if (JSON.stringify(parameters) === this.#written) return;
    const damage = damageOf(parameters);
    this.#isOpening = true;
    this.#stop();
    this.#notice.hide();
    this.#composer.values = parameters;
    this.#kept = parameters.drawn && !damage ? parameters : null;
    const asked = this.#kept && this.#composer.read();
    const options = { ...asked?.options, seed: parameters.drawn };
    if (asked) this.#ask({ ...asked, options }, parameters);
    else this.#clear();
    this.#isOpening = false;
    this.#write();
    if (damage) this.#notice.show(damage, "bad");
  }

  /** Nothing but the form is seen. */
  #clear() {
    this.#seen = this.#reading = null;
    this.#shown.root.hidden = true;
    this.#composer.root.hidden = this.#intro.hidden = false;
    this.#tell();
  }

  /** @param {Object<string, string>} link with a selection, pins and a search. */
  #ask(asked, link = {}) {
    this.#stop();
    this.#notice.hide();
    const reading = new Reading(asked.options.num_samples ?? 1);
    const run = new Run(this.#context, reading, asked, {
      opened: () => this.#opened(ask),
      touched: (positions, at, scored) => {
        if (this.#seen !== ask) return;
        this.#shown.touch(positions, at, scored);
        this.#tellSoon();
      },
      changed: () => this.#runChanged(ask),
    });
    const { title, values } = this.#composer;
    const ask = { run, title, values, seed: asked.options.seed ?? "", link };
    this.#asking = ask;
    this.#kept = null;
    this.#write(this.#seen !== null);
    run.go();
  }

  #stop() {
    this.#file = null;
    this.#fileStatus.textContent = "";
    this.#asking?.run.stop();
    this.#seen?.run.stop();
  }

  #opened(ask) {
    if (this.#asking !== ask) return;
    [this.#seen, this.#asking] = [ask, null];
    const { reading } = ask.run;
    this.#reading = reading;
    this.#bar.documents = this.#documents = [];
    this.#bar.title = ask.title;
    const hadFocus = this.#composer.root.contains(document.activeElement);
    this.#edit(false);
    this.#display(ask.link);
    if (hadFocus) this.#shown.tokens.focus();
    this.#context.announce(`The text has ${reading.tokens.size} tokens. Explanations follow.`);
  }

  /** @param {Object<string, string>} link its search counts, too; without one the search stays. */
  #display({ at = "", pins = "", find = "", drawn = "" }, isNew = false) {
    const pinned = pins.split(",").filter(Boolean).map(Number);
    this.#isOpening = true;
    this.#facts.root.open = false;
    this.#shown.show(this.#reading);
    this.#shown.restore(at ? Number(at) : null, pinned, drawn ? find : this.#shown.search.query);
    this.#isOpening = false;
    this.#write(isNew);
    this.#tell();
  }

  #runChanged(ask) {
    if (ask !== this.#asking && ask !== this.#seen) return;
    const { state, fault } = ask.run;
    if (state === "waiting") this.#notice.show(fault, "warn");
    else if (state === "failed") {
      this.#composer.options.refuse(fault.field ?? "", fault.message);
      this.#notice.show(fault, "bad");
      if (ask === this.#asking) this.#edit(true);
    } else if (state !== "running" || fault === null) this.#notice.hide();
    const said = this.#tell();
    if (!ask.run.isOver) return;
    if (state !== "failed") this.#context.announce(said);
    if (ask === this.#asking) this.#giveUp(ask);
  }

  /** What was seen before is what there is; or a link that is worth another try. */
  #giveUp(ask) {
    this.#asking = null;
    this.#kept = this.#reading ? null : addressOf(ask, ask.link);
    this.#write();
    this.#tell();
  }

  get #isRunning() {
    return [this.#asking, this.#seen].some((ask) => ask && !ask.run.isOver);
  }

  #tell() {
    return this.#bar.update(
      (this.#asking ?? this.#seen)?.run ?? null,
      this.#asking ? null : this.#reading,
      !this.#composer.root.hidden,
    );
  }

  #retry() {
    const positions = this.#reading.forgetFailed();
    this.#shown.touch(positions, performance.now(), []);
    this.#seen.run.go();
  }

  #edit(isEditing) {
    this.#composer.root.hidden = this.#intro.hidden = !isEditing;
    if (isEditing) this.#composer.focus();
    this.#tell();
  }

  async #openFile(file) {
    this.#file = file;
    this.#fileStatus.textContent = `Reading ${visible(file.name)} …`;
    let documents, reading;
    try {
      documents = await readDocuments(file);
      reading = Reading.of(documents[0].rows);
    } catch (error) {
      if (this.#file !== file) return;
      this.#notice.show(
        new Fault({ code: "INVALID_ARGUMENT", message: `In ${file.name}, ${error.message}.` }),
        "bad",
      );
      return;
    } finally {
      if (this.#file === file) this.#fileStatus.textContent = "";
    }
    // Another file was chosen, or something was asked for meanwhile.
    if (this.#file !== file) return;
    this.#stop();
    const wasAnother = this.#seen !== null;
    this.#seen = this.#kept = null;
    this.#documents = this.#bar.documents = documents;
    this.#bar.title = file.name;
    this.#edit(false);
    this.#show(reading, wasAnother);
    this.#shown.tokens.focus();
  }

  /** A reading of a file. */
  #show(reading, isNew = false) {
    this.#reading = reading;
    this.#display({}, isNew);
    const { failure } = reading;
    if (failure) this.#notice.show(new Fault(failure.error), "bad");
    else this.#notice.hide();
  }

  #save() {
    const url = URL.createObjectURL(
      new Blob([writeRows(this.#reading.rows)], { type: "application/jsonl" }),
    );
    element("a", { href: url, download: "explanations.jsonl" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  /** @param {boolean} [isNew] another text is opened, so that Back leads to the one before. */
  #write(isNew = false) {
    if (this.#isOpening) return;
    const { selected, pinned, search } = this.#shown;
    const chosen = {
      at: selected === null ? "" : String(selected),
      pins: pinned.join(","),
      find: search.query,
    };
    let parameters = this.#kept ?? this.#composer.values;
    if (this.#asking) parameters = addressOf(this.#asking, this.#asking.link);
    else if (this.#seen) parameters = addressOf(this.#seen, chosen);
    this.#context.url.write(NAME, parameters, isNew);
    this.#written = JSON.stringify(this.#context.url.read(NAME));
  }

  #serviceChanged() {
    const { service } = this.#context;
    this.#facts.show(service.model, service.fault);
    this.#composer.options.limits = service.model?.limits ?? null;
  }
}

/** @param {Ask} ask @param {Object<string, string>} chosen */
function addressOf({ run, values, seed }, { at, pins, find }) {
  return { ...values, drawn: String(run.reading.seed ?? seed), at, pins, find };
}

function intro() {
  const lead =
    "The model reads a text. What it thinks at each token, its activation, is put into words, " +
    "and how well they carry it is measured.";
  return element(
    "div",
    {},
    element("p", { class: "display" }, "Explain a text"),
    element("p", { class: "lead" }, lead),
  );
}
