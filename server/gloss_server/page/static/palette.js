/**
 * Fidelity as one of seven bands. Their colours (fidelity.css) go from light sand to blue, by
 * lightness alone in order, so that colour-blind people can read them; below 0 is hatched, too.
 */

/** @typedef {{name: string, from: number, label: string}} Band */

/** @type {readonly Band[]} Ascending; a band ends where the next begins. */
export const BANDS = Object.freeze([
  { name: "f0", from: -Infinity, label: "below 0" },
  { name: "f1", from: 0, label: "0–0.2" },
  { name: "f2", from: 0.2, label: "0.2–0.4" },
  { name: "f3", from: 0.4, label: "0.4–0.6" },
  { name: "f4", from: 0.6, label: "0.6–0.8" },
  { name: "f5", from: 0.8, label: "0.8–0.9" },
  { name: "f6", from: 0.9, label: "0.9–1" },
]);
export const UNSCORED = "unscored";

/**
 * @param {number|null|undefined} fve
 * @returns {string} a class: `f0` to `f6`, or `unscored`.
 */
export function fidelityClass(fve) {
  if (typeof fve !== "number") return UNSCORED;
  // Asked for every token with every frame.
  let band = BANDS.length - 1;
  while (fve < BANDS[band].from) band -= 1;
  return BANDS[band].name;
}

/**
 * Give an element the colour of a fidelity, in place of the one it has.
 *
 * @param {HTMLElement} shown
 * @param {number|null|undefined} fve
 */
export function colour(shown, fve) {
  const name = fidelityClass(fve);
  if (shown.classList.contains(name)) return;
  shown.classList.remove(UNSCORED, ...BANDS.map((band) => band.name));
  shown.classList.add(name);
}
