// <photo-post>: what can be done with a post that the server or post_view.js has drawn.

import { announce } from "./announce.js";
import { call } from "./api.js";
import { component, h, icon, me } from "./dom.js";
import { like, waiting } from "./likes.js";
import { tellTimes } from "./times.js";
import { t } from "./words.js";

const LOOK_MS = 1500; // at a post that is being processed
const LOOKS_MAX = 80; // two minutes; then its reader reloads
const DOUBLE_TAP_MS = 320;
const TAP_MOVE_PX = 24;

class PhotoPost extends HTMLElement {
  connectedCallback() {
    if (this.button) return;
    this.button = this.querySelector(".like");
    this.button.addEventListener("click", () => this.like(!this.liked));
    this.querySelector(".share").addEventListener("click", () => this.share());
    this.frame = this.querySelector(".frame");
    this.frame.addEventListener("pointerup", (event) => this.tapped(event));
    if (this.frame.classList.contains("album")) this.becomeAlbum();
    const later = waiting(this.dataset.post);
    if (later !== undefined && later !== this.liked) this.show(later, this.likes + (later ? 1 : -1));
    addEventListener("heliograph-likes", this);
    tellTimes(this);
    if (this.querySelector(".state:is(.pending, .processing)")) this.awaitPhoto();
  }

  /** One's own post that is not out yet: its page is shown anew when it is. */
  async awaitPhoto() {
    for (let looks = 0; looks < LOOKS_MAX && this.isConnected; looks += 1) {
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
      const post = await call("GET", `/v1/posts/${this.dataset.post}`).catch(() => null);
      if (post && ["complete", "failed"].includes(post.upload_status)) {
        location.reload();
        return;
      }
    }
  }

  disconnectedCallback() {
    removeEventListener("heliograph-likes", this);
  }

  handleEvent({ detail: { post, state } }) {
    if (post === this.dataset.post && state) this.show(state.liked_by_me, state.like_count);
  }

  get liked() {
    return this.dataset.liked === "true";
  }

  get likes() {
    return Number(this.dataset.likes);
  }

  show(liked, count) {
    this.dataset.liked = String(liked);
    this.dataset.likes = String(Math.max(0, count));
    this.button.setAttribute("aria-pressed", String(liked));
    this.button.querySelector(".count").textContent = this.dataset.likes;
  }

  /** Take in what the node says of this post now. */
  update(post) {
    if (waiting(post.id) === undefined) this.show(post.liked_by_me, post.like_count);
    const talk = this.querySelector(".talk");
    talk.querySelector(".count").textContent = post.comment_count;
    talk.setAttribute("aria-label", t("comments", { count: post.comment_count }));
  }

  like(liked) {
    if (!me.id) {
      location.assign(`/sign-in?next=/p/${this.dataset.post}`);
      return;
    }
    const before = [this.liked, this.likes];
    if (before[0] === liked) return;
    this.settled ??= before;
    this.show(liked, this.likes + (liked ? 1 : -1));
    like(this.dataset.post, liked, (state) => {
      if (state) this.show(state.liked_by_me, state.like_count);
      else this.show(...this.settled);
      this.settled = null;
    });
  }

  tapped(event) {
    if (event.pointerType === "mouse" && event.button !== 0) return;
    const last = this.tap;
    this.tap = { at: event.timeStamp, x: event.clientX, y: event.clientY };
    if (!last || event.timeStamp - last.at > DOUBLE_TAP_MS) return;
    if (Math.hypot(event.clientX - last.x, event.clientY - last.y) > TAP_MOVE_PX) return;
    this.tap = null;
    this.like(true);
    const burst = icon("heart");
    burst.classList.add("burst");
    burst.addEventListener("animationend", () => burst.remove());
    (this.querySelector(".strip") ?? this.frame).append(burst);
  }

  async share() {
    const url = new URL(`/p/${this.dataset.post}`, location.href).href;
    try {
      if (navigator.share) await navigator.share({ url });
      else {
        await navigator.clipboard.writeText(url);
        announce(t("link_copied"));
      }
    } catch (error) {
      if (error.name !== "AbortError") announce(url);
    }
  }

  // --- albums: the strip scrolls by itself; here it gets buttons, dots and keys
  becomeAlbum() {
    const strip = h("div", { class: "strip" });
    this.frame.replaceWith(strip);
    const shots = [...this.frame.querySelectorAll(".shot")];
    let wanted = 0; // the photo that is shown, or is on its way
    const turn = (by) => {
      wanted = Math.max(0, Math.min(shots.length - 1, wanted + by));
      const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
      this.frame.scrollTo({ left: wanted * this.frame.clientWidth, behavior: still ? "instant" : "smooth" });
    };
    const button = (by, name, text) => h("button", { class: "turn", type: "button", "data-turn": by, "aria-label": t(text), onclick: () => turn(by) }, icon(name));
    const [back, on] = [button(-1, "left", "previous_photo"), button(1, "right", "next_photo")];
    const dots = h("div", { class: "dots", "aria-hidden": "true" }, shots.map(() => h("i")));
    strip.append(this.frame, back, on, dots);
    const mark = () => {
      const at = Math.round(this.frame.scrollLeft / this.frame.clientWidth);
      [...dots.children].forEach((dot, number) => dot.classList.toggle("on", number === at));
      back.hidden = at === 0;
      on.hidden = at >= shots.length - 1;
    };
    shots.forEach((shot, number) => {
      shot.setAttribute("role", "group");
      shot.setAttribute("aria-label", t("photo_number", { number: number + 1, count: shots.length }));
    });
    this.frame.addEventListener("scroll", mark, { passive: true });
    this.frame.addEventListener("scrollend", () => (wanted = Math.round(this.frame.scrollLeft / this.frame.clientWidth)));
    this.frame.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      turn(by);
    });
    requestAnimationFrame(mark);
  }
}

component("photo-post", PhotoPost);
