/** What happens in a watch, in words; watch_page.py says the same of what is skipped. */

import { count, finishMeaning, plural } from "../words.js";

const SKIP_MEANINGS = Object.freeze({
  max_pending: "too many were waiting for their explanations",
  target_ended: "the model ended with it",
  stopped: "the watch was stopped before",
  unsaid: "the service ended without it",
});

const STATE_WORDS = Object.freeze({
  opening: "Asking the service",
  speaking: "The model speaks",
  explaining: "Explanations follow",
  paused: "Paused",
  waiting: "Waiting for the service",
  stopped: "Stopped",
  done: "Done",
  failed: "Ended early",
});

/**
 * Why a token is not explained.
 *
 * @param {string} reason
 * @param {number} every of the watch.
 */
export function skipMeaning(reason, every) {
  if (reason === "every") return `between every ${ordinal(every)}`;
  return SKIP_MEANINGS[reason] ?? "a reason of a newer server";
}

/** @param {import("./run.js").State} state */
export function stateWord(state) {
  return STATE_WORDS[state];
}

/**
 * How a watch ended; empty where the model has not.
 *
 * @param {import("./record.js").WatchRecord} record
 */
export function endWord(record) {
  return record.finishReason ? `The model ended: ${finishMeaning(record.finishReason)}.` : "";
}

/**
 * What was not explained, and why.
 *
 * @param {import("./record.js").WatchRecord} record
 * @param {number} every of the watch.
 */
export function skipSentence(record, every) {
  const parts = [...record.skipCounts].map(
    ([reason, number]) => `${count(number)} (${skipMeaning(reason, every)})`,
  );
  return parts.length ? `Not explained: ${parts.join(", ")}.` : "";
}

/**
 * All of it in a sentence, for who listens to the page.
 *
 * @param {import("./run.js").WatchRun} run
 */
export function runSentence(run) {
  const { record, options } = run;
  const said = `${stateWord(run.state)}. ${plural(record.numSaid, "token")} said.`;
  return [said, endWord(record), skipSentence(record, options.every)].filter(Boolean).join(" ");
}

function ordinal(number) {
  const last = number % 100;
  const ending =
    last > 10 && last < 14 ? "th" : ({ 1: "st", 2: "nd", 3: "rd" }[number % 10] ?? "th");
  return `${number}${ending}`;
}
