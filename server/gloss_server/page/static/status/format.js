/** Numbers of the service for people, as `gloss top` writes them. */

import { count, decimal } from "../words.js";

const NONE = "–";

/**
 * @param {number|null|undefined} seconds
 * @returns {string}
 */
export function duration(seconds) {
  if (typeof seconds !== "number") return NONE;
  if (seconds === 0) return "0";
  if (seconds >= 1) return `${decimal(seconds, 2)} s`;
  const digits = seconds >= 0.1 ? 0 : 1;
  return `${decimal(seconds * 1000, digits)} ms`;
}

/**
 * @param {number|null|undefined} perSecond
 * @returns {string} whole from 10 on.
 */
export function rate(perSecond) {
  if (typeof perSecond !== "number") return NONE;
  if (perSecond === 0) return "0";
  return perSecond < 10 ? decimal(perSecond, 1) : count(Math.round(perSecond));
}

/**
 * @param {number|null|undefined} value
 * @returns {string}
 */
export function whole(value) {
  return typeof value === "number" ? count(value) : NONE;
}

/**
 * @param {number|null|undefined} share 0 to 1.
 * @returns {string}
 */
export function percent(share) {
  return typeof share === "number" ? `${Math.round(100 * share)} %` : NONE;
}

/** @param {number} number of bytes. */
export function bytes(number) {
  return number >= 2 ** 30
    ? `${decimal(number / 2 ** 30, 1)} GiB`
    : `${count(Math.round(number / 2 ** 20))} MiB`;
}

/**
 * How long something has lasted, from days to seconds, the two largest of them.
 *
 * @param {number} seconds
 */
export function span(seconds) {
  const parts = [
    [Math.floor(seconds / 86400), "d"],
    [Math.floor(seconds / 3600) % 24, "h"],
    [Math.floor(seconds / 60) % 60, "min"],
    [Math.floor(seconds) % 60, "s"],
  ];
  const first = parts.findIndex(([number]) => number > 0);
  const shown =
    first < 0 ? parts.slice(-1) : parts.slice(first, first + 2).filter(([number]) => number > 0);
  return shown.map(([number, unit]) => `${number} ${unit}`).join(" ");
}
