/** A link to what is seen, into the clipboard. */

const SAID_MS = 2000;

/**
 * @param {HTMLButtonElement} button says for a moment what became of it.
 * @param {import("./url.js").Url} url
 * @param {(text: string) => void} announce
 */
export async function copyLink(button, url, announce) {
  const name = (button.dataset.name ??= button.textContent);
  let said = "Link copied";
  try {
    await navigator.clipboard.writeText(await url.link());
  } catch {
    // Browsers keep the clipboard from pages of plain http that are not of this machine.
    said = "Copy it from the address bar";
  }
  announce(`${said}.`);
  button.textContent = said;
  setTimeout(() => {
    button.textContent = name;
  }, SAID_MS);
}
