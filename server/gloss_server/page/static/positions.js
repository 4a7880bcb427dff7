/** Which positions are meant: all, last, START:STOP[:STEP] or i,j,k, as commands have it. */

/**
 * @typedef {{start: number|null, stop: number|null, step: number}} Slice
 * @typedef {{list: number[]}} List
 */

/**
 * @param {string} text
 * @returns {Slice|List}
 * @throws {Error} what was got and expected.
 */
export function parsePositions(text) {
  const given = text.trim();
  if (given === "" || given === "all") return { start: null, stop: null, step: 1 };
  if (given === "last") return { list: [-1] };
  const parts = given.split(given.includes(":") ? ":" : ",").map((part) => part.trim());
  if (!given.includes(":")) {
    if (parts.every(isWhole)) return { list: parts.map(Number) };
  } else if (parts.length <= 3 && parts.every((part) => part === "" || isWhole(part))) {
    const [start, stop, step] = [0, 1, 2].map((index) =>
      parts[index] ? Number(parts[index]) : null,
    );
    if (step !== null && step < 1) throw new Error(`got a step of ${step}, expected 1 or more`);
    return { start, stop, step: step ?? 1 };
  }
  throw new Error(
    `got ${given.slice(0, 40)}, expected all, last, START:STOP[:STEP] or numbers with commas`,
  );
}

/**
 * @param {Slice|List} positions
 * @param {number} length of the text, in tokens.
 * @returns {number[]} ascending, each once; those beyond the text are left out.
 */
export function resolvePositions(positions, length) {
  if (positions.list) {
    const at = positions.list.map((index) => (index < 0 ? index + length : index));
    return [...new Set(at)].filter((index) => index >= 0 && index < length).sort((a, b) => a - b);
  }
  const end = (given, otherwise) => {
    if (given === null) return otherwise;
    return Math.min(Math.max(given < 0 ? given + length : given, 0), length);
  };
  const found = [];
  for (let at = end(positions.start, 0); at < end(positions.stop, length); at += positions.step)
    found.push(at);
  return found;
}

/**
 * The first of them, so that one call can take them although the length is not known yet.
 *
 * @param {Slice|List} positions
 * @param {number} most
 * @returns {string|number[]} as a request has them.
 */
export function firstPositions(positions, most) {
  if (positions.list) return positions.list.slice(0, most);
  const { start, stop, step } = positions;
  const last = (start ?? 0) + most * step;
  const fromFront = (start ?? 0) >= 0 && (stop === null || stop > last);
  const until = fromFront ? last : stop;
  if (start === null && until === null && step === 1) return "all";
  return `${start ?? ""}:${until ?? ""}${step === 1 ? "" : `:${step}`}`;
}

function isWhole(part) {
  return /^-?\d{1,9}$/.test(part);
}
