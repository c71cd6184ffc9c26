// <photo-feed>: the feed goes on as one scrolls, says when there is something new, and is where it was on Back.

import { call } from "./api.js";
import { component, h } from "./dom.js";
import { Pager } from "./pager.js";
import { postView } from "./post_view.js";
import { t } from "./words.js";

const LOOK_EVERY_MS = 45000; // for new posts, while the page is seen
const KEPT_POSTS_MAX = 300; // for the way back
const FRESH_POSTS_MAX = 100; // the most that one page of the API holds
const PLACE = "heliograph-feed"; // in session storage

class PhotoFeed extends HTMLElement {
  connectedCallback() {
    this.posts = this.querySelector(".posts");
    this.pill = this.querySelector(".pill");
    this.first = this.ids();
    this.taken = []; // the JSON of what came after the first page, for the way back
    this.start(this.dataset.cursor);
    this.pill.addEventListener("click", () => this.refresh());
    this.timer = setInterval(() => this.look(), LOOK_EVERY_MS);
    document.addEventListener("visibilitychange", this.look);
    addEventListener("pagehide", this.leave);
    this.comeBack();
  }

  disconnectedCallback() {
    clearInterval(this.timer);
    document.removeEventListener("visibilitychange", this.look);
    removeEventListener("pagehide", this.leave);
  }

  ids() {
    return [...this.posts.children].map((post) => post.dataset.post);
  }

  start(cursor) {
    this.pager?.watcher.disconnect();
    const rest = this.querySelector(".rest");
    if (!cursor) return;
    this.pager = new Pager({
      path: "/v1/feed",
      cursor,
      rest,
      take: (page) => this.append(page.posts),
      ended: () => rest.replaceChildren(h("p", { class: "end" }, t("feed_end"))),
    });
  }

  append(posts) {
    this.taken.push(...posts);
    this.posts.append(...posts.map(postView));
  }

  // --- what is new
  look = async () => {
    if (document.hidden || !this.pill.hidden) return;
    try {
      const { posts } = await call("GET", "/v1/feed?limit=1");
      this.pill.hidden = !posts.length || posts[0].id === this.ids()[0];
    } catch {
      return; // the next look says
    }
  };

  async refresh() {
    this.pill.hidden = true;
    const page = await call("GET", "/v1/feed").catch(() => null);
    if (!page) {
      location.reload();
      return;
    }
    this.posts.replaceChildren(...page.posts.map(postView));
    this.querySelector(".empty")?.remove();
    this.first = this.ids();
    this.taken = [];
    this.start(page.next_cursor);
    scrollTo({ top: 0 });
  }

  // --- the way back: browsers that keep the whole page need none of this
  leave = () => {
    const anchor = [...this.posts.children].find((post) => post.getBoundingClientRect().bottom > 0);
    if (!anchor) return;
    sessionStorage.setItem(
      PLACE,
      JSON.stringify({
        at: location.pathname + location.search,
        first: this.first,
        posts: this.taken.slice(0, KEPT_POSTS_MAX),
        cursor: this.pager?.cursor ?? null,
        anchor: anchor.dataset.post,
        offset: anchor.getBoundingClientRect().top,
      }),
    );
  };

  async comeBack() {
    const [how] = performance.getEntriesByType("navigation");
    const kept = JSON.parse(sessionStorage.getItem(PLACE) ?? "null");
    sessionStorage.removeItem(PLACE);
    if (how?.type !== "back_forward" || kept?.at !== location.pathname + location.search) return;
    history.scrollRestoration = "manual";
    if (kept.first.join() === this.first.join()) {
      if (kept.posts.length) {
        this.append(kept.posts);
        this.start(kept.cursor);
        if (!kept.cursor) this.querySelector(".rest").replaceChildren(h("p", { class: "end" }, t("feed_end")));
      }
    } else {
      await this.fetchUntil(kept.anchor, kept.first.length + kept.posts.length);
    }
    const anchor = document.getElementById(`post-${kept.anchor}`);
    if (anchor) scrollBy({ top: anchor.getBoundingClientRect().top - kept.offset, behavior: "instant" });
    history.scrollRestoration = "auto";
    await this.freshen();
  }

  /** What was kept is brought up to date, so far as one answer reaches: a like or comment elsewhere shows here. */
  async freshen() {
    const page = await call("GET", `/v1/feed?limit=${FRESH_POSTS_MAX}`).catch(() => null);
    if (!page) return;
    this.pill.hidden = !page.posts.length || page.posts[0].id === this.ids()[0];
    for (const post of page.posts) document.getElementById(`post-${post.id}`)?.update(post);
  }

  /** Something came since: the pages above are asked for anew, so that nothing is missing between. */
  async fetchUntil(anchor, most) {
    while (this.pager?.cursor && !document.getElementById(`post-${anchor}`) && this.posts.children.length < most + 20) {
      const before = this.pager.cursor;
      await this.pager.more();
      if (this.pager.cursor === before) return;
    }
  }
}

component("photo-feed", PhotoFeed);
