/** Which texts a field of a browser cannot take without stopping the page. */

/** What it lays out in about a second. */
const MOST_CHARACTERS = 200_000;
const MOST_BREAKS = 10_000;
/** Marks on one letter: the time for a heap of them grows as the square of its height. */
const HEAP = /\p{M}{33}/u;

/** Written from right to left, or a hidden mark, which may turn a line round. */
const LEFTWARD =
  "\\u0590-\\u08ff\\ufb1d-\\ufdff\\ufe70-\\ufefc\\u{10800}-\\u{10fff}\\u{1e800}-\\u{1efff}\\p{Cf}";
/** A line's end, or a passage within a line that is written the other way: as heaps are. */
const BREAK = new RegExp(`\\n|[${LEFTWARD}][${LEFTWARD}\\p{P}\\p{Zs}\\t]*`, "gu");

/** @param {string} text */
export function weighsTooMuch(text) {
  if (text.length > MOST_CHARACTERS || HEAP.test(text)) return true;
  return (text.match(BREAK)?.length ?? 0) > MOST_BREAKS;
}
