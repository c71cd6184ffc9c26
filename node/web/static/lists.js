// <photo-grid> and <people-list>: the rest of a profile's grid and of any list of people, and what its rows do.

import { announce } from "./announce.js";
import { call } from "./api.js";
import { component, h } from "./dom.js";
import { Pager } from "./pager.js";
import { personView, tileView } from "./post_view.js";
import { t } from "./words.js";

class PhotoGrid extends HTMLElement {
  connectedCallback() {
    const rest = this.parentElement.querySelector(".rest");
    if (!rest) return;
    new Pager({
      path: `/v1/users/${this.dataset.user}/photos`,
      cursor: this.dataset.cursor,
      rest,
      take: ({ photos }) => this.append(...photos.map(tileView)),
    });
  }
}

const ACTS = {
  accept: (user) => call("POST", `/v1/follow-requests/${user}/accept`),
  reject: (user) => call("POST", `/v1/follow-requests/${user}/reject`),
  unblock: (user) => call("DELETE", `/v1/users/${user}/block`),
};

class PeopleList extends HTMLElement {
  connectedCallback() {
    const list = this.querySelector("ul");
    const rest = this.querySelector(".rest");
    if (rest) {
      const take = ({ users }) => list.append(...users.map((user) => personView(user, this.dataset.kind)));
      new Pager({ path: this.dataset.list, cursor: this.dataset.cursor, rest, take });
    }
    list.addEventListener("click", (event) => {
      const button = event.target.closest("[data-act]");
      if (button) this.act(button);
    });
  }

  async act(button) {
    const row = button.closest(".person");
    const next = row.nextElementSibling ?? row.previousElementSibling;
    row.hidden = true;
    try {
      await ACTS[button.dataset.act](row.dataset.user);
      row.remove();
      (next?.querySelector("button") ?? document.getElementById("main")).focus();
      this.querySelector(".empty").hidden = this.querySelector(".person") !== null;
    } catch {
      row.hidden = false;
      announce(t("follow_failed"));
    }
  }
}

component("photo-grid", PhotoGrid);
component("people-list", PeopleList);
