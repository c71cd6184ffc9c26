// The keyboard: j and k go from post to post, l likes, n makes a new one, ? lists these.

import { closeButton, show } from "./announce.js";
import { h } from "./dom.js";
import { t } from "./words.js";

const HELP = [
  ["j", "key_next"], ["k", "key_previous"], ["l", "key_like"], ["n", "key_new"], ["?", "key_help"], ["Esc", "key_close"],
];

function current() {
  return document.activeElement?.closest?.("photo-post") ?? null;
}

/** The post in the middle of the view, where none has the focus. */
function seen(posts) {
  return posts.find((post) => post.getBoundingClientRect().bottom > innerHeight / 3) ?? null;
}

function step(by) {
  const posts = [...document.querySelectorAll("photo-post")];
  if (!posts.length) return;
  const here = posts.indexOf(current());
  const next = here >= 0 ? posts[Math.min(posts.length - 1, Math.max(0, here + by))] : seen(posts);
  next.focus({ preventScroll: true });
  next.scrollIntoView({ block: "start" });
}

function help() {
  const dialog = h(
    "dialog",
    { "aria-labelledby": "keys-title", id: "keys" },
    h("h2", { id: "keys-title" }, t("keys")),
    h("dl", {}, HELP.flatMap(([key, text]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, t(text))])),
  );
  dialog.append(h("div", { class: "choice" }, closeButton(dialog)));
  show(dialog);
}

const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  l: () => (current() ?? seen([...document.querySelectorAll("photo-post")]))?.button.click(),
  n: () => location.assign("/new"),
  "?": help,
};

export function listen() {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select, [contenteditable], dialog")) return;
    const act = KEYS[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
}
