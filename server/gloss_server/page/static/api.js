/** The HTTP side of the page: questions and streams of events, failures as Faults. */

import { Fault, pageServerAway } from "./fault.js";
import { parseJson, writeJson } from "./json.js";
import { readEvents } from "./sse.js";

/** @typedef {import("./sse.js").ServerEvent} ServerEvent */

const TOKEN_KEY = "gloss-token";

export class Api {
  /** The bearer token that goes with every request; it lives as long as the browser's tab. */
  get token() {
    return sessionStorage.getItem(TOKEN_KEY) ?? "";
  }

  set token(token) {
    if (token) sessionStorage.setItem(TOKEN_KEY, token);
    else sessionStorage.removeItem(TOKEN_KEY);
  }

  /**
   * What the service has loaded.
   *
   * @param {AbortSignal} [signal]
   * @returns {Promise<any>}
   * @throws {Fault}
   */
  async model(signal) {
    const response = await this.#fetch("/api/model", { signal });
    return parseJson(await response.text());
  }

  /**
   * @param {Object} request as POST /api/explain takes it.
   * @param {AbortSignal} signal ends the call.
   * @returns {AsyncGenerator<ServerEvent>} `opened`, `captured`, `deltas`, `rows`, `end`.
   * @throws {Fault} also for the event `failed`, and where the stream breaks off before `end`.
   */
  explain(request, signal) {
    return this.#stream("/api/explain", request, signal);
  }

  /**
   * @param {Object} request as POST /api/watch takes it.
   * @param {AbortSignal} signal ends the call.
   * @returns {AsyncGenerator<ServerEvent>} those of `explain`, `tokens`, `skipped`, `target_end`.
   * @throws {Fault} as `explain`.
   */
  watch(request, signal) {
    return this.#stream("/api/watch", request, signal);
  }

  /**
   * What the service does, once a second. `service.js` follows it: listen there.
   *
   * @param {AbortSignal} signal
   * @returns {AsyncGenerator<ServerEvent>} `stats` and `failed`, until the connection breaks.
   * @throws {Fault}
   */
  async *stats(signal) {
    const response = await this.#fetch("/api/stats", { signal });
    yield* this.#events(response, signal);
  }

  async *#stream(path, request, signal) {
    const response = await this.#fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: writeJson(request),
      signal,
    });
    let ended = false;
    for await (const event of this.#events(response, signal)) {
      if (event.event === "failed") throw new Fault(event.data);
      ended ||= event.event === "end";
      yield event;
    }
    if (!ended) throw pageServerAway();
  }

  async *#events(response, signal) {
    try {
      yield* readEvents(response.body);
    } catch (error) {
      throw asFault(error, signal);
    }
  }

  async #fetch(path, options) {
    const headers = { ...options.headers };
    if (this.token) headers.Authorization = `Bearer ${this.token}`;
    let response;
    try {
      response = await fetch(path, { ...options, headers, cache: "no-store" });
    } catch (error) {
      throw asFault(error, options.signal);
    }
    if (!response.ok) throw await refusal(response);
    return response;
  }
}

/** What a failed fetch or read means. */
function asFault(error, signal) {
  if (error instanceof Fault) return error;
  if (signal?.aborted) {
    if (signal.reason instanceof Fault) return signal.reason;
    return new Fault({ code: "CANCELLED", message: "It was stopped here." });
  }
  // A network error says no more than that there was one.
  if (error instanceof TypeError) return pageServerAway();
  return new Fault({ code: "INTERNAL", message: String(error) });
}

/** Why a request was refused before it started. */
async function refusal(response) {
  try {
    return new Fault(await response.json());
  } catch {
    return new Fault({ code: "INTERNAL", message: `The page's server says ${response.status}.` });
  }
}
