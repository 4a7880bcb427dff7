/**
 * What is known of a watch so far, over all the calls that it took: its text, what was said of each
 * token, what was skipped. A pause or a fault begins another call; nothing known is dropped.
 */

import { Reading } from "../reading.js";
import { Fault } from "../fault.js";
import { parsePositions, resolvePositions } from "../positions.js";

export class WatchRecord {
  /** Tokens, and what was said of them. */
  reading;

  /** Tokens of the prompt; null: not known yet. */
  promptLength = null;

  /** Why the model has ended; empty: it has not. */
  finishReason = "";

  /** @type {Map<number, string>} Why a token is not explained, by position. */
  skipped = new Map();

  /** @type {Set<number>} Positions whose explanations came of a call after their token's. */
  late = new Set();

  /** @type {number[]} Seconds from a token to its explanation, of those that are not late. */
  lags = [];

  #every;
  #promptPositions;
  #changed = new Set();
  /** Tokens that were there when the call that runs began. */
  #callStart = 0;
  /** @type {number[]} Position of each activation of the call that runs. */
  #positions = [];

  /**
   * @param {Object} options
   * @param {number} options.numSamples explanations of an activation.
   * @param {number} options.every of the model's tokens every n-th is explained.
   * @param {string} options.promptPositions of the prompt, to be explained as well; empty: none.
   */
  constructor({ numSamples, every, promptPositions }) {
    this.reading = new Reading(numSamples);
    this.#every = every;
    this.#promptPositions = promptPositions;
  }

  /** Tokens of prompt and model. */
  get length() {
    return this.reading.tokenIds.length;
  }

  /** Tokens that the model has said. */
  get numSaid() {
    return this.promptLength === null ? 0 : this.length - this.promptLength;
  }

  /** Positions that are still to be explained. */
  get missing() {
    return this.reading.missing();
  }

  /** It grows with all that a call brings: tokens, and those of them that nothing more comes of. */
  get numKnown() {
    return 2 * this.length - this.missing.length;
  }

  /** Tokens that are not explained, by why. @returns {Map<string, number>} */
  get skipCounts() {
    const counts = new Map();
    for (const reason of this.skipped.values()) counts.set(reason, (counts.get(reason) ?? 0) + 1);
    return counts;
  }

  /** Whether a token is of the prompt. @param {number} position */
  isPrompt(position) {
    return position < (this.promptLength ?? 0);
  }

  /** A call begins: its activations count from 0 again. */
  beginCall() {
    this.#positions = [];
    this.#callStart = this.length;
  }

  /**
   * Note an event of the call that runs.
   *
   * @param {string} event
   * @param {any} data
   * @throws {Fault} the service has come back as another one.
   */
  take(event, data) {
    if (event === "opened") this.#open(data);
    else if (event === "captured") data.places.forEach((place) => this.#capture(place));
    else if (event === "deltas") data.deltas.forEach((delta) => this.#grow(delta));
    else if (event === "rows") data.rows.forEach((row) => this.#finish(row));
    else if (event === "tokens") data.tokens.forEach((token) => this.#say(token));
    else if (event === "skipped")
      data.skipped.forEach(({ position, reason }) => this.#skip(position, reason));
    else if (event === "target_end") this.finishReason = data.finish_reason;
  }

  /** Nothing comes any more: what has no explanation yet will have none. @param {string} reason */
  close(reason) {
    for (const position of this.missing) this.#skip(position, reason);
  }

  /** Positions that have changed since this was last asked, ascending. */
  drain() {
    const changed = [...this.#changed].sort((one, other) => one - other);
    this.#changed.clear();
    return changed;
  }

  #open(opened) {
    const { reading } = this;
    if (this.promptLength === null) {
      reading.open({ ...opened, token_ids: [...opened.token_ids] });
      this.promptLength = this.#callStart = this.length;
      if (this.#promptPositions)
        reading.wanted = resolvePositions(parsePositions(this.#promptPositions), this.length);
      for (let position = 0; position < this.length; position += 1) this.#changed.add(position);
    } else if (opened.fingerprint !== reading.fingerprint) {
      throw new Fault({
        code: "ABORTED",
        message:
          "The service came back with other checkpoints, so this watch cannot go on with them.",
        hint: "What is shown stays. Start another watch to see the new ones.",
      });
    }
  }

  #say({ position, token_id: tokenId, text }) {
    const { reading } = this;
    if (position !== this.length) return;
    reading.tokenIds.push(tokenId);
    reading.tokens.set(position, text);
    if ((position - this.promptLength) % this.#every === 0) reading.wanted.push(position);
    else this.skipped.set(position, "every");
    this.#changed.add(position);
  }

  #capture(place) {
    this.#positions[place.index] = place.position;
    this.reading.capture(place);
    this.#changed.add(place.position);
  }

  #grow({ index, sample, text }) {
    const position = this.#positions[index];
    if (position === undefined) return;
    this.reading.grow(position, sample, text);
    this.#changed.add(position);
  }

  #finish(row) {
    const { position } = row;
    if (position === null || !this.reading.take(row)) return;
    this.#changed.add(position);
    if (this.isPrompt(position)) return;
    if (position < this.#callStart) this.late.add(position);
    else if (typeof row.lag_seconds === "number") this.lags.push(row.lag_seconds);
  }

  #skip(position, reason) {
    this.skipped.set(position, reason);
    this.reading.wanted = this.reading.wanted.filter((one) => one !== position);
    this.#changed.add(position);
  }
}
