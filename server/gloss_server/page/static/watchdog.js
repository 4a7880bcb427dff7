/** Ends what nothing comes of: a server that hangs breaks no connection by itself. */

export class Watchdog {
  #stopper = new AbortController();
  #milliseconds;
  #fault;
  #timer = 0;

  /**
   * @param {number} milliseconds most between two signs of life.
   * @param {() => import("./fault.js").Fault} fault what is wrong where they have passed.
   */
  constructor(milliseconds, fault) {
    this.#milliseconds = milliseconds;
    this.#fault = fault;
    this.feed();
  }

  /** Aborted, with the fault as its reason, once nothing has come for too long. */
  get signal() {
    return this.#stopper.signal;
  }

  /** Something has come. */
  feed() {
    this.end();
    this.#timer = setTimeout(() => this.#stopper.abort(this.#fault()), this.#milliseconds);
  }

  /** Nothing is expected any more. */
  end() {
    clearTimeout(this.#timer);
  }
}
