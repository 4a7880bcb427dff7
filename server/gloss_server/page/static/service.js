/**
 * The service as the page knows it: whether it answers, what it has loaded, what it does now.
 *
 * One connection follows it for all views, for as long as the page lives. Events: `stats` (its
 * `detail` is what GetStats says) once a second, `change` when `fault` or `model` has changed.
 */

import { Fault, pageServerAway } from "./fault.js";

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 5000;

export class Service extends EventTarget {
  /** @type {any} What GetModelInfo says; null: not known yet. It stays while the service is away. */
  model = null;

  /** @type {any} The last statistics; null: there were none yet. */
  stats = null;

  /** @type {Fault|null} Why it does not answer; null: it does, or nothing is known yet. */
  fault = null;

  #api;
  #answers = false;
  #again = new AbortController();

  /** @param {import("./api.js").Api} api */
  constructor(api) {
    super();
    this.#api = api;
  }

  /** Whether its last answer was one. */
  get answers() {
    return this.#answers;
  }

  /** Follow it from now on. */
  async start() {
    let pause = FIRST_PAUSE_MS;
    for (;;) {
      this.#again = new AbortController();
      try {
        for await (const { event, data } of this.#api.stats(this.#again.signal)) {
          if (event === "stats") await this.#take(data);
          else if (event === "failed") this.#fail(new Fault(data));
          pause = FIRST_PAUSE_MS;
        }
        this.#fail(pageServerAway());
      } catch (error) {
        if (!error.isStop) this.#fail(error);
      }
      await sleep(pause, this.#again.signal);
      pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
    }
  }

  /** Ask again at once, as with a new token. */
  restart() {
    this.#again.abort();
  }

  /**
   * Wait until it answers, or until a time has passed.
   *
   * @param {number} atLeastMs not before.
   * @param {number} atMostMs then whatever is known.
   * @param {AbortSignal} signal ends the wait.
   */
  async untilBack(atLeastMs, atMostMs, signal) {
    await sleep(atLeastMs, signal);
    const back = new AbortController();
    const check = () => this.#answers && back.abort();
    this.addEventListener("change", check);
    check();
    await sleep(atMostMs - atLeastMs, AbortSignal.any([signal, back.signal]));
    this.removeEventListener("change", check);
  }

  async #take(stats) {
    if (!this.#answers) {
      // It may have come back as another one.
      try {
        this.model = await this.#api.model(this.#again.signal);
      } catch (error) {
        if (!error.isStop) this.#fail(error);
        return;
      }
      this.#answers = true;
      this.fault = null;
      this.dispatchEvent(new Event("change"));
    }
    this.stats = stats;
    this.dispatchEvent(new CustomEvent("stats", { detail: stats }));
  }

  /** @param {Fault} fault */
  #fail(fault) {
    this.#answers = false;
    this.fault = fault;
    this.dispatchEvent(new Event("change"));
  }
}

/**
 * @param {number} milliseconds
 * @param {AbortSignal} signal ends it early.
 */
export function sleep(milliseconds, signal) {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => resolve(clearTimeout(timer)), { once: true });
  });
}
