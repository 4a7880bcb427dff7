/** What the service's names and numbers mean, as the command line says it too. */

/** As evidence_cells.py has them. */
export const FLAG_MEANINGS = Object.freeze({
  unclosed: "cut off before its closing tag",
  no_tag: "came without tags",
  norm_outlier: "the activation's norm is unusual",
  early_position: "read earlier than the AV was trained on",
  special_token: "read on a special token",
  unknown_token: "read on a token the target does not know",
  suspect_script: "reads like a failed injection",
  low_fidelity: "reconstructs worse than the mean activation",
  no_fve_baseline: "no baseline for FVE is known",
});

/** What an explanation ended by. */
export const FINISH_MEANINGS = Object.freeze({
  eos: "end of sequence",
  closing_tag: "closing tag",
  stop: "stop string",
  length: "longest length",
  cancelled: "cancelled",
  error: "failed",
});

const SLOW_SECONDS = 3;

/**
 * How long nothing has come, where that is worth a word.
 *
 * @param {number} lastAt when something came, as `performance.now()` gives it.
 */
export function silence(lastAt) {
  const seconds = Math.floor((performance.now() - lastAt) / 1000);
  return seconds >= SLOW_SECONDS ? `nothing new for ${count(seconds)} s` : "";
}

/** @param {string} flag */
export function flagMeaning(flag) {
  return FLAG_MEANINGS[flag] ?? "a flag of a newer server";
}

/** @param {string} reason */
export function finishMeaning(reason) {
  return FINISH_MEANINGS[reason] ?? "a reason of a newer server";
}

/**
 * @param {number|null|undefined} value
 * @param {number} digits after the point.
 * @returns {string} a dash where there is none.
 */
export function decimal(value, digits) {
  if (typeof value !== "number") return "–";
  // A true minus is as wide as a plus, and read as one.
  return value
    .toFixed(digits)
    .replace(/^-(?=.*[1-9])/, "−")
    .replace(/^-/, "");
}

/** @param {number} value */
export function count(value) {
  return value.toLocaleString("en");
}

/**
 * @param {number} number
 * @param {string} one
 * @param {string} [many]
 */
export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}
