// <cluster-view>: keeps the page of the cluster fresh. The server has drawn everything; here texts, classes and the
// shapes of the ring change in place, and only where they differ, so that nothing flickers or loses the focus.

import { announce, ask } from "./announce.js";
import { call } from "./api.js";
import { component, h } from "./dom.js";
import { tellTimes } from "./times.js";
import { language, t } from "./words.js";

const EVERY_MS = 2000;
const OVERVIEW = "/v1/admin/cluster/overview";
const rate = new Intl.NumberFormat(language, { maximumFractionDigits: 0 });
const say = ({ key, values }) => t(key, values);

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function dress(element, classes) {
  if (element.getAttribute("class") !== classes) element.setAttribute("class", classes);
}

/** Make a list's children those of `items`: `mark` names each, `make` makes a new one. Those that stay are left alone. */
function renew(list, items, mark, make) {
  const there = new Map([...list.children].map((child) => [child.dataset.letter, child]));
  items.forEach((item, number) => {
    const child = there.get(mark(item)) ?? make(item);
    there.delete(mark(item));
    if (list.children[number] !== child) list.insertBefore(child, list.children[number] ?? null);
  });
  for (const child of there.values()) child.remove();
}

function shapeOf([, lane, , , behind]) {
  return (lane < 0 ? "lane-none" : `lane-${lane}`) + (behind ? "-behind" : "");
}

class ClusterView extends HTMLElement {
  connectedCallback() {
    if (this.counted) return;
    this.counted = new Map(); // what each node had counted when it was last looked at
    this.verdict = this.querySelector(".verdict");
    this.spoken = this.querySelector("[data-spoken]");
    this.segments = [...this.querySelectorAll(".segments use")];
    this.rows = [...this.querySelectorAll("tbody tr")];
    this.lettersWait = this.querySelector(".waiting");
    this.querySelector(".table").addEventListener("toggle", () => this.last && this.showTable(this.last));
    this.querySelector(".orders").addEventListener("click", (event) => this.order(event.target.closest("[data-order]")));
    this.lettersWait.addEventListener("click", (event) => this.decide(event.target.closest("[data-act]")));
    document.addEventListener("visibilitychange", () => this.begin());
    tellTimes(this);
    this.begin();
  }

  // --- looking -------------------------------------------------------------------------------------------
  /** Look, and again EVERY_MS after each answer, as long as the page is seen. */
  async begin() {
    if (this.looking) return;
    this.looking = true;
    while (!document.hidden) {
      await this.look();
      await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
    }
    this.looking = false;
  }

  async look() {
    try {
      this.show(await call("GET", OVERVIEW));
    } catch (error) {
      if (error.status !== 403) this.tell("lost", t("cluster_lost"), "lost");
      else location.reload(); // an admin no more, or not for so long a session: the server says which
    }
  }

  // --- showing -------------------------------------------------------------------------------------------
  show(view) {
    const names = view.nodes.map((node) => node.node_id).join();
    const drawn = [...this.querySelectorAll("[data-node]")].map((node) => node.dataset.node).join();
    if (names !== drawn || view.ring.length !== this.segments.length || view.alone !== Boolean(this.querySelector(".alone"))) {
      location.reload(); // somebody joined or went: the page has another form
      return;
    }
    this.last = view;
    this.tell(view.tone, say(view.sentence), `${view.sentence.key} ${view.sentence.values.nodes ?? ""}`);
    this.showNotes(view.notes);
    view.nodes.forEach((node) => this.showNode(node));
    this.showRing(view);
    if (this.querySelector(".table").open) this.showTable(view);
    this.showLetters(view);
  }

  /** The sentence. It is spoken when it means another thing, and not at every second that passes. */
  tell(tone, text, meaning) {
    dress(this.verdict, `verdict ${tone}`);
    put(this.querySelector(".sentence"), text);
    if (this.meaning !== undefined && this.meaning !== meaning) this.spoken.textContent = text;
    this.meaning = meaning;
  }

  showNotes(notes) {
    const list = this.querySelector(".notes");
    while (list.children.length > notes.length) list.lastElementChild.remove();
    while (list.children.length < notes.length) list.append(h("li"));
    notes.forEach((note, number) => put(list.children[number], say(note)));
  }

  showNode(node) {
    const card = this.querySelector(`[data-node="${node.node_id}"]`);
    card.classList.toggle("away", !node.heard);
    put(card.querySelector(".standing"), say(node.state));
    for (const fact of node.facts) {
      const place = card.querySelector(`[data-fact="${fact.name}"]`);
      put(place, fact.name === "cluster_load" && node.heard ? this.load(node) : say(fact.line));
      place.parentElement.classList.toggle("odd", fact.is_odd);
    }
    card.querySelector("meter").value = node.share;
  }

  /** Rates between two looks, by the node's own clock. */
  load(node) {
    const before = this.counted.get(node.node_id);
    this.counted.set(node.node_id, node);
    const seconds = before ? node.up_s - before.up_s : 0;
    if (seconds <= 0) return t("cluster_measuring");
    return t("cluster_load_of", {
      commands: rate.format((node.applied - before.applied) / seconds),
      cpu: rate.format((100 * (node.cpu_s - before.cpu_s)) / seconds),
    });
  }

  showRing(view) {
    const hue = (lane) => (lane < 0 ? "hue-none" : `node-${view.nodes[lane].hue}`);
    view.ring.forEach((segment, number) => {
      const drawn = this.segments[number];
      const shape = `#${shapeOf(segment)}`;
      if (drawn.getAttribute("href") !== shape) drawn.setAttribute("href", shape);
      dress(drawn, hue(segment[1]));
    });
    const [, lane, leaders, , behind] = view.meta;
    const meta = this.querySelector(".meta");
    dress(meta, `meta ${hue(lane)}${behind ? " behind" : ""}`);
    put(meta.querySelector(".leader"), leaders || "✕");
    const words = say(view.says);
    put(this.querySelector(".says"), words);
    const ring = this.querySelector(".ring");
    if (ring.getAttribute("aria-label") !== words) ring.setAttribute("aria-label", words);
  }

  showTable(view) {
    [view.meta, ...view.ring].forEach(([, lane, leaders, voters, behind], number) => {
      const row = this.rows[number];
      const texts = [lane < 0 ? t("cluster_nobody") : [...leaders].join(" "), [...voters].join(" ") || "–", [...behind].join(" ") || "–"];
      texts.forEach((text, column) => put(row.children[column + 1], text));
      dress(row, lane < 0 || behind ? "odd" : "");
    });
  }

  // --- dead letters, and what is ordered ---------------------------------------------------------------
  showLetters(view) {
    renew(this.lettersWait, view.letters, (letter) => letter.path, (letter) => this.letterView(letter));
    this.querySelector(".letters .empty-line").hidden = view.letters.length > 0;
    this.querySelector(".letters .more").hidden = !view.more_letters;
    tellTimes(this.lettersWait);
  }

  letterView(letter) {
    return h(
      "li",
      { "data-letter": letter.path },
      h(
        "div",
        {},
        h("p", { class: "what" }, say(letter.what)),
        h("p", { class: "hint detail" }, letter.detail),
        h("p", { class: "hint" }, h("time", { datetime: letter.at })),
      ),
      h(
        "span",
        { class: "choice" },
        h("button", { type: "button", class: "button quiet", "data-act": "retry" }, t("retry")),
        h("button", { type: "button", class: "button quiet danger", "data-act": "drop" }, t("cluster_drop")),
      ),
    );
  }

  async decide(button) {
    if (!button) return;
    const { act } = button.dataset;
    const row = button.closest("[data-letter]");
    if (act === "drop" && !(await ask({ title: t("cluster_drop_sure"), detail: t("cluster_drop_more"), confirm: t("cluster_drop"), danger: true }))) return;
    const next = row.nextElementSibling ?? row.previousElementSibling;
    await this.send(button, `${row.dataset.letter}/${act}`, t(act === "drop" ? "cluster_dropped" : "cluster_retried"));
    if (!row.isConnected) (next?.querySelector("button") ?? document.getElementById("main")).focus();
  }

  async order(button) {
    if (!button) return;
    await this.send(button, `/v1/admin/cluster/${button.dataset.order}`, t("cluster_begun"), {});
  }

  /** Ask for it, say how that went, and show what came of it. */
  async send(button, path, done, body) {
    button.disabled = true;
    try {
      await call("POST", path, { body });
      announce(done);
    } catch (error) {
      announce(error.message);
    }
    await this.look();
    button.disabled = false;
  }
}

component("cluster-view", ClusterView);
