/** Which texts a field of a browser cannot take without stopping the page. */

/** What it lays out in about a second. */
const MOST_CHARACTERS = 200_000;
const MOST_LINES = 10_000;
/** Marks on one letter: the time for a heap of them grows as the square of its height. */
const HEAP = /\p{M}{33}/u;

/** @param {string} text */
export function weighsTooMuch(text) {
  if (text.length > MOST_CHARACTERS || HEAP.test(text)) return true;
  let lines = 0;
  for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", at + 1)) lines += 1;
  return lines > MOST_LINES;
}
