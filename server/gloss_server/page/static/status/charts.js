/** Which plots the status has: their titles, and the lines of each. */

import { duration, percent, rate, whole } from "./format.js";

/**
 * @typedef {Object} Line
 * @property {string} label
 * @property {(row: import("./history.js").Seen) => number|null|undefined} value
 *
 * @typedef {Object} Chart
 * @property {string} id
 * @property {string} title
 * @property {string} about what is measured.
 * @property {(value: number|null) => string} format
 * @property {readonly Line[]} lines one to three.
 * @property {number} [least] the axis reaches at least to here.
 */

/** @type {readonly Chart[]} */
export const CHARTS = Object.freeze([
  {
    id: "tokens",
    title: "Tokens per second",
    about: "generated, over 10 seconds",
    format: rate,
    lines: [
      { label: "explanations", value: ({ stats }) => stats.tokens_per_second },
      { label: "watched model", value: ({ targetRate }) => targetRate },
    ],
  },
  {
    id: "explanations",
    title: "Explanations per second",
    about: "finished, over 10 seconds",
    format: rate,
    lines: [{ label: "explanations", value: ({ stats }) => stats.explanations_per_second }],
  },
  {
    id: "batch",
    title: "Queue and batch",
    about: "explanations at each place",
    format: whole,
    lines: [
      { label: "running", value: ({ stats }) => stats.running },
      { label: "waiting", value: ({ stats }) => stats.waiting },
      { label: "to be scored", value: ({ stats }) => stats.waiting_to_score },
    ],
    least: 4,
  },
  {
    id: "room",
    title: "Room in use",
    about: "of all slots, and of all cache pages",
    format: percent,
    lines: [
      { label: "slots", value: ({ stats }) => stats.running / stats.num_slots },
      { label: "pages", value: ({ stats }) => stats.kv_pages_used / stats.kv_pages_total },
    ],
    least: 1,
  },
  latency("first_token", "First token", "from a call's arrival"),
  latency("end_to_end", "Whole call", "from its arrival to its last explanation"),
  latency("queue", "Queue", "until an activation begins to run"),
  latency("inter_token", "Between tokens", "of an explanation that runs"),
  latency("engine_step", "Engine step", "one step of all that run"),
  latency("watch_lag", "Watch lag", "from a token to its explanation"),
]);

/** Quantiles of what the service measured within the last minute. */
function latency(name, title, about) {
  const lines = ["p50", "p95", "p99"].map((quantile) => ({
    label: quantile,
    value: ({ stats }) => stats.latencies[name]?.[quantile],
  }));
  return { id: name, title, about, format: duration, lines };
}
