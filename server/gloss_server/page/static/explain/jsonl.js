/**
 * Rows as `gloss explain --output` writes them, to the byte, and reading them back. A file may be
 * anybody's: every row is checked before it is shown.
 */

import { parseJson } from "../json.js";

const FLOATS = new Set(["logprob", "cosine", "mse", "fve", "norm"]);
const MOST_SAMPLES = 1024;
/** More than any row of ours has; a file without ends of lines would be gathered whole. */
const MOST_CHARACTERS = 32_000_000;
/** As json.js reads a seed that a number here cannot hold. */
const LONG_SEED = /^[1-9]\d{15,19}$/;

/**
 * @param {import("../reading.js").Row[]} rows
 * @returns {string}
 */
export function writeRows(rows) {
  return rows.map((row) => `${written(row)}\n`).join("");
}

/** @typedef {{index: number, docId: string, rows: import("../reading.js").Row[]}} Document */

/**
 * @param {Blob} file
 * @returns {Promise<Document[]>} in the order of the file; at least one.
 * @throws {Error} what is wrong, and in which line.
 */
export async function readDocuments(file) {
  /** @type {Map<string, Document>} */
  const documents = new Map();
  let number = 0;
  for await (const line of lines(file)) {
    number += 1;
    if (!line.trim()) continue;
    const row = readRow(line, number);
    const key = `${row.index} ${row.doc_id}`;
    if (!documents.has(key)) documents.set(key, { index: row.index, docId: row.doc_id, rows: [] });
    documents.get(key).rows.push(row);
  }
  if (!documents.size)
    throw new Error("there are no rows; expected what gloss explain --output writes");
  return [...documents.values()];
}

async function* lines(file) {
  const reader = file.stream().pipeThrough(new TextDecoderStream()).getReader();
  let pieces = [];
  let size = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const [end, ...begun] = value.split("\n");
    pieces.push(end);
    size += end.length;
    if (begun.length) {
      yield pieces.join("");
      const rest = begun.pop();
      yield* begun;
      pieces = [rest];
      size = rest.length;
    }
    if (size > MOST_CHARACTERS) {
      await reader.cancel();
      throw new Error("a line has more than 32,000,000 characters, as no row of gloss explain has");
    }
  }
  yield pieces.join("");
}

function readRow(line, number) {
  let row;
  try {
    row = parseJson(line);
  } catch {
    throw new Error(`line ${number} is no JSON; expected what gloss explain --output writes`);
  }
  const wrong = row === null || typeof row !== "object" ? "the row" : wrongField(row);
  if (wrong) {
    throw new Error(`line ${number}: ${wrong} is not as gloss explain --output writes it`);
  }
  return row;
}

/** @returns {string|undefined} the first field that is not what it should be. */
function wrongField(row) {
  const whole = (value) => Number.isSafeInteger(value) && value >= 0;
  const text = (value) => typeof value === "string";
  const number = (value) => value === null || Number.isFinite(value);
  const checks = {
    index: whole,
    sample: (value) => whole(value) && value < MOST_SAMPLES,
    seed: (value) => whole(value) || (text(value) && LONG_SEED.test(value)),
    explanation: text,
    raw_text: text,
    token_ids: Array.isArray,
    finish_reason: text,
    logprob: number,
    cosine: number,
    mse: number,
    fve: number,
    flags: (value) => Array.isArray(value) && value.every(text),
    error: (value) =>
      value === null || (typeof value === "object" && text(value.message) && text(value.code)),
    doc_id: text,
    position: (value) => whole(value) || (value === null && row.error !== null),
    token_id: number,
    token: (value) => text(value) || (value === null && row.position === null),
    norm: number,
    layer_index: number,
  };
  return Object.keys(checks).find((name) => row[name] === undefined || !checks[name](row[name]));
}

/** As Python's json.dumps: blanks, ASCII only, and numbers of its kind. */
function written(value, name = "") {
  if (typeof value === "number" && !Number.isFinite(value)) return "null";
  if (typeof value === "number") return FLOATS.has(name) ? float(value) : String(value);
  if (name === "seed" && LONG_SEED.test(value)) return value;
  if (typeof value === "string") return ascii(JSON.stringify(value));
  if (Array.isArray(value)) return `[${value.map((one) => written(one)).join(", ")}]`;
  if (value === null || typeof value !== "object") return String(value);
  return `{${Object.entries(value)
    .map(([key, one]) => `${ascii(JSON.stringify(key))}: ${written(one, key)}`)
    .join(", ")}}`;
}

function ascii(quoted) {
  return quoted.replace(
    /[^ -~]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** Python's repr: the same digits, an exponent from 1e16 and below 1e-4, and a point always. */
function float(value) {
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e16 || size < 1e-4)) {
    const [digits, exponent] = value.toExponential().split("e");
    return `${digits}e${exponent[0]}${exponent.slice(1).padStart(2, "0")}`;
  }
  if (Object.is(value, -0)) return "-0.0";
  return Number.isInteger(value) ? `${value}.0` : String(value);
}
