/** Boots the page and shows one of its views; what they share is made here and handed to them. */

import { Api } from "./api.js";
import { Service } from "./service.js";
import { mountTheme } from "./theme.js";
import { mountTokenBar } from "./token_bar.js";
import { Url } from "./url.js";

/**
 * @typedef {Object} Context what a view is given.
 * @property {Api} api
 * @property {Url} url its parameters are `url.read(NAME)` and `url.write(NAME, ..)`.
 * @property {Service} service
 * @property {(text: string) => void} announce says something to who listens to the page.
 *
 * @typedef {Object} View
 * @property {() => void} show it is seen now; its parameters may have changed.
 * @property {() => void} hide it is not any more; what runs goes on.
 */

/** Each is fetched when it is first wanted, so that the one which is seen comes the sooner. */
const VIEWS = {
  explain: () => import("./explain/view.js"),
  watch: () => import("./watch/view.js"),
  status: () => import("./status/view.js"),
};

async function boot() {
  const names = Object.keys(VIEWS);
  const api = new Api();
  const service = new Service(api);
  const url = new Url(names);
  mountTheme(document.getElementById("theme"));
  mountTokenBar(document.getElementById("token-bar"), api, service);
  mountServiceChip(document.getElementById("service"), service);
  await url.open();

  /** @type {Context} */
  const context = { api, url, service, announce: announcer(document.getElementById("announcer")) };
  const view = viewMounter(context);
  let current = "";
  const show = async () => {
    const [before, name] = [current, url.view];
    current = name;
    showTab(names, name);
    if (before && before !== name) (await view(before)).hide();
    const shown = await view(name);
    if (current === name) shown.show();
  };
  url.addEventListener("change", show);
  await show();
  performance.mark("gloss:shown");
  service.start();
  // All, before the page's server can be away; and the status keeps what it has seen till then.
  for (const name of names) view(name).catch(() => {});
}

/**
 * @param {Context} context
 * @returns {(name: string) => Promise<View>} mounts a view once; what failed is fetched again.
 */
function viewMounter(context) {
  /** @type {Map<string, Promise<View>>} */
  const mounted = new Map();
  const fetchAndMount = async (name) => {
    try {
      return (await VIEWS[name]()).mount(document.getElementById(name), context);
    } catch (error) {
      mounted.delete(name);
      throw error;
    }
  };
  return (name) => {
    if (!mounted.has(name)) mounted.set(name, fetchAndMount(name));
    return mounted.get(name);
  };
}

function showTab(names, name) {
  for (const other of names) {
    document.getElementById(other).hidden = other !== name;
    const tab = document.getElementById(`tab-${other}`);
    if (other === name) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  document.title = `Gloss: ${document.getElementById(`tab-${name}`).textContent}`;
}

/** One line in the header: what is served, or why nothing is. */
function mountServiceChip(chip, service) {
  service.addEventListener("change", () => {
    chip.classList.toggle("away", !service.answers);
    chip.textContent = service.answers ? service.model.model : service.fault.title;
  });
}

/** @returns {(text: string) => void} */
function announcer(log) {
  return (text) => {
    const line = document.createElement("span");
    line.textContent = text;
    log.replaceChildren(line);
  };
}

await boot();
