/** Links that came in pieces: what of one cannot be read. */

import { parseChat } from "./chat_fields.js";
import { Fault } from "./fault.js";

/**
 * @param {Object<string, string>} parameters of a view, as the address has them.
 * @returns {Fault|null} null: nothing is damaged.
 */
export function damageOf({ damaged, chat }) {
  const part = damaged ?? (chat && !parseChat(chat) ? "chat" : null);
  if (part === null) return null;
  return new Fault({
    code: "INVALID_ARGUMENT",
    message: `The link is damaged: its ${part} cannot be read.`,
  });
}
