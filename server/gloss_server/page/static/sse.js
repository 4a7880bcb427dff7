/** Server-sent events out of a stream of bytes, which `EventSource` cannot read of a POST. */

import { parseJson } from "./json.js";

/**
 * @typedef {Object} ServerEvent
 * @property {string} event its name.
 * @property {any} data what its JSON says; seeds beyond 2^53 are strings.
 * @property {number} at when its bytes had come, as `performance.now()` gives it.
 */

/**
 * @param {ReadableStream<Uint8Array>} stream
 * @returns {AsyncGenerator<ServerEvent>} ends with the stream.
 */
export async function* readEvents(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const at = performance.now();
      const blocks = (rest + decoder.decode(value, { stream: true })).split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) {
        const event = readBlock(block);
        if (event !== null) yield { ...event, at };
      }
    }
  } finally {
    // Whoever stops reading ends the call, here and on the server.
    reader.cancel().catch(() => {});
  }
}

/** @param {string} block lines of one event; comments keep the connection alive. */
function readBlock(block) {
  let event = "message";
  const data = [];
  for (const line of block.split(/\r?\n/)) {
    if (line.startsWith("event:")) event = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
  }
  return data.length ? { event, data: parseJson(data.join("\n")) } : null;
}
