/**
 * The service as the page knows it: whether it answers, what it has loaded, what it does now.
 *
 * One connection follows it for all views, for as long as the page is seen: a browser opens six to a
 * server for all tabs, and one that held more would leave the others none. Events: `stats` (its
 * `detail` is what GetStats says) once a second, `change` when `fault` or `model` has changed.
 */

import { Fault, pageServerAway, pageServerSilent } from "./fault.js";
import { Watchdog } from "./watchdog.js";

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 5000;
const DEFAULT_MAX_ITEMS = 1024;
const LONGEST_RETRY_MS = 10_000;
const NO_END_MS = 2 ** 31 - 1;
/** The page's server says something each second, and after 6 s where the service hangs. */
const SILENT_MS = 10_000;

export class Service extends EventTarget {
  /** @type {any} What GetModelInfo says; null: not known yet. It stays while the service is away. */
  model = null;

  /** @type {any} The last statistics; null: there were none yet. */
  stats = null;

  /** @type {Fault|null} Why it does not answer; null: it does, or nothing is known yet. */
  fault = null;

  #api;
  #answers = false;
  /** Whether `model` is of the service that answers now. */
  #isKnown = false;
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
      const { signal } = this.#again;
      try {
        for await (const { event, data } of this.#events(signal)) {
          if (event === "stats") await this.#take(data, signal);
          else if (event === "failed") this.#fail(new Fault(data));
          pause = FIRST_PAUSE_MS;
          if (document.hidden) break;
        }
        if (document.hidden) {
          await untilSeen(signal);
          // It may have become another one meanwhile.
          this.#isKnown = false;
          continue;
        }
        this.#fail(pageServerAway());
      } catch (error) {
        if (!error.isStop) this.#fail(error);
      }
      await sleep(pause, signal);
      pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
    }
  }

  /** One connection's events. */
  async *#events(signal) {
    const watchdog = new Watchdog(SILENT_MS, pageServerSilent);
    try {
      const either = AbortSignal.any([signal, watchdog.signal]);
      for await (const event of this.#api.stats(either)) {
        watchdog.feed();
        yield event;
      }
    } finally {
      watchdog.end();
    }
  }

  /** Ask again at once, as with a new token. */
  restart() {
    this.#again.abort();
  }

  /** How many positions one call may ask for. @param {number} numSamples of each. */
  mostItems(numSamples) {
    const limits = this.model?.limits;
    if (!limits) return DEFAULT_MAX_ITEMS;
    // Half of the queue at most: others want room, too.
    const room = Math.floor(limits.max_queued_explanations / 2 / numSamples);
    return Math.max(1, Math.min(limits.max_items, room));
  }

  /**
   * Wait until another try is worth it: as long as the service asks for, else longer each time; and
   * while it is away, until it answers or a while has passed.
   *
   * @param {Fault} fault one that passes.
   * @param {number} failures in a row, this one included.
   * @param {AbortSignal} signal ends the wait.
   */
  async untilWorthATry(fault, failures, signal) {
    if (fault.wantsToken) this.#fail(fault);
    const backoff = Math.min(FIRST_PAUSE_MS * 2 ** (failures - 1), LONGEST_RETRY_MS);
    const least =
      fault.retrySeconds === null ? backoff : Math.max(1000 * fault.retrySeconds, FIRST_PAUSE_MS);
    await sleep(least, signal);
    const back = new AbortController();
    const check = () => this.#answers && back.abort();
    this.addEventListener("change", check);
    check();
    // Without a token none is worth it.
    await sleep(
      fault.wantsToken ? NO_END_MS : Math.max(LONGEST_RETRY_MS - least, 0),
      AbortSignal.any([signal, back.signal]),
    );
    this.removeEventListener("change", check);
  }

  async #take(stats, signal) {
    if (!this.#answers || !this.#isKnown) {
      // It may have come back as another one.
      const watchdog = new Watchdog(SILENT_MS, pageServerSilent);
      try {
        this.model = await this.#api.model(AbortSignal.any([signal, watchdog.signal]));
      } catch (error) {
        if (!error.isStop) this.#fail(error);
        return;
      } finally {
        watchdog.end();
      }
      this.#answers = this.#isKnown = true;
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

/** Wait until the page is seen. @param {AbortSignal} signal ends it early. */
function untilSeen(signal) {
  return new Promise((resolve) => {
    const seen = new AbortController();
    const check = () => {
      if (document.hidden && !signal.aborted) return;
      seen.abort();
      resolve();
    };
    document.addEventListener("visibilitychange", check, { signal: seen.signal });
    signal.addEventListener("abort", check, { signal: seen.signal });
    check();
  });
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
