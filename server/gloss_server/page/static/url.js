/**
 * The page's state in its address: `#VIEW?name=value&...`, so that a link reopens what is seen.
 *
 * Each view has parameters of its own, all strings; those of one that is not shown are kept while
 * the page lives. Event: `change`, when somebody has edited the address or gone back.
 */

import { pack, unpack } from "./packed.js";
import { weighsTooMuch } from "./weight.js";

/** Browsers refuse addresses that change too often. */
const WRITE_AFTER_MS = 200;
const PACKED = new Set(["text", "chat"]);

export class Url extends EventTarget {
  /** @type {Map<string, Object<string, string>>} */
  #parameters = new Map();
  #views;
  #view = "";
  #timer = 0;
  #number = 0;
  /** The address as it was read or written last. Another one is somebody's, and not read yet. */
  #seen = "";
  /** Whether the address that is written next is one to go back from. */
  #isNew = false;

  /** @param {string[]} views the first is shown where the address names none. */
  constructor(views) {
    super();
    this.#views = views;
    window.addEventListener("hashchange", async () => {
      await this.open();
      this.dispatchEvent(new Event("change"));
    });
  }

  /** The view that the address names. */
  get view() {
    return this.#view;
  }

  /** Read the address. A part of it that is damaged counts as not there. */
  async open() {
    this.#number += 1;
    this.#seen = location.hash;
    const [view, query] = splitHash(location.hash);
    this.#view = this.#views.includes(view) ? view : this.#views[0];
    // A tab's bare address asks for the view as it was.
    if (query === null && this.#parameters.has(this.#view)) return this.#put();
    const parameters = {};
    for (const [name, value] of new URLSearchParams(query ?? "")) {
      try {
        parameters[name] = PACKED.has(name) ? await unpack(value) : bounded(value);
      } catch {
        parameters.damaged = name;
      }
    }
    this.#parameters.set(this.#view, parameters);
  }

  /**
   * @param {string} view
   * @returns {Object<string, string>}
   */
  read(view) {
    return { ...this.#parameters.get(view) };
  }

  /**
   * Replace a view's parameters; the address follows a moment later.
   *
   * @param {string} view
   * @param {Object<string, string|null|undefined>} parameters empty ones are left out.
   * @param {boolean} [isNew] the address before can be gone back to.
   */
  write(view, parameters, isNew = false) {
    const kept = Object.entries(parameters).filter(
      ([, value]) => value !== null && value !== undefined && value !== "",
    );
    this.#parameters.set(view, Object.fromEntries(kept));
    this.#isNew ||= isNew;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#put(), WRITE_AFTER_MS);
  }

  /** A link to what is seen now. */
  async link() {
    return `${location.origin}${location.pathname}${await this.#hash()}`;
  }

  async #put() {
    const number = ++this.#number;
    const hash = await this.#hash();
    if (number !== this.#number || location.hash !== this.#seen) return;
    const isNew = this.#isNew;
    this.#isNew = false;
    if (hash === location.hash) return;
    if (isNew) history.pushState(null, "", hash);
    else history.replaceState(null, "", hash);
    this.#seen = location.hash;
  }

  async #hash() {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(this.#parameters.get(this.#view) ?? {})) {
      query.set(name, PACKED.has(name) ? await pack(value) : value);
    }
    return query.size ? `#${this.#view}?${query}` : `#${this.#view}`;
  }
}

/** @throws {Error} it is more than one of the fields has. */
function bounded(value) {
  if (weighsTooMuch(value)) throw new Error("a link with a field that is too long");
  return value;
}

/** @returns {[string, string|null]} */
function splitHash(hash) {
  const [view, ...rest] = hash.slice(1).split("?");
  return [view, rest.length ? rest.join("?") : null];
}
