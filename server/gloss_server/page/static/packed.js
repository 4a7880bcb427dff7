/** Long texts made short enough for a link: deflated and written in base64url. */

const PLAIN_UP_TO = 160;
/** A link of anybody's could unpack to gigabytes; no text that is read is as long. */
const MOST_CHARACTERS = 4_000_000;

/**
 * @param {string} text
 * @returns {Promise<string>} `.` and the text, or `~` and what `unpack` makes the text of.
 */
export async function pack(text) {
  if (text.length <= PLAIN_UP_TO) return `.${text}`;
  const bytes = new Uint8Array(
    await through(new TextEncoder().encode(text), new CompressionStream("deflate-raw")),
  );
  let binary = "";
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return `~${btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`;
}

/**
 * @param {string} packed
 * @returns {Promise<string>}
 * @throws {Error} it is not what `pack` makes, or unpacks to too much.
 */
export async function unpack(packed) {
  if (packed.startsWith(".")) return packed.slice(1);
  if (!packed.startsWith("~")) throw new Error("a link that is damaged");
  const binary = atob(packed.slice(1).replaceAll("-", "+").replaceAll("_", "/"));
  const bytes = Uint8Array.from(binary, (char) => char.charCodeAt(0));
  return new TextDecoder().decode(await through(bytes, new DecompressionStream("deflate-raw")));
}

async function through(bytes, transform) {
  const reader = new Blob([bytes]).stream().pipeThrough(transform).getReader();
  const chunks = [];
  let size = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return new Blob(chunks).arrayBuffer();
    size += value.length;
    if (size > 4 * MOST_CHARACTERS) {
      await reader.cancel();
      throw new Error("a link whose text is too long");
    }
    chunks.push(value);
  }
}
