/** The status view. */

/**
 * @param {HTMLElement} root
 * @param {import("../main.js").Context} context
 * @returns {import("../main.js").View}
 */
export function mount(root, context) {
  return { show() {}, hide() {} };
}
