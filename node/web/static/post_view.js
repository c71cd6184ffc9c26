// A post, a tile, a person and a comment as elements: what templates/macros.html makes on the server. A test compares
// the two.

import { avatar, h, icon, me } from "./dom.js";
import { shot, tilePicture } from "./pictures.js";
import { t } from "./words.js";

const nameOf = (user) => user.display_name || user.username;
const dayOf = (written) => written.slice(0, 10);

function who(user, more = "", id = null) {
  return h(
    "a",
    { class: "who", id, href: `/@${user.username}` },
    avatar(user),
    h("span", { class: "names" }, h("strong", { dir: "auto" }, nameOf(user)), h("span", { class: "handle" }, `@${user.username}${more}`)),
  );
}

function actions(post) {
  return h(
    "div",
    { class: "actions" },
    h(
      "button",
      { class: "like", type: "button", "aria-pressed": String(post.liked_by_me), "aria-label": t("like") },
      icon("heart"),
      h("span", { class: "count" }, post.like_count),
    ),
    h(
      "a",
      { class: "talk", href: `/p/${post.id}#comments`, "aria-label": t("comments", { count: post.comment_count }) },
      icon("speech"),
      h("span", { class: "count" }, post.comment_count),
    ),
    h("button", { class: "share", type: "button", "aria-label": t("share") }, icon("share")),
  );
}

export function postView(post) {
  const when = post.published_at ?? post.created_at;
  const album = post.media.length > 1;
  return h(
    "photo-post",
    {
      class: "post", id: `post-${post.id}`, role: "article", "aria-labelledby": `who-${post.id}`, tabindex: -1,
      "data-post": post.id, "data-author": post.user.id, "data-liked": String(post.liked_by_me), "data-likes": post.like_count,
    },
    h(
      "header",
      { class: "post-head" },
      who(post.user, "", `who-${post.id}`),
      h("a", { class: "when", href: `/p/${post.id}` }, h("time", { datetime: when }, dayOf(when))),
    ),
    h(
      "div",
      {
        class: album ? "frame album" : "frame", tabindex: album ? 0 : null, role: album ? "group" : null,
        "aria-label": album ? t("photos", { count: post.media.length }) : null,
      },
      post.media.map(shot),
    ),
    actions(post),
    post.location ? h("p", { class: "location", dir: "auto" }, post.location) : null,
    post.caption ? h("p", { class: "caption", dir: "auto" }, post.caption) : null,
    post.upload_status === "complete"
      ? null
      : h("p", { class: `state ${post.upload_status}`, role: "status" }, t(`state_${post.upload_status}`), post.failure ? ` ${post.failure}` : null),
  );
}

export function tileView(post) {
  const [medium] = post.media;
  const label = medium?.alt || [...post.caption].slice(0, 80).join("") || t("photo_of", { name: nameOf(post.user) });
  return h(
    "a",
    { class: `tile ${post.upload_status}`, href: `/p/${post.id}`, "data-post": post.id, "aria-label": label },
    medium ? tilePicture(medium) : null,
    medium && !medium.urls ? h("span", { class: "state" }, t(`state_${post.upload_status}`)) : null,
    post.media.length > 1 ? h("span", { class: "mark" }, icon("album")) : null,
  );
}

function followButton(user) {
  if (!me.id || me.id === user.id) return null;
  const state = user.followed_by_me ? "following" : user.requested_by_me ? "requested" : "none";
  return h(
    "follow-button",
    { "data-user": user.id, "data-name": user.username, "data-private": String(user.private), "data-state": state },
    h("button", { type: "button", class: state === "none" ? "button" : "button quiet" }, t(state === "none" ? "follow" : state)),
  );
}

function personButtons(user, kind) {
  if (kind === "requests") {
    return h(
      "span",
      { class: "choice" },
      h("button", { type: "button", class: "button", "data-act": "accept" }, t("accept")),
      h("button", { type: "button", class: "button quiet", "data-act": "reject" }, t("reject")),
    );
  }
  if (kind === "blocks") return h("button", { type: "button", class: "button quiet", "data-act": "unblock" }, t("unblock"));
  return followButton(user);
}

export function personView(user, kind) {
  const more = user.follows_me ? ` · ${t("follows_you")}` : "";
  return h("li", { class: "person", "data-user": user.id }, who(user, more), personButtons(user, kind));
}

export function commentView(comment, author) {
  const mine = me.id && (me.id === comment.user.id || me.id === author);
  return h(
    "li",
    { class: "comment", id: `comment-${comment.id}`, "data-comment": comment.id },
    h("a", { href: `/@${comment.user.username}`, tabindex: -1, "aria-hidden": "true" }, avatar(comment.user, "small")),
    h(
      "div",
      { class: "said" },
      h(
        "p",
        {},
        h("a", { class: "by", href: `/@${comment.user.username}`, dir: "auto" }, nameOf(comment.user)),
        " ",
        h("span", { class: "text", dir: "auto" }, comment.text),
      ),
      h(
        "p",
        { class: "meta" },
        h("time", { datetime: comment.created_at }, dayOf(comment.created_at)),
        mine ? h("button", { type: "button", class: "link", "data-act": "delete" }, t("delete")) : null,
      ),
    ),
  );
}
