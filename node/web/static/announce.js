// Short notices: shown for a moment, and read out by the live region that the page has.

import { h } from "./dom.js";
import { t } from "./words.js";

const SHOWN_MS = 4000;

export function announce(text) {
  const notice = h("div", { class: "notice" }, text);
  document.getElementById("notices").append(notice);
  setTimeout(() => notice.remove(), SHOWN_MS);
}

/**
 * A modal dialog. The browser traps the focus in it, closes it on Escape and gives the focus back; resolves with what
 * `read` makes of the dialog when it was confirmed, else with null.
 */
export function ask({ title, detail, confirm, danger = false, fields = [], read = () => true }) {
  return new Promise((resolve) => {
    const dialog = h(
      "dialog",
      { "aria-labelledby": "ask-title" },
      h(
        "form",
        { method: "dialog" },
        h("h2", { id: "ask-title" }, title),
        detail ? h("p", {}, detail) : null,
        ...fields,
        h(
          "div",
          { class: "choice" },
          h("button", { class: "button quiet", value: "", formnovalidate: true, type: "button", onclick: () => dialog.close("") }, t("cancel")),
          h("button", { class: danger ? "button quiet danger" : "button", value: "yes" }, confirm),
        ),
      ),
    );
    show(dialog).then((value) => resolve(value === "yes" ? read(dialog) : null));
  });
}

/** Show a dialog until it closes; what it was closed with. */
export function show(dialog) {
  const before = document.activeElement;
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (before?.isConnected) before.focus();
      resolve(dialog.returnValue);
    });
  });
}

export function closeButton(dialog) {
  return h("button", { class: "button quiet", type: "button", onclick: () => dialog.close("") }, t("close"));
}
