// Likes: shown at once, sent behind; rolled back where the node refuses, kept for later where there is no network.

import { announce } from "./announce.js";
import { Unreachable, call } from "./api.js";
import { me } from "./dom.js";
import { t } from "./words.js";

const QUEUE = `heliograph-likes-${me.id}`; // in local storage: post → whether it is liked
const QUEUED_MAX = 500;
const underWay = new Map(); // post → the last wish, while one is being sent

function queued() {
  try {
    return JSON.parse(localStorage.getItem(QUEUE)) ?? {};
  } catch {
    return {};
  }
}

function keep(changes) {
  const entries = Object.entries(changes).slice(-QUEUED_MAX);
  if (entries.length) localStorage.setItem(QUEUE, JSON.stringify(Object.fromEntries(entries)));
  else localStorage.removeItem(QUEUE);
}

/** Whether a like of this post waits for the network; undefined where none does. */
export function waiting(post) {
  return queued()[post];
}

/**
 * Make it so that this post is liked, or not. `tell` hears `{like_count, liked_by_me}` from the node, or null where it
 * refused. Wishes that come while one is under way become one: the last.
 */
export async function like(post, liked, tell) {
  if (underWay.has(post)) {
    underWay.set(post, liked);
    return;
  }
  let wish = liked;
  try {
    for (;;) {
      underWay.set(post, wish);
      const state = await call(wish ? "POST" : "DELETE", `/v1/posts/${post}/like`);
      const { [post]: _, ...rest } = queued();
      keep(rest);
      if (underWay.get(post) === wish) {
        tell(state);
        return;
      }
      wish = underWay.get(post);
    }
  } catch (error) {
    if (error instanceof Unreachable) {
      keep({ ...queued(), [post]: underWay.get(post) });
      announce(t("like_queued"));
    } else {
      announce(t("like_failed"));
      tell(null);
    }
  } finally {
    underWay.delete(post);
  }
}

/** Send what waited. Whoever shows these posts hears of it by the `heliograph-likes` event. */
export async function flush() {
  if (!me.id || !navigator.onLine) return;
  let sent = 0;
  for (const [post, liked] of Object.entries(queued())) {
    let state = null;
    try {
      state = await call(liked ? "POST" : "DELETE", `/v1/posts/${post}/like`);
      sent += 1;
    } catch (error) {
      if (error instanceof Unreachable) break;
    }
    const { [post]: _, ...rest } = queued();
    keep(rest);
    dispatchEvent(new CustomEvent("heliograph-likes", { detail: { post, state } }));
  }
  if (sent) announce(t("likes_sent", { count: sent }));
}
