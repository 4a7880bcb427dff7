/**
 * What is known of one text: its tokens, and what has been said of each. It knows nothing of where
 * it came from, a service or a file, or of how it is shown.
 */

/**
 * @typedef {Object} Row a row of `gloss explain`; see explain_row.py.
 * @property {number} sample
 * @property {number|null} position
 * @property {string} explanation
 * @property {string[]} flags
 * @property {number|null} fve
 * @property {{code: string, reason: string, message: string}|null} error
 *
 * @typedef {Object} Place
 * @property {number} position
 * @property {number} token_id
 * @property {string} token
 * @property {number} norm
 * @property {number} layer_index
 *
 * @typedef {Object} Sample
 * @property {string} raw what was generated so far, in the call that runs.
 * @property {string} kept what a call before had brought, shown until `raw` has caught up.
 * @property {Row|null} row once it is finished.
 */

const OPENING = "<explanation>";
const CLOSING = "</explanation>";

export class Reading {
  /** @type {Map<number, string>} Texts of tokens by position, in the order of the text. */
  tokens = new Map();
  /** @type {number[]} */
  tokenIds = [];
  /** @type {Map<number, Place>} */
  places = new Map();
  /** @type {Map<number, Sample[]>} */
  samples = new Map();
  /** @type {Row[]} in the order in which they were finished. */
  rows = [];
  /** @type {number[]} Positions that are to be explained; empty until they are known. */
  wanted = [];
  /** @type {string|number|null} */
  seed = null;
  fingerprint = "";
  /** @type {Row|null} Why the whole text could not be read; a file may say so. */
  failure = null;

  /** @param {number} numSamples of each position. */
  constructor(numSamples) {
    this.numSamples = numSamples;
  }

  /** What a file of rows says of one text. @param {Row[]} rows */
  static of(rows) {
    const last = rows.reduce((most, { sample }) => Math.max(most, sample), 0);
    const reading = new Reading(1 + last);
    const placed = rows.filter((row) => row.position !== null);
    for (const row of [...placed].sort((a, b) => a.position - b.position)) {
      reading.tokens.set(row.position, row.token ?? "");
    }
    reading.wanted = [...reading.tokens.keys()];
    reading.seed = rows[0].seed;
    reading.failure = rows.find((row) => row.position === null) ?? null;
    for (const row of placed) reading.take(row);
    if (reading.failure) reading.rows.push(reading.failure);
    return reading;
  }

  /** The text has been read. @param {Object} opened as the event says it. */
  open(opened) {
    this.tokenIds = opened.token_ids;
    this.seed = opened.seed;
    this.fingerprint = opened.fingerprint;
    opened.tokens.forEach((token, position) => this.tokens.set(position, token));
  }

  /**
   * An activation was read; what was begun of it begins again, and draws the same.
   *
   * @param {Place} place
   */
  capture(place) {
    this.places.set(place.position, place);
    for (const sample of this.#at(place.position)) {
      if (sample.raw.length > sample.kept.length) sample.kept = sample.raw;
      sample.raw = "";
    }
  }

  /** An explanation has grown. */
  grow(position, sample, text) {
    const grown = this.#at(position)[sample];
    if (grown && !grown.row) grown.raw += text;
  }

  /**
   * An explanation is finished.
   *
   * @param {Row} row
   * @returns {boolean} whether it is new.
   */
  take(row) {
    const samples = this.#at(row.position);
    if (!samples[row.sample] || samples[row.sample].row) return false;
    samples[row.sample].row = row;
    this.rows.push(row);
    if (!this.places.has(row.position)) this.places.set(row.position, row);
    return true;
  }

  /**
   * Let go of what has failed, so that it can be asked for again.
   *
   * @returns {number[]} positions.
   */
  forgetFailed() {
    const failed = this.rows.filter((row) => row.error);
    this.rows = this.rows.filter((row) => !row.error);
    for (const { position, sample } of failed) this.samples.get(position)[sample] = unsaid();
    return [...new Set(failed.map((row) => row.position))];
  }

  /** Positions that lack an explanation, ascending. */
  missing() {
    return this.wanted.filter((position) => !this.isDone(position));
  }

  /** Whether all its samples are finished. */
  isDone(position) {
    const samples = this.samples.get(position);
    return samples !== undefined && samples.every((sample) => sample.row !== null);
  }

  /** Mean FVE of its samples, as far as they are scored; null: none is. */
  fve(position) {
    let sum = 0;
    let scored = 0;
    for (const { row } of this.samples.get(position) ?? []) {
      if (row === null || row.fve === null) continue;
      sum += row.fve;
      scored += 1;
    }
    return scored ? sum / scored : null;
  }

  /** @returns {string[]} flags of any of its samples, each once. */
  flags(position) {
    return [...new Set((this.samples.get(position) ?? []).flatMap(({ row }) => row?.flags ?? []))];
  }

  /** Whether one of its samples has failed. */
  hasFailed(position) {
    return (this.samples.get(position) ?? []).some(({ row }) => row !== null && row.error !== null);
  }

  #at(position) {
    let samples = this.samples.get(position);
    if (samples === undefined) {
      samples = Array.from({ length: this.numSamples }, unsaid);
      this.samples.set(position, samples);
    }
    return samples;
  }
}

/** @returns {Sample} */
function unsaid() {
  return { raw: "", kept: "", row: null };
}

/** What a sample says so far, without its tags or the beginning of one. @param {Sample} sample */
export function saidSoFar(sample) {
  if (sample.row) return sample.row.explanation;
  const raw = (sample.raw.length < sample.kept.length ? sample.kept : sample.raw).trimStart();
  if (OPENING.startsWith(raw)) return "";
  const opened = raw.indexOf(OPENING);
  const body = opened < 0 ? raw : raw.slice(opened + OPENING.length);
  const [said] = body.split(CLOSING, 1);
  const tag = said.lastIndexOf("<");
  return (tag >= 0 && CLOSING.startsWith(said.slice(tag)) ? said.slice(0, tag) : said).trim();
}
