/**
 * What a watch asks the service for: its first call, and each that goes on after a pause.
 *
 * An explanation draws by its seed and position alone: one that is asked for again says the same.
 * The model's draws count the tokens of a call from 0, and nothing in the contract moves that: a
 * further call gets a seed of its own, made of the first and of where it begins, or it would draw
 * the first one's numbers again. With a temperature of 0 nothing is drawn.
 */

const SEEDS = 2n ** 64n;

/**
 * @typedef {Object} WatchOptions
 * @property {{text: string}|{chat: {role: string, content: string}[]}} prompt
 * @property {string} promptPositions empty: none.
 * @property {number} every
 * @property {number|null} maxPending null: the service's.
 * @property {number} tokensPerSecond 0: as many as it can.
 * @property {number} targetTemperature
 * @property {number} targetMaxNewTokens
 * @property {number} numSamples
 * @property {number} temperature
 * @property {number|null} maxNewTokens null: the service's.
 * @property {string} seed digits, below 2^64.
 */

/**
 * @param {WatchOptions} options
 * @param {import("./record.js").WatchRecord} record what is known already.
 * @param {number} maxItems most positions of a call.
 * @returns {{kind: "watch"|"explain", body: Object}|null} null: nothing is left to ask for.
 */
export function nextRequest(options, record, maxItems) {
  if (record.promptLength === null) {
    return watching(
      options,
      options.prompt,
      options.promptPositions,
      options.targetMaxNewTokens,
      options.seed,
    );
  }
  const text = { token_ids: record.reading.tokenIds };
  const missing = record.missing.slice(0, maxItems);
  const left = options.targetMaxNewTokens - record.numSaid;
  if (record.finishReason === "" && left > 0)
    return watching(options, text, missing, left, seedFrom(options, record));
  if (!missing.length) return null;
  return { kind: "explain", body: { ...text, positions: missing, ...explaining(options) } };
}

function seedFrom({ seed }, record) {
  return String((BigInt(seed) + BigInt(record.numSaid)) % SEEDS);
}

function watching(options, prompt, positions, maxNewTokens, targetSeed) {
  const body = {
    ...prompt,
    every: options.every,
    target: {
      temperature: options.targetTemperature,
      max_new_tokens: maxNewTokens,
      seed: targetSeed,
    },
    ...explaining(options),
  };
  if (positions.length) body.prompt_positions = positions;
  if (options.maxPending !== null) body.max_pending = options.maxPending;
  if (options.tokensPerSecond > 0) body.tokens_per_second = options.tokensPerSecond;
  return { kind: "watch", body };
}

function explaining(options) {
  const asked = {
    num_samples: options.numSamples,
    temperature: options.temperature,
    seed: options.seed,
  };
  if (options.maxNewTokens !== null) asked.max_new_tokens = options.maxNewTokens;
  return asked;
}
