// The rest of a list, page by page, as its end comes near: what feed, grid and lists of people share.

import { call } from "./api.js";
import { h } from "./dom.js";
import { t } from "./words.js";

const AHEAD = "1200px"; // asked for before the reader is there

/**
 * Goes on with the list at `path` from `cursor` while `rest` (an element behind the list) is near: `take` gets each
 * answer and appends it. `ended` is called once, at the end. `rest` shows progress, and a failure with its remedy.
 */
export class Pager {
  constructor({ path, cursor, rest, take, ended = () => {} }) {
    Object.assign(this, { path, cursor, rest, take, ended });
    this.busy = false;
    this.failed = false;
    this.watcher = new IntersectionObserver(
      ([entry]) => {
        this.near = entry.isIntersecting;
        if (this.near && !this.failed) this.more();
      },
      { rootMargin: AHEAD },
    );
    rest.replaceChildren();
    this.watcher.observe(rest);
  }

  async more() {
    if (this.busy || !this.cursor) return;
    this.busy = true;
    this.failed = false;
    this.rest.replaceChildren(h("span", { class: "spinner", "aria-hidden": "true" }), h("span", { class: "unseen" }, t("loading")));
    try {
      const separator = this.path.includes("?") ? "&" : "?";
      const page = await call("GET", `${this.path}${separator}cursor=${encodeURIComponent(this.cursor)}`);
      this.cursor = page.next_cursor;
      this.rest.replaceChildren();
      this.take(page);
    } catch {
      this.failed = true;
      this.rest.replaceChildren(
        h("p", {}, t("load_failed")),
        h("button", { type: "button", class: "button quiet", onclick: () => this.more() }, t("retry")),
      );
    } finally {
      this.busy = false;
    }
    if (!this.cursor) this.end();
    // Observing anew tells at once whether the end is still near: a short page may not have pushed it away.
    else if (!this.failed) this.again();
  }

  again() {
    this.watcher.unobserve(this.rest);
    this.watcher.observe(this.rest);
  }

  end() {
    this.watcher.disconnect();
    this.ended();
  }
}
