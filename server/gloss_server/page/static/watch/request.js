/**
 * What a watch asks the service for: its first call, and each that goes on after a pause.
 *
 * All draws go by seed and position: an explanation that is asked for again says the same, and a
 * model that is told what it has said goes on as it would have without the pause.
 */

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
    return watching(options, options.prompt, options.promptPositions, 0);
  }
  const text = { token_ids: record.reading.tokenIds };
  const missing = record.missing.slice(0, maxItems);
  if (record.finishReason === "" && record.numSaid < options.targetMaxNewTokens)
    return watching(options, text, missing, record.numSaid);
  if (!missing.length) return null;
  return { kind: "explain", body: { ...text, positions: missing, ...explaining(options) } };
}

function watching(options, prompt, positions, numGenerated) {
  const body = {
    ...prompt,
    every: options.every,
    target: {
      temperature: options.targetTemperature,
      max_new_tokens: options.targetMaxNewTokens - numGenerated,
      seed: options.seed,
    },
    ...explaining(options),
  };
  if (numGenerated > 0) body.num_generated = numGenerated;
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
