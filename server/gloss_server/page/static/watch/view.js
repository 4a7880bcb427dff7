/** The watch view: starts a watch, shows what comes, and keeps what was asked in the address. */

import { copyLink } from "../copy_link.js";
import { damageOf } from "../damage.js";
import { element } from "../element.js";
import { Notice } from "../notice.js";
import { Tokens } from "../tokens.js";
import { onceAFrame } from "../frame.js";
import { legend } from "../legend.js";
import { Bar } from "./bar.js";
import { Composer } from "./composer.js";
import { Flow } from "./flow.js";
import { WatchRecord } from "./record.js";
import { WatchRun } from "./run.js";
import { runSentence, skipMeaning } from "./words.js";

const NAME = "watch";
const KEYS = "Arrow keys move along the text, and along the explanations; End follows the newest.";
/** Nearer to the end of the text than this is at its end. */
const NEAR_PIXELS = 24;
const TELL_EVERY_MS = 1000;

/**
 * @typedef {Object} Former what is seen while the prompt of another watch has not been read.
 * @property {WatchRun} run
 * @property {Object<string, string>|null} asked
 * @property {string} title
 */

/**
 * @param {HTMLElement} root
 * @param {import("../main.js").Context} context
 * @returns {import("../main.js").View}
 */
export function mount(root, context) {
  const view = new WatchView(root, context);
  return { show: () => view.show(), hide() {} };
}

class WatchView {
  /** @type {WatchRun|null} */
  #run = null;
  #context;
  #notice = new Notice("watch-");
  #composer;
  #bar;
  #tokens;
  #text;
  #flow;
  #results;
  #state = "";
  /** @type {Object<string, string>|null} What was asked for, as the address has it. */
  #asked = null;
  /** @type {Former|null} */
  #former = null;
  #title = "";
  #written = null;
  #isOpened = false;
  #drawSoon = onceAFrame(() => this.#draw());

  constructor(root, context) {
    this.#context = context;
    this.#composer = new Composer({
      start: (options) => this.#start(options, this.#isOpened || this.#former !== null),
      edited: () => this.#write(),
    });
    this.#bar = new Bar({
      pause: () => (this.#run.isRunning ? this.#run.pause() : this.#run.go()),
      stop: () => this.#run.stop(),
      edit: () => this.#edit(this.#composer.root.hidden),
      link: (event) => copyLink(event.currentTarget, context.url, context.announce),
    });
    const reveal = (position) => this.#reveal(position);
    this.#tokens = new Tokens({ select: reveal, hover() {}, pin: reveal }, "watch-");
    this.#flow = new Flow({
      select: (position) => this.#tokens.select(position),
      follow: () => this.#toEnd(),
    });
    this.#text = element("div", { class: "watch-text" }, this.#tokens.root);
    this.#results = element(
      "div",
      { class: "watching", hidden: true },
      element("div", { class: "watch-legend" }, legend("watch-"), element("small", {}, KEYS)),
      this.#text,
      this.#flow.root,
    );
    root.append(
      element("h1", { class: "unseen" }, "Watch"),
      this.#composer.root,
      this.#notice.root,
      this.#bar.root,
      this.#results,
    );
    context.service.addEventListener("change", () => this.#serviceChanged());
    this.#serviceChanged();
    // That nothing comes is said while it does not.
    setInterval(() => this.#run?.isRunning && this.#drawSoon(), TELL_EVERY_MS);
  }

  /** The view is seen; where the address is another one than was written, it is opened. */
  show() {
    const parameters = this.#context.url.read(NAME);
    if (JSON.stringify(parameters) === this.#written) return this.#drawSoon();
    const damage = damageOf(parameters);
    this.#notice.hide();
    this.#composer.values = parameters;
    const options = parameters.drawn && !damage ? this.#composer.read() : null;
    if (options) return this.#start({ ...options, seed: parameters.drawn }, false);
    this.#asked = null;
    this.#write();
    if (damage) this.#notice.show(damage, "bad");
    if (damage || this.#composer.root.hidden) this.#edit(true);
  }

  /**
   * @param {import("./request.js").WatchOptions} options
   * @param {boolean} isNew Back leads to what is seen.
   */
  #start(options, isNew) {
    if (this.#run?.isRunning) this.#run.stop();
    this.#notice.hide();
    if (this.#isOpened)
      this.#former = { run: this.#run, asked: this.#asked, title: this.#title };
    const run = new WatchRun(this.#context, options, new WatchRecord(options), () =>
      this.#changed(run),
    );
    this.#run = run;
    this.#isOpened = false;
    this.#asked = { ...this.#composer.values, drawn: options.seed };
    this.#bar.title = this.#title = this.#composer.title;
    this.#write(isNew);
    run.go();
  }

  #changed(run) {
    if (this.#run !== run) return;
    if (!this.#isOpened && run.record.promptLength !== null) this.#open();
    if (this.#state !== run.state) this.#stateChanged(run);
    if (this.#former && (run.state === "failed" || run.state === "stopped")) this.#giveUp();
    this.#drawSoon();
  }

  /** The prompt was read: what was shown before makes room. */
  #open() {
    const { record, options } = this.#run;
    const hadFocus = this.#composer.root.contains(document.activeElement);
    this.#isOpened = true;
    this.#former = null;
    this.#results.hidden = false;
    this.#tokens.show(record.reading);
    this.#flow.begin(record, options.every);
    this.#edit(false);
    this.#bar.update(this.#run, false);
    if (hadFocus) this.#bar.focus();
  }

  /** Nothing has come of another watch: what is seen is what there is. */
  #giveUp() {
    const { run, asked, title } = this.#former;
    [this.#run, this.#asked, this.#former] = [run, asked, null];
    this.#isOpened = true;
    this.#state = run.state;
    this.#bar.title = this.#title = title;
    this.#write();
  }

  #stateChanged(run) {
    this.#state = run.state;
    const { fault } = run;
    if (run.state === "waiting") this.#notice.show(fault, "warn");
    else if (run.state === "failed") {
      this.#composer.refuse(fault.field ?? "", fault.message);
      this.#notice.show(fault, "bad");
      if (!this.#isOpened) this.#edit(true);
    } else if (run.state !== "opening") this.#notice.hide();
    if (!run.isRunning) this.#context.announce(runSentence(run));
  }

  #draw() {
    const run = this.#run;
    if (run === null) return;
    const isEditing = !this.#composer.root.hidden;
    // What was shown before stays till there is something else.
    if (!this.#isOpened) return this.#bar.update(run, isEditing);
    const { record } = run;
    const text = this.#text;
    const wasAtEnd = text.scrollHeight - text.clientHeight - text.scrollTop < NEAR_PIXELS;
    const changed = record.drain();
    const wanted = new Set(record.reading.wanted);
    for (const position of changed) {
      if (position >= this.#tokens.order.length) this.#tokens.add(position, wanted.has(position));
      const reason = record.skipped.get(position);
      this.#tokens.update(position, reason && skipMeaning(reason, run.options.every));
    }
    this.#flow.draw(changed);
    if (wasAtEnd) this.#toEnd();
    this.#bar.update(run, isEditing);
  }

  #toEnd() {
    this.#text.scrollTop = this.#text.scrollHeight;
  }

  #reveal(position) {
    this.#tokens.select(position);
    this.#flow.reveal(position);
  }

  #edit(isEditing) {
    this.#composer.root.hidden = !isEditing;
    if (isEditing) this.#composer.focus();
    if (this.#isOpened) this.#bar.update(this.#run, isEditing);
  }

  /** The address is of the watch that is shown; before there is one, of the form. */
  #write(isNew = false) {
    this.#context.url.write(NAME, this.#asked ?? this.#composer.values, isNew);
    this.#written = JSON.stringify(this.#context.url.read(NAME));
  }

  #serviceChanged() {
    this.#composer.model = this.#context.service.model;
  }
}
