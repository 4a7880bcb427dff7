/** The field for a bearer token, shown when the service wants one. */

import { button, element } from "./element.js";

/**
 * @param {HTMLElement} root hidden until it is wanted.
 * @param {import("./api.js").Api} api
 * @param {import("./service.js").Service} service
 */
export function mountTokenBar(root, api, service) {
  const input = element("input", {
    id: "bearer-token",
    type: "password",
    autocomplete: "off",
    spellcheck: "false",
  });
  const why = element("p", { id: "token-why" });
  const use = (event) => {
    event.preventDefault();
    api.token = input.value.trim();
    input.value = "";
    root.hidden = true;
    service.restart();
  };
  const form = element(
    "form",
    { class: "token-form", "aria-label": "Token", on: { submit: use } },
    why,
    element("label", { for: input.id }, "Bearer token"),
    input,
    button("use-token", "Use it", use, { type: "submit", class: "primary" }),
    element(
      "small",
      {},
      "It is kept until this tab is closed, and sent to this page's server only.",
    ),
  );
  root.append(form);
  service.addEventListener("change", () => {
    const { fault } = service;
    if (service.answers) root.hidden = true;
    if (!fault?.wantsToken && fault?.code !== "PERMISSION_DENIED") return;
    why.textContent = `${fault.title}. ${fault.sentences[0]}`;
    root.hidden = false;
  });
}
