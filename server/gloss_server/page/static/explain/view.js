/** The Explain view: asks, shows what comes, and keeps all of it in the address. */

import { copyLink } from "../copy_link.js";
import { element } from "../element.js";
import { Fault } from "../fault.js";
import { onceAFrame } from "../frame.js";
import { Composer } from "./composer.js";
import { ModelFacts } from "./facts.js";
import { readDocuments, writeRows } from "./jsonl.js";
import { Notice } from "../notice.js";
import { Reading } from "../reading.js";
import { ReadingView } from "./reading_view.js";
import { RunBar } from "./run_bar.js";
import { Run } from "./run.js";

const NAME = "explain";
const TELL_EVERY_MS = 1000;

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
  /** @type {Run|null} What is seen comes from it; null: from a file, or there is nothing. */
  #run = null;
  /** @type {Run|null} It has not been opened yet, so what was there before is still seen. */
  #asking = null;
  /** @type {Reading|null} What is seen. */
  #reading = null;
  /** @type {import("./jsonl.js").Document[]} */
  #documents = [];
  #drawn = "";
  /** What stood in the form when what is seen was asked for; null: it was not. */
  #asked = null;
  #written = null;
  #isOpening = false;
  #context;
  #composer;
  #bar;
  #shown;
  #intro = intro();
  #facts = new ModelFacts();
  #notice = new Notice();
  #tellSoon = onceAFrame(() => this.#tell());

  constructor(root, context) {
    this.#context = context;
    this.#composer = new Composer({
      ask: (asked) => this.#ask(asked),
      open: (file) => this.#openFile(file),
      edited: () => this.#write(),
    });
    this.#bar = new RunBar({
      stop: () => this.#stop(),
      goOn: () => this.#run?.go(),
      retry: () => this.#retry(),
      edit: () => this.#edit(this.#composer.root.hidden),
      save: () => this.#save(),
      link: (event) => copyLink(event.currentTarget, context.url, context.announce),
      choose: (number) => this.#choose(number),
    });
    this.#shown = new ReadingView(() => this.#write());
    root.append(
      element("h1", { class: "unseen" }, "Explain"),
      this.#intro,
      this.#composer.root,
      this.#notice.root,
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
    this.#isOpening = true;
    this.#composer.values = parameters;
    this.#isOpening = false;
    this.#write();
    if (parameters.damaged) {
      this.#notice.show(
        new Fault({
          code: "INVALID_ARGUMENT",
          message: `The link is damaged: its ${parameters.damaged} cannot be read.`,
        }),
        "bad",
      );
    } else if (parameters.drawn) {
      const asked = this.#composer.read();
      if (asked)
        this.#ask({ ...asked, options: { ...asked.options, seed: parameters.drawn } }, parameters);
    }
  }

  /** @param {Object<string, string>|null} wanted selection, pins and search of a link. */
  #ask(asked, wanted = null) {
    this.#stop();
    this.#notice.hide();
    const reading = new Reading(asked.options.num_samples ?? 1);
    const form = { title: this.#composer.title, values: this.#composer.values };
    const run = new Run(this.#context, reading, asked, {
      opened: () => this.#opened(run, form, wanted),
      touched: (positions, at, scored) => {
        if (this.#run !== run) return;
        this.#shown.touch(positions, at, scored);
        this.#tellSoon();
      },
      changed: () => this.#runChanged(run),
    });
    this.#asking = run;
    run.go();
  }

  #stop() {
    this.#asking?.stop();
    this.#run?.stop();
  }

  #opened(run, { title, values }, wanted) {
    if (this.#asking !== run) return;
    [this.#run, this.#asking] = [run, null];
    this.#reading = run.reading;
    this.#drawn = String(run.reading.seed);
    this.#asked = values;
    this.#bar.documents = this.#documents = [];
    this.#bar.title = title;
    const hadFocus = this.#composer.root.contains(document.activeElement);
    this.#edit(false);
    this.#display(wanted);
    if (hadFocus) this.#shown.tokens.focus();
    this.#context.announce(`The text has ${run.reading.tokens.size} tokens. Explanations follow.`);
  }

  #display(wanted) {
    const pins = (wanted?.pins ?? "").split(",").filter(Boolean).map(Number);
    const at = wanted?.at ? Number(wanted.at) : null;
    this.#isOpening = true;
    this.#facts.root.open = false;
    this.#shown.show(this.#reading);
    this.#shown.restore(at, pins, wanted?.find ?? this.#shown.search.query);
    this.#isOpening = false;
    this.#write();
    this.#tell();
  }

  #runChanged(run) {
    if (run !== this.#asking && run !== this.#run) return;
    const { state, fault } = run;
    if (state === "waiting") this.#notice.show(fault, "warn");
    else if (state === "failed") {
      this.#composer.options.refuse(fault.field ?? "", fault.message);
      this.#notice.show(fault, "bad");
      if (run === this.#asking) this.#edit(true);
    } else if (state !== "running" || fault === null) this.#notice.hide();
    const said = this.#tell();
    if (!run.isOver) return;
    if (state !== "failed") this.#context.announce(said);
    if (run === this.#asking) {
      this.#asking = null;
      this.#tell();
    }
  }

  get #isRunning() {
    return [this.#asking, this.#run].some((run) => run && !run.isOver);
  }

  #tell() {
    return this.#bar.update(
      this.#asking ?? this.#run,
      this.#asking ? null : this.#reading,
      !this.#composer.root.hidden,
    );
  }

  #retry() {
    const positions = this.#reading.forgetFailed();
    this.#shown.touch(positions, performance.now(), []);
    this.#run.go();
  }

  #edit(isEditing) {
    this.#composer.root.hidden = this.#intro.hidden = !isEditing;
    if (isEditing) this.#composer.focus();
    this.#tell();
  }

  async #openFile(file) {
    let documents;
    try {
      documents = await readDocuments(file);
    } catch (error) {
      this.#notice.show(
        new Fault({ code: "INVALID_ARGUMENT", message: `In ${file.name}, ${error.message}.` }),
        "bad",
      );
      return;
    }
    this.#stop();
    this.#run = this.#asked = null;
    this.#drawn = "";
    this.#documents = this.#bar.documents = documents;
    this.#bar.title = file.name;
    this.#edit(false);
    this.#choose(0);
    this.#shown.tokens.focus();
  }

  #choose(number) {
    this.#reading = Reading.of(this.#documents[number].rows);
    this.#display(null);
    const { failure } = this.#reading;
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

  #write() {
    if (this.#isOpening) return;
    const { selected, pinned, search } = this.#shown;
    const parameters = {
      ...(this.#asked ?? this.#composer.values),
      drawn: this.#drawn,
      at: selected === null ? "" : String(selected),
      pins: pinned.join(","),
      find: search.query,
    };
    this.#context.url.write(NAME, parameters);
    this.#written = JSON.stringify(this.#context.url.read(NAME));
  }

  #serviceChanged() {
    const { service } = this.#context;
    this.#facts.show(service.model, service.fault);
    this.#composer.options.limits = service.model?.limits ?? null;
  }
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
