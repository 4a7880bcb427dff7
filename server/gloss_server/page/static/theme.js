/** Light or dark: as the system has it, or as somebody chose; the choice is kept in the browser. */

const KEY = "gloss-theme";
const NEXT = { system: "light", light: "dark", dark: "system" };

/** @param {HTMLButtonElement} chooser goes round the three. */
export function mountTheme(chooser) {
  let theme = localStorage.getItem(KEY) ?? "system";
  const apply = () => {
    document.documentElement.dataset.theme = theme;
    chooser.textContent = `Theme: ${theme}`;
    document.dispatchEvent(new Event("theme"));
  };
  chooser.addEventListener("click", () => {
    theme = NEXT[theme] ?? "system";
    localStorage.setItem(KEY, theme);
    apply();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  apply();
}
