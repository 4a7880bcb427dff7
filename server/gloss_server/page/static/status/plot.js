/**
 * A small plot of the last minutes: lines, a legend with the newest values, the same as a table.
 *
 * The lines differ in colour, of a palette for colour-blind people, and in their dashes.
 */

import uPlot from "../vendor/uplot/uPlot.esm.js";
import { element } from "../element.js";

const HEIGHT = 132;
const DASHES = [[], [6, 4], [2, 3]];
const LEAST_MINUTES = 2;
const TABLE_SECONDS = 15;
const TICKS = [15, 30, 60, 120, 300];

export class Plot {
  /** @type {HTMLElement} */
  root;

  #chart;
  #values;
  #swatches;
  #box = element("div", { class: "plot", role: "img" });
  #table = element("table");
  #details;
  #uplot = null;
  #data;
  #at = null;

  /** @param {import("./charts.js").Chart} chart */
  constructor(chart) {
    this.#chart = chart;
    this.#data = [[], ...chart.lines.map(() => [])];
    this.#values = chart.lines.map(() => element("output", {}, "–"));
    this.#swatches = chart.lines.map((_, index) => swatch(index));
    const legend = chart.lines.map((line, index) =>
      element(
        "li",
        {},
        this.#swatches[index],
        element("span", {}, line.label),
        this.#values[index],
      ),
    );
    this.#details = element("details", {}, element("summary", {}, "As a table"), this.#table);
    this.#details.addEventListener("toggle", () => this.#tabulate());
    this.root = element(
      "figure",
      { class: "card chart", id: `chart-${chart.id}` },
      element("figcaption", {}, element("h3", {}, chart.title), element("small", {}, chart.about)),
      this.#box,
      element("ul", { class: "lines" }, ...legend),
      this.#details,
    );
    new ResizeObserver(() => this.#resize()).observe(this.#box);
  }

  /**
   * @param {(number|null)[][]} data seconds before now, as negative numbers, and each line.
   */
  draw(data) {
    this.#data = data;
    if (!this.#uplot) this.#make();
    this.#uplot?.setData(data);
    this.#say();
    if (this.#details.open) this.#tabulate();
  }

  /** Draw it with the colours of now. */
  restyle() {
    this.#uplot?.destroy();
    this.#uplot = null;
    this.#make();
  }

  #make() {
    const width = this.#box.clientWidth;
    if (!width) return;
    const options = {
      width,
      height: HEIGHT,
      legend: { show: false },
      cursor: {
        y: false,
        drag: { setScale: false },
        points: { size: 6 },
        sync: { key: "gloss-status" },
      },
      scales: {
        x: { time: false, range: reach },
        y: { range: (_, __, most) => [0, roof(most, this.#chart.least)] },
      },
      axes: this.#axes(),
      series: [{}, ...this.#lines()],
      hooks: { setCursor: [(plot) => this.#point(plot.cursor.idx)] },
    };
    this.#uplot = new uPlot(options, this.#data, this.#box);
  }

  #axes() {
    // A canvas takes no light-dark(): colours are read where the style sheet has resolved them.
    const style = getComputedStyle(this.#box);
    const axis = {
      stroke: style.color,
      font: `11px ${style.fontFamily}`,
      gap: 4,
      grid: { stroke: style.borderTopColor, width: 1 },
      ticks: { show: false },
    };
    const times = (_, ticks) => ticks.map(ago);
    const values = (_, ticks) => ticks.map((tick) => brief(this.#chart.format(tick)));
    return [
      { ...axis, size: 22, space: 56, incrs: TICKS, values: times },
      { ...axis, size: 58, space: 28, values },
    ];
  }

  #lines() {
    return this.#chart.lines.map(({ label }, index) => ({
      label,
      stroke: getComputedStyle(this.#swatches[index]).borderTopColor,
      width: 1.75,
      dash: DASHES[index],
      spanGaps: false,
      points: { show: false },
    }));
  }

  #resize() {
    const width = this.#box.clientWidth;
    if (!width) return;
    if (!this.#uplot) this.#make();
    else if (this.#uplot.width !== width) this.#uplot.setSize({ width, height: HEIGHT });
  }

  /** Show the values where somebody points, else the newest. */
  #point(index) {
    this.#at = index ?? null;
    this.#say();
  }

  #say() {
    const [times, ...lines] = this.#data;
    const at = this.#at !== null && this.#at < times.length ? this.#at : times.length - 1;
    lines.forEach((values, index) => {
      this.#values[index].textContent = this.#chart.format(values[at] ?? null);
    });
    this.#box.setAttribute("aria-label", this.#sentence());
  }

  #sentence() {
    const lines = this.#chart.lines.map(({ label }, index) => {
      const known = this.#data[index + 1].filter((value) => value !== null);
      if (!known.length) return `${label}: nothing yet`;
      const [least, most] = [Math.min(...known), Math.max(...known)].map(this.#chart.format);
      const now = this.#chart.format(this.#data[index + 1].at(-1));
      return `${label}: now ${now}, ${least} to ${most}`;
    });
    return `${this.#chart.title}. ${lines.join(". ")}.`;
  }

  #tabulate() {
    if (!this.#details.open) return;
    const [times, ...lines] = this.#data;
    const head = element(
      "tr",
      {},
      ...["time", ...this.#chart.lines.map(({ label }) => label)].map((name) =>
        element("th", { scope: "col" }, name),
      ),
    );
    const rows = [];
    let next = Infinity;
    for (let at = times.length - 1; at >= 0; at -= 1) {
      if (times[at] > next) continue;
      next = times[at] - TABLE_SECONDS;
      const cells = lines.map((values) => element("td", {}, this.#chart.format(values[at])));
      rows.push(element("tr", {}, element("th", { scope: "row" }, ago(times[at])), ...cells));
    }
    this.#table.replaceChildren(
      element("caption", {}, `${this.#chart.title}, the newest first`),
      element("thead", {}, head),
      element("tbody", {}, ...rows),
    );
  }
}

/** As much of the last minutes as there is, and never less than some of them. */
function reach(_, first) {
  return [Math.min(first ?? 0, -60 * LEAST_MINUTES), 0];
}

/** A round number over the largest value. */
function roof(most, least = 0) {
  const value = Math.max(most ?? 0, least);
  if (value <= 0) return 1;
  if (value === least) return value;
  const step = 10 ** Math.floor(Math.log10(value));
  return (
    [1, 1.5, 2, 3, 4, 5, 6, 8, 10]
      .map((factor) => factor * step)
      .find((round) => round >= value * 1.02) ?? 15 * step
  );
}

/** A tick's label without the zeros that end it. */
function brief(label) {
  return label.replace(/\.(\d*?)0+(?= |$)/, (_, digits) => (digits ? `.${digits}` : ""));
}

/** @param {number} seconds before now, negative. */
function ago(seconds) {
  const whole = Math.round(-seconds);
  if (whole < 2) return "now";
  return whole % 60 === 0
    ? `−${whole / 60} min`
    : whole < 60
      ? `−${whole} s`
      : `−${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** The line as it is drawn, by its number. */
function swatch(index) {
  return element("span", { class: `dash line-${index + 1}`, "aria-hidden": "true" });
}
