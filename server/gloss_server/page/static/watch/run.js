/**
 * A watch from its start to its end: one call to the service, or several with pauses between them.
 *
 * A pause ends the call, so that the service works no more for it; going on begins another. So does
 * the page by itself when the service was away.
 */

import { Fault } from "../fault.js";
import { nextRequest } from "./request.js";

/**
 * @typedef {"opening"|"speaking"|"explaining"|"paused"|"waiting"|"stopped"|"done"|"failed"} State
 */

const RUNNING = new Set(["opening", "speaking", "explaining", "waiting"]);

export class WatchRun {
  /** @type {State} */
  state = "opening";

  /** @type {Fault|null} why it waits or cannot go on. */
  fault = null;

  /** When something has last come, as `performance.now()` gives it. */
  lastAt = 0;

  /** Milliseconds in which the model spoke. */
  spokenMs = 0;

  #context;
  #changed;
  #stopper = new AbortController();
  #failures = 0;
  #lastTokenAt = null;

  /**
   * @param {import("../main.js").Context} context
   * @param {import("./request.js").WatchOptions} options
   * @param {import("./record.js").WatchRecord} record empty; it fills.
   * @param {() => void} changed what is known, or its state.
   */
  constructor(context, options, record, changed) {
    this.#context = context;
    this.options = options;
    this.record = record;
    this.#changed = changed;
  }

  /** Whether the service is asked, or will be by itself. */
  get isRunning() {
    return RUNNING.has(this.state);
  }

  /** Whether it can go on when somebody wants it. */
  get isResumable() {
    return this.state === "paused" || this.state === "failed";
  }

  /** Begin, or go on. */
  go() {
    this.#stopper = new AbortController();
    this.#failures = 0;
    this.#become("opening");
    return this.#ask(this.#stopper.signal);
  }

  /** End the call, until `go`. */
  pause() {
    this.#become("paused");
    this.#stopper.abort();
  }

  /** End it for good. */
  stop() {
    this.record.close("stopped");
    this.#become("stopped");
    this.#stopper.abort();
  }

  /** @param {AbortSignal} signal whoever aborts has said what becomes of it. */
  async #ask(signal) {
    const { record } = this;
    for (;;) {
      const request = nextRequest(
        this.options,
        record,
        this.#context.service.mostItems(this.options.numSamples),
      );
      if (request === null) return this.#become("done");
      const known = record.numKnown;
      try {
        await this.#read(request, signal);
        if (signal.aborted) return;
        // What is missing takes a further call; one that brings nothing would be asked for ever.
        if (record.numKnown > known) continue;
        record.close("unsaid");
        return this.#become("done");
      } catch (error) {
        if (signal.aborted) return;
        const fault =
          error instanceof Fault ? error : new Fault({ code: "INTERNAL", message: String(error) });
        const hasProgressed = record.numKnown > known;
        if (!fault.isPassing(hasProgressed)) return this.#become("failed", fault);
        this.#failures = hasProgressed ? 1 : this.#failures + 1;
        await this.#wait(fault, signal);
        if (signal.aborted) return;
      }
    }
  }

  async #read({ kind, body }, signal) {
    const { record } = this;
    record.beginCall();
    this.lastAt = performance.now();
    this.#lastTokenAt = null;
    for await (const { event, data, at } of this.#context.api[kind](body, signal)) {
      if (signal.aborted) return;
      this.lastAt = at;
      record.take(event, data);
      if (event === "tokens") this.#spoke(at);
      if (event !== "end")
        this.#become(kind === "explain" || record.finishReason ? "explaining" : "speaking");
    }
  }

  async #wait(fault, signal) {
    this.#become("waiting", fault);
    await this.#context.service.untilWorthATry(fault, this.#failures, signal);
  }

  /** Pauses are no time in which the model speaks. */
  #spoke(at) {
    if (this.#lastTokenAt !== null) this.spokenMs += at - this.#lastTokenAt;
    this.#lastTokenAt = at;
  }

  /** @param {State} state @param {Fault|null} [fault] */
  #become(state, fault = null) {
    this.state = state;
    this.fault = fault;
    this.#changed();
  }
}
