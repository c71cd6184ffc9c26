// <follow-button> and <block-button>: shown as done at once, put back where the node refuses.

import { announce, ask } from "./announce.js";
import { call } from "./api.js";
import { component } from "./dom.js";
import { t } from "./words.js";

class FollowButton extends HTMLElement {
  connectedCallback() {
    if (this.button) return;
    this.button = this.querySelector("button");
    this.button.addEventListener("click", () => this.turn());
  }

  show(state) {
    this.dataset.state = state;
    this.button.textContent = t(state === "none" ? "follow" : state);
    this.button.classList.toggle("quiet", state !== "none");
  }

  async turn() {
    const before = this.dataset.state;
    const off = before !== "none";
    this.show(off ? "none" : this.dataset.private === "true" ? "requested" : "following");
    this.button.disabled = true;
    try {
      const answer = await call(off ? "DELETE" : "POST", `/v1/users/${this.dataset.user}/follow`);
      if (!off) this.show(answer.status === "SUCCESS" ? "following" : "requested");
      this.count(before);
    } catch (error) {
      this.show(before);
      announce(error.status ? error.message : t("follow_failed"));
    } finally {
      this.button.disabled = false;
    }
  }

  /** On the profile of whom it is about, the number of followers goes along. */
  count(before) {
    const number = document.querySelector("[data-followers]");
    const by = (this.dataset.state === "following" ? 1 : 0) - (before === "following" ? 1 : 0);
    if (number && this.closest(".profile")) number.textContent = Number(number.textContent) + by;
  }
}

class BlockButton extends HTMLElement {
  connectedCallback() {
    this.querySelector("button").addEventListener("click", () => this.block());
  }

  async block() {
    const name = this.dataset.name;
    const sure = await ask({ title: t("block_sure", { name }), detail: t("block_more"), confirm: t("block"), danger: true });
    if (!sure) return;
    try {
      await call("POST", `/v1/users/${this.dataset.user}/block`);
      location.assign("/blocks");
    } catch {
      announce(t("follow_failed"));
    }
  }
}

component("follow-button", FollowButton);
component("block-button", BlockButton);
