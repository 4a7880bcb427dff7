/** The status view: whether the service answers, what it does, and what it has loaded. */

import { element } from "../element.js";
import { Notice } from "../notice.js";
import { onceAFrame } from "../frame.js";
import { visible } from "../shown.js";
import { CHARTS } from "./charts.js";
import { factCards } from "./facts.js";
import { Figures, latencyTable, totals } from "./figures.js";
import { span } from "./format.js";
import { History } from "./history.js";
import { Plot } from "./plot.js";

const STATE_WORDS = Object.freeze({
  loading: ["Loading", "The engine loads its checkpoints; calls are refused until it has."],
  serving: ["Serving", "Calls are served."],
  restarting: ["Restarting", "The engine died and is started again; calls are refused meanwhile."],
  draining: ["Draining", "The server finishes what is in flight, and then ends."],
});

/**
 * @param {HTMLElement} root
 * @param {import("../main.js").Context} context
 * @returns {import("../main.js").View}
 */
export function mount(root, context) {
  const view = new StatusView(root, context);
  return { show: () => view.show(), hide: () => view.hide() };
}

class StatusView {
  #service;
  #announce;
  #history = new History();
  #figures = new Figures();
  #plots = CHARTS.map((chart) => new Plot(chart));
  #state = element("p", { class: "state", id: "status-state" });
  #trouble = new Notice("status-");
  #shownFault = null;
  #latencies = element("div", {
    class: "scroll",
    tabindex: "0",
    role: "region",
    "aria-label": "Latencies of the last minute",
  });
  #totals = element("dl", { class: "totals" });
  #facts = element("div", { class: "fact-cards", id: "status-facts" });
  #live = element("div", { class: "live" });
  #shownModel = null;
  #lastState = "";
  #lastAt = null;
  #isShown = false;
  #draw = onceAFrame(() => this.#drawNow());

  constructor(root, context) {
    this.#service = context.service;
    this.#announce = context.announce;
    const charts = element("div", { class: "charts" }, ...this.#plots.map((plot) => plot.root));
    this.#live.append(
      part("Now", this.#figures.root),
      part("The last minutes", charts),
      part("Latencies", this.#latencies),
      part("Since the start", this.#totals),
    );
    root.append(
      element("div", { class: "status-head" }, element("h1", {}, "Status"), this.#state),
      this.#trouble.root,
      this.#live,
      part("Loaded", this.#facts),
    );
    this.#service.addEventListener("stats", ({ detail }) => this.#take(detail));
    this.#service.addEventListener("change", () => this.#change());
    document.addEventListener("theme", () => this.#restyle());
    // A page that nobody sees does not follow the service, so its lines break there.
    document.addEventListener("visibilitychange", () => this.#history.add(null, seconds()));
    if (this.#service.stats) this.#take(this.#service.stats);
    this.#change();
    // How long it has been away is said while it is.
    setInterval(() => this.#service.fault && this.#draw(), 1000);
  }

  show() {
    this.#isShown = true;
    this.#draw();
  }

  hide() {
    this.#isShown = false;
  }

  #take(stats) {
    this.#lastAt = seconds();
    this.#history.add(stats, this.#lastAt);
    this.#announceState(stats.state);
    this.#draw();
  }

  #change() {
    if (this.#service.fault) {
      this.#history.add(null, seconds());
      this.#announceState(this.#service.fault.title);
    }
    this.#draw();
  }

  #announceState(state) {
    const isNews = this.#lastState !== "" && this.#lastState !== state;
    this.#lastState = state;
    if (isNews && this.#isShown) this.#announce(STATE_WORDS[state]?.[0] ?? state);
  }

  #restyle() {
    for (const plot of this.#plots) plot.restyle();
  }

  #drawNow() {
    if (!this.#isShown) return;
    const { stats, model, fault } = this.#service;
    this.#drawState(stats, fault);
    this.#live.hidden = stats === null;
    this.#live.classList.toggle("stale", fault !== null);
    if (stats !== null && fault === null) {
      this.#figures.draw(stats);
      this.#latencies.replaceChildren(latencyTable(stats));
      this.#totals.replaceChildren(...totals(stats, model).map(([name, said]) => fact(name, said)));
    }
    const now = seconds();
    this.#plots.forEach((plot, index) => {
      plot.draw(
        this.#history.columns(
          CHARTS[index].lines.map(({ value }) => value),
          now,
        ),
      );
    });
    if (model !== null && model !== this.#shownModel) {
      this.#shownModel = model;
      this.#facts.replaceChildren(...factCards(model, this.#announce));
    }
  }

  #drawState(stats, fault) {
    const isKnown = stats !== null && fault === null;
    const [word, meaning] = isKnown
      ? (STATE_WORDS[stats.state] ?? [visible(stats.state), ""])
      : this.#noAnswer(fault);
    this.#state.className = `state ${isKnown ? stats.state : "unknown"}`;
    this.#state.replaceChildren(element("strong", {}, word), ` ${meaning}`);
    if (fault === this.#shownFault) return;
    this.#shownFault = fault;
    if (fault === null) this.#trouble.hide();
    else this.#trouble.show(fault, "bad");
  }

  #noAnswer(fault) {
    if (fault === null) return ["Asking the service", ""];
    return [
      "No answer.",
      this.#lastAt === null ? "" : `What is shown is of ${span(seconds() - this.#lastAt)} ago.`,
    ];
  }
}

function part(title, ...children) {
  return element("section", { class: "part" }, element("h2", {}, title), ...children);
}

function fact(name, said) {
  return element("div", {}, element("dt", {}, name), element("dd", {}, said));
}

/** Of the page's clock. */
function seconds() {
  return performance.now() / 1000;
}
