/**
 * Explaining a text to its end, whatever happens meanwhile: in as many calls as the service's limits
 * want, and after a fault that passes with the positions that are still missing. The seed and the
 * position decide what is drawn, so the result is that of one call.
 */

import { Fault } from "../fault.js";
import { firstPositions, resolvePositions } from "../positions.js";

/**
 * @typedef {"running"|"waiting"|"done"|"stopped"|"failed"} RunState
 *
 * @typedef {Object} Asked
 * @property {{text: string}|{chat: {role: string, content: string}[]}} input
 * @property {import("../positions.js").Slice|import("../positions.js").List} positions
 * @property {Object} options num_samples, temperature, max_new_tokens, seed; those that are stated.
 */

export class Run {
  /** @type {RunState} */
  state = "running";
  /** @type {Fault|null} Why it waits, or has failed. */
  fault = null;
  /** When something has last come, as `performance.now()` gives it. */
  lastAt = 0;

  #context;
  #asked;
  #listener;
  #stopper = new AbortController();
  /** @type {number[]} Position of each activation of the call. */
  #positions = [];

  /**
   * @param {import("../main.js").Context} context
   * @param {import("../reading.js").Reading} reading filled as it goes on.
   * @param {Asked} asked
   * @param {Object} listener
   * @param {() => void} listener.opened the tokens are there.
   * @param {(positions: Iterable<number>, at: number, scored: number[]) => void} listener.touched
   *   something has come at `at`; `scored` are those of the positions with a new score.
   * @param {() => void} listener.changed `state` or `fault`.
   */
  constructor(context, reading, asked, listener) {
    this.#context = context;
    this.reading = reading;
    this.#asked = asked;
    this.#listener = listener;
  }

  get isOver() {
    return this.state !== "running" && this.state !== "waiting";
  }

  /** End it now; what has come stays. */
  stop() {
    this.#stopper.abort();
    if (!this.isOver) this.#become("stopped", null);
  }

  /** Run until nothing is missing, or no more can come. */
  async go() {
    this.#stopper = new AbortController();
    const { signal } = this.#stopper;
    let failures = 0;
    this.#become("running", null);
    while (!signal.aborted) {
      const before = this.reading.rows.length;
      try {
        if (await this.#call(signal)) return this.#become("done", null);
        failures = 0;
      } catch (error) {
        if (signal.aborted) return;
        const fault =
          error instanceof Fault ? error : new Fault({ code: "INTERNAL", message: String(error) });
        const hasProgressed = this.reading.rows.length > before;
        if (!fault.isPassing(hasProgressed)) return this.#become("failed", fault);
        failures = hasProgressed ? 1 : failures + 1;
        await this.#wait(fault, failures, signal);
      }
    }
  }

  async #wait(fault, failures, signal) {
    this.#become("waiting", fault);
    await this.#context.service.untilWorthATry(fault, failures, signal);
    if (!signal.aborted) this.#become("running", fault);
  }

  /** One call. @returns {Promise<boolean>} whether nothing is missing after it. */
  async #call(signal) {
    const { reading } = this;
    const request = this.#request();
    if (request === null) return true;
    const before = reading.rows.length;
    this.#positions = [];
    for await (const event of this.#context.api.explain(request, signal)) this.#take(event);
    const missing = reading.missing().length;
    if (missing && reading.rows.length === before) {
      throw new Fault({
        code: "INTERNAL",
        message: `The service ended with ${missing} positions missing.`,
      });
    }
    return !missing;
  }

  /** @returns {Object|null} what the next call asks for; null: nothing is missing. */
  #request() {
    const { reading } = this;
    const { input, positions, options } = this.#asked;
    const most = this.#context.service.mostItems(options.num_samples ?? 1);
    if (!reading.tokenIds.length)
      return { ...input, positions: firstPositions(positions, most), ...options };
    const missing = reading.missing();
    if (!missing.length) return null;
    return {
      ...options,
      token_ids: reading.tokenIds,
      positions: missing.slice(0, most),
      seed: reading.seed,
    };
  }

  #take({ event, data, at }) {
    const { reading } = this;
    this.lastAt = at;
    if (event === "opened") this.#open(data);
    else if (event === "captured") {
      for (const place of data.places) {
        this.#positions[place.index] = place.position;
        reading.capture(place);
      }
      this.#listener.touched(
        data.places.map((place) => place.position),
        at,
        [],
      );
    } else if (event === "deltas") {
      for (const { index, sample, text } of data.deltas)
        reading.grow(this.#positions[index], sample, text);
      this.#listener.touched(
        new Set(data.deltas.map(({ index }) => this.#positions[index])),
        at,
        [],
      );
    } else if (event === "rows") {
      const fresh = data.rows.map(withoutActivation).filter((row) => reading.take(row));
      const positions = fresh.map((row) => row.position);
      this.#listener.touched(
        positions,
        at,
        fresh.filter((row) => row.fve !== null).map((row) => row.position),
      );
    }
  }

  #open(opened) {
    const { reading } = this;
    if (reading.tokenIds.length) {
      // Two checkpoints' explanations must not stand in one text as if they were one's.
      if (opened.fingerprint !== reading.fingerprint) {
        throw new Fault({
          code: "ABORTED",
          message:
            "The service came back with other checkpoints, so what is missing cannot be added.",
          hint: "Explain the text again to read all of it with the new ones.",
        });
      }
      return;
    }
    reading.open(opened);
    reading.wanted = resolvePositions(this.#asked.positions, opened.tokens.length);
    this.#listener.opened();
  }

  #become(state, fault) {
    this.state = state;
    this.fault = fault;
    this.lastAt = performance.now();
    this.#listener.changed();
  }
}

/** The row as `gloss explain` writes it. */
function withoutActivation({ activation, ...row }) {
  return row;
}
