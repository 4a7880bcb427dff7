/** JSON in which whole numbers under `seed` stay exact: they have 64 bits, a number here has 53. */

/**
 * @param {string} text
 * @returns {any} a seed of 16 digits and more is a string.
 * @throws {SyntaxError}
 */
export function parseJson(text) {
  // Within a string the quote before the colon is escaped, so only keys are met.
  return JSON.parse(text.replace(/"seed":(\s*)(\d{16,20})(?=\s*[,}])/g, '"seed":$1"$2"'));
}

/**
 * @param {unknown} value in which a seed may be a string of digits.
 * @returns {string} in which it is a number.
 */
export function writeJson(value) {
  return JSON.stringify(value).replace(/"seed":"(\d{1,20})"/g, '"seed":$1');
}
