/** Why something did not work, in words: what happened, and what to do. */

const TITLES = {
  CANCELLED: "Stopped",
  INVALID_ARGUMENT: "This cannot be asked",
  OUT_OF_RANGE: "This cannot be asked",
  NOT_FOUND: "The service does not know this",
  ALREADY_EXISTS: "This request was made before",
  FAILED_PRECONDITION: "The service has not loaded what this needs",
  UNAUTHENTICATED: "The service wants a token",
  PERMISSION_DENIED: "This token does not allow this",
  RESOURCE_EXHAUSTED: "The service is busy",
  UNAVAILABLE: "The service is away",
  DEADLINE_EXCEEDED: "This took too long",
  UNIMPLEMENTED: "The service is older than this page",
  ABORTED: "The service has changed meanwhile",
  INTERNAL: "The service has failed",
};
const REASON_TITLES = {
  QUEUE_FULL: "The service's queue is full",
  RATE_LIMITED: "Too much was asked in a short time",
  DEADLINE_UNREACHABLE: "The service is too busy to be done in time",
  SLOW_READER: "This page read too slowly",
  OUT_OF_MEMORY: "The service's memory did not suffice",
  ENGINE_RESTARTED: "The service's engine died and starts again",
  NO_PAGE_SERVER: "The page's own server is away",
  SILENT_PAGE_SERVER: "The page's own server does not answer",
};
/** Codes after which a run that has come further may be asked for the rest. */
const WITH_PROGRESS = new Set(["RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"]);

export class Fault extends Error {
  /**
   * @param {Object} given as the server says it; all of it may be missing.
   * @param {string} [given.code] of gRPC.
   * @param {string} [given.reason] UPPER_SNAKE.
   * @param {string} [given.message] what was got and expected.
   * @param {string} [given.hint] how to go on.
   * @param {string|null} [given.field] of the request, at fault.
   * @param {number|null} [given.retry_seconds] until another try may succeed.
   */
  constructor({ code, reason, message, hint, field, retry_seconds: retrySeconds } = {}) {
    super(message || "Nothing more was said.");
    this.code = code || "UNKNOWN";
    this.reason = reason || "";
    this.hint = hint || "";
    this.field = field || null;
    this.retrySeconds = typeof retrySeconds === "number" ? retrySeconds : null;
  }

  /** A few words for what happened. */
  get title() {
    return REASON_TITLES[this.reason] ?? TITLES[this.code] ?? "Something went wrong";
  }

  /**
   * Whether waiting helps, so that the page tries again by itself.
   *
   * @param {boolean} hasProgressed something has come before it.
   */
  isPassing(hasProgressed) {
    if (this.code === "UNAVAILABLE" || this.wantsToken || this.retrySeconds !== null) return true;
    return hasProgressed && WITH_PROGRESS.has(this.code);
  }

  /** Whether the service wants a token, or another one. */
  get wantsToken() {
    return this.code === "UNAUTHENTICATED";
  }

  /** All that is said of it, as sentences. @returns {string[]} */
  get sentences() {
    return [this.message, this.hint].filter(Boolean).map(sentence);
  }

  /** Whether somebody here ended it. */
  get isStop() {
    return this.code === "CANCELLED";
  }
}

/** The page's own server does not answer. */
export function pageServerAway() {
  return new Fault({
    code: "UNAVAILABLE",
    reason: "NO_PAGE_SERVER",
    message: "The command that brought this page, gloss ui, does not answer.",
    hint: "Start it again with the same --listen; this page goes on by itself.",
  });
}

/** The page's own server is there, and says nothing. */
export function pageServerSilent() {
  return new Fault({
    code: "UNAVAILABLE",
    reason: "SILENT_PAGE_SERVER",
    message: "The command that brought this page, gloss ui, has said nothing for 10 seconds.",
    hint:
      "It hangs, or the way to it does; or other tabs of this page, explaining or watching, use all " +
      "the connections that this browser opens to it. This page goes on by itself.",
  });
}

function sentence(text) {
  const said = text[0].toUpperCase() + text.slice(1);
  return /[.!?]$/.test(said) ? said : `${said}.`;
}
