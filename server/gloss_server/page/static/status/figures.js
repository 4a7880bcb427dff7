/** What the service does now: figures, latencies of the last minute, totals since the start. */

import { element } from "../element.js";
import { visible } from "../shown.js";
import { count, decimal } from "../words.js";
import { bytes, duration, rate, span, whole } from "./format.js";
import { CHARTS } from "./charts.js";

const QUANTILES = ["p50", "p90", "p95", "p99"];

export class Figures {
  /** @type {HTMLElement} */
  root;

  /** @type {Map<string, {value: HTMLElement, note: HTMLElement, meter: HTMLMeterElement}>} */
  #figures = new Map();

  constructor() {
    this.root = element(
      "dl",
      { class: "figures", id: "status-figures" },
      ...NAMES.map(([id, name]) => this.#figure(id, name)),
    );
  }

  /** @param {any} stats as GetStats says them. */
  draw(stats) {
    for (const [id, , read] of NAMES) {
      const { value, note, meter } = this.#figures.get(id);
      const found = read(stats);
      value.parentElement.parentElement.hidden = found === null;
      if (found === null) continue;
      value.textContent = found.value;
      note.textContent = found.note ?? "";
      meter.hidden = found.share === undefined;
      meter.value = found.share ?? 0;
    }
  }

  #figure(id, name) {
    const value = element("span", { class: "value" }, "–");
    const note = element("small", {});
    const meter = element("meter", {
      min: 0,
      max: 1,
      hidden: true,
      "aria-label": `${name}: share in use`,
    });
    this.#figures.set(id, { value, note, meter });
    return element(
      "div",
      { id: `figure-${id}` },
      element("dt", {}, name),
      element("dd", {}, value, note, meter),
    );
  }
}

const NAMES = [
  ["tokens", "tokens/s", (stats) => ({ value: rate(stats.tokens_per_second) })],
  ["explanations", "explanations/s", (stats) => ({ value: rate(stats.explanations_per_second) })],
  ["running", "running", (stats) => partOf(stats.running, stats.num_slots, "slots")],
  [
    "waiting",
    "waiting",
    (stats) => ({
      value: count(stats.waiting),
      note: `of them batch ${count(stats.waiting_batch)}`,
    }),
  ],
  ["scoring", "waiting to be scored", (stats) => ({ value: count(stats.waiting_to_score) })],
  ["pages", "cache pages", (stats) => partOf(stats.kv_pages_used, stats.kv_pages_total, "")],
  ["calls", "calls in flight", (stats) => ({ value: count(stats.calls_in_flight) })],
  ["reading", "texts being read", (stats) => ({ value: count(stats.reading) })],
  ["watching", "models watched", (stats) => ({ value: count(stats.watching) })],
  ["memory", "engine memory", (stats) => ({ value: bytes(stats.engine_memory_bytes) })],
  ["device", "device memory", deviceMemory],
  ["uptime", "uptime", (stats) => ({ value: span(stats.uptime_seconds) })],
  ["restarts", "engine restarts", (stats) => ({ value: count(stats.engine_restarts) })],
];

function partOf(used, thereAre, unit) {
  return {
    value: count(used),
    note: `of ${count(thereAre)} ${unit}`.trim(),
    share: thereAre ? used / thereAre : 0,
  };
}

function deviceMemory(stats) {
  const { device_memory_reserved_bytes: held, device_memory_bytes: thereAre } = stats;
  return thereAre > 0
    ? { value: bytes(held), note: `of ${bytes(thereAre)}`, share: held / thereAre }
    : null;
}

/**
 * The latencies of the last minute.
 *
 * @param {any} stats
 * @returns {HTMLElement} a table.
 */
export function latencyTable(stats) {
  const head = ["last minute", "count", ...QUANTILES].map((name) =>
    element("th", { scope: "col" }, name),
  );
  const rows = Object.entries(stats.latencies).map(([name, latency]) => {
    const title = CHARTS.find((chart) => chart.id === name)?.title ?? visible(name);
    const cells = [
      whole(latency.count),
      ...QUANTILES.map((quantile) => duration(latency[quantile])),
    ];
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, title),
      ...cells.map((cell) => element("td", {}, cell)),
    );
  });
  if (!rows.length)
    rows.push(
      element(
        "tr",
        {},
        element("td", { colspan: 6 }, "Nothing was measured within the last minute."),
      ),
    );
  return element(
    "table",
    { id: "status-latencies" },
    element("thead", {}, element("tr", {}, ...head)),
    element("tbody", {}, ...rows),
  );
}

/**
 * What has happened since the start; a line of each kind that did.
 *
 * @param {any} stats
 * @param {any} model null: not known.
 * @returns {[string, string][]} names and what is said of each.
 */
export function totals(stats, model) {
  const found = [
    ["explanations", counts(stats.explanations)],
    ["fidelity", fidelity(stats, model)],
    ["failed", counts(stats.item_errors)],
    ["refused", counts(stats.rejections)],
    ["skipped", counts(stats.skipped)],
    ["target", target(stats)],
  ];
  return found.filter(([, said]) => said !== "");
}

function counts(byName) {
  const most = Object.entries(byName).sort(([, one], [, other]) => other - one);
  return most
    .map(([name, number]) => `${visible(name).toLowerCase().replaceAll("_", " ")} ${count(number)}`)
    .join(", ");
}

function fidelity(stats, model) {
  if (stats.mean_mse === null) return "";
  const mse = `mean mse ${decimal(stats.mean_mse, 4)} of ${count(stats.scored)} scored`;
  const baseline = model?.fve_baseline;
  return baseline > 0 ? `${mse}, mean FVE ${decimal(1 - stats.mean_mse / baseline, 3)}` : mse;
}

function target(stats) {
  if (!stats.target_tokens_read) return "";
  const said = `generated ${count(stats.target_tokens_generated)}`;
  const captured = `captured ${count(stats.captured)} activations`;
  return `read ${count(stats.target_tokens_read)} tokens, ${said}, ${captured}`;
}
