/** Boots the page and shows one of its views; what they share is made here and handed to them. */

import { Api } from "./api.js";
import * as explain from "./explain/view.js";
import { Service } from "./service.js";
import * as status from "./status/view.js";
import { mountTheme } from "./theme.js";
import { mountTokenBar } from "./token_bar.js";
import { Url } from "./url.js";
import * as watch from "./watch/view.js";

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

const VIEWS = { explain, watch, status };

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
  /** @type {Map<string, View>} All from the beginning: the status keeps what it has seen of the service. */
  const mounted = new Map(names.map((name) => [name, VIEWS[name].mount(document.getElementById(name), context)]));
  let current = "";
  const show = () => {
    const name = url.view;
    if (name !== current) mounted.get(current)?.hide();
    current = name;
    for (const other of names) {
      document.getElementById(other).hidden = other !== name;
      const tab = document.getElementById(`tab-${other}`);
      if (other === name) tab.setAttribute("aria-current", "page");
      else tab.removeAttribute("aria-current");
    }
    document.title = `Gloss: ${document.getElementById(`tab-${name}`).textContent}`;
    mounted.get(name).show();
  };
  url.addEventListener("change", show);
  show();
  service.start();
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
