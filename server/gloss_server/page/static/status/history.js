/** What the page has seen of the service since it was opened: ten minutes, a row a second. */

const MOST_ROWS = 600;
/** A counter's rate is over as long as the service's own rates, or what of it has been seen. */
const RATE_SECONDS = 10;
const LEAST_RATE_SECONDS = 2;

/**
 * @typedef {Object} Seen
 * @property {number} at seconds, of the page's clock.
 * @property {any} stats as the service said them; null: it did not answer.
 * @property {number|null} targetRate tokens a second that the targets of Watches generated.
 */

export class History {
  /** @type {Seen[]} the newest last. */
  #rows = [];

  /**
   * @param {any} stats null: the service did not answer.
   * @param {number} at seconds.
   */
  add(stats, at) {
    // A line breaks once where nothing is known, however long.
    if (stats === null && this.#rows.at(-1)?.stats === null) return;
    this.#rows.push({ at, stats, targetRate: stats && this.#targetRate(stats, at) });
    if (this.#rows.length > MOST_ROWS) this.#rows.shift();
  }

  /** Rows in which it answered. */
  get length() {
    return this.#rows.filter((row) => row.stats !== null).length;
  }

  /**
   * Columns for a plot.
   *
   * @param {((row: Seen) => number|null|undefined)[]} columns
   * @param {number} now seconds.
   * @returns {(number|null)[][]} seconds before now, as negative numbers, and each column.
   */
  columns(columns, now) {
    const times = this.#rows.map((row) => row.at - now);
    const values = columns.map((column) =>
      this.#rows.map((row) => (row.stats ? finite(column(row)) : null)),
    );
    return [times, ...values];
  }

  #targetRate(stats, at) {
    const from = this.#rows.find((row) => row.stats !== null && at - row.at <= RATE_SECONDS + 0.5);
    if (!from || at - from.at < LEAST_RATE_SECONDS) return null;
    const said = stats.target_tokens_generated - from.stats.target_tokens_generated;
    // A server that was started again counts from 0.
    return said >= 0 ? said / (at - from.at) : null;
  }
}

function finite(value) {
  return Number.isFinite(value) ? value : null;
}
