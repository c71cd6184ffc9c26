// <post-comments> and <post-tools>: what is said under a post, and what its author may do with it.

import { announce, ask } from "./announce.js";
import { attempt, call } from "./api.js";
import { component, h, me } from "./dom.js";
import { commentView } from "./post_view.js";
import { tellTimes } from "./times.js";
import { t } from "./words.js";

class PostComments extends HTMLElement {
  connectedCallback() {
    this.list = this.querySelector(".said-list");
    this.cursor = this.dataset.cursor;
    this.more = this.querySelector(".more");
    this.more.addEventListener("click", () => this.earlier());
    this.list.addEventListener("click", (event) => {
      if (event.target.closest('[data-act="delete"]')) this.remove_(event.target.closest(".comment"));
    });
    const form = this.querySelector(".say");
    form?.addEventListener("submit", (event) => {
      event.preventDefault();
      this.say(form);
    });
    form?.elements.text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
    tellTimes(this);
  }

  async earlier() {
    try {
      const page = await call("GET", `/v1/posts/${this.dataset.post}/comments?cursor=${encodeURIComponent(this.cursor)}`);
      this.cursor = page.next_cursor;
      this.more.hidden = !this.cursor;
      this.list.append(...page.comments.map((comment) => commentView(comment, this.dataset.author)));
      tellTimes(this);
    } catch {
      announce(t("load_failed"));
    }
  }

  /** Shown at once; where it is refused it goes, and the words come back into their field. */
  async say(form) {
    const text = form.elements.text.value.trim();
    if (!text) return;
    const user = { id: me.id, username: me.username, display_name: "", avatar_url: null };
    const draft = commentView({ id: "0", user, text, created_at: new Date().toISOString() }, "");
    draft.classList.add("sending");
    this.list.prepend(draft);
    form.reset();
    this.count(1);
    try {
      const made = await call("POST", `/v1/posts/${this.dataset.post}/comments`, { body: { text }, key: attempt() });
      draft.replaceWith(commentView(made, this.dataset.author));
      tellTimes(this);
    } catch (error) {
      draft.remove();
      this.count(-1);
      form.elements.text.value = text;
      form.elements.text.focus();
      announce(error.status === 422 ? error.message : t("comment_failed"));
    }
  }

  async remove_(row) {
    row.hidden = true;
    try {
      await call("DELETE", `/v1/comments/${row.dataset.comment}`);
      row.remove();
      this.count(-1);
    } catch {
      row.hidden = false;
      announce(t("delete_failed"));
    }
  }

  count(by) {
    const talk = document.querySelector(".talk");
    const count = Math.max(0, Number(talk.textContent) + by);
    talk.querySelector(".count").textContent = count;
    talk.setAttribute("aria-label", t("comments", { count }));
    this.querySelector(".empty-line").hidden = this.list.children.length > 0;
  }
}

class PostTools extends HTMLElement {
  connectedCallback() {
    this.querySelector('[data-act="edit"]').addEventListener("click", () => this.edit());
    this.querySelector('[data-act="delete"]').addEventListener("click", () => this.delete_());
  }

  async edit() {
    let post;
    try {
      post = await call("GET", `/v1/posts/${this.dataset.post}`);
    } catch {
      announce(t("load_failed"));
      return;
    }
    const field = (name, label, value, most) => [
      h("label", { for: `edit-${name}` }, label),
      h("textarea", { id: `edit-${name}`, name, maxlength: most, dir: "auto", rows: 1 }, value),
    ];
    const numbered = (at) => (post.media.length > 1 ? `${t("alt")} (${at + 1})` : t("alt"));
    const wanted = await ask({
      title: t("edit"),
      confirm: t("save"),
      fields: [
        ...field("caption", t("caption"), post.caption, 2200),
        ...field("location", t("location"), post.location, 100),
        ...post.media.flatMap((medium, at) => field(`alt-${medium.id}`, numbered(at), medium.alt, 5000)),
      ],
      read: (dialog) => Object.fromEntries(new FormData(dialog.querySelector("form"))),
    });
    if (!wanted) return;
    const alts = Object.fromEntries(post.media.map((medium) => [medium.id, wanted[`alt-${medium.id}`]]));
    try {
      await call("PATCH", `/v1/posts/${post.id}`, { body: { caption: wanted.caption, location: wanted.location, alts } });
      location.reload();
    } catch (error) {
      announce(error.message);
    }
  }

  async delete_() {
    if (!(await ask({ title: t("delete_post"), detail: t("delete_post_more"), confirm: t("delete"), danger: true }))) return;
    try {
      await call("DELETE", `/v1/posts/${this.dataset.post}`);
      location.assign(`/@${me.username}`);
    } catch {
      announce(t("delete_failed"));
    }
  }
}

component("post-comments", PostComments);
component("post-tools", PostTools);
