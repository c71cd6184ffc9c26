// <new-post>: choose, drop or paste photos, put them in order, describe each, and post them as one.
//
// Photos are uploaded one by one under promises of their own, so what has arrived need not be sent again after a
// failure or a stop; the words are never lost, for nothing clears the form but success.

import { announce } from "./announce.js";
import { Unreachable, attempt, call, put } from "./api.js";
import { component, h, icon } from "./dom.js";
import { t } from "./words.js";

const TYPES = ["image/jpeg", "image/png", "image/webp", "image/avif", "image/gif", "image/heic", "image/heif"];
const BY_ENDING = { heic: "image/heic", heif: "image/heic", jpg: "image/jpeg", jpeg: "image/jpeg" };
const LOOK_MS = 400;
const PROCESSING_MS = 120000;
const MIB = 1024 * 1024;

function typeOf(file) {
  if (file.type === "image/heif") return "image/heic";
  return TYPES.includes(file.type) ? file.type : (BY_ENDING[file.name.split(".").pop().toLowerCase()] ?? "");
}

/** One photo that was chosen: its row, and how far it has come. */
class Piece {
  constructor(form, file) {
    this.file = file;
    this.name = file.name || t("photos", { count: 1 });
    this.media = null; // id, once promised
    this.stored = false;
    this.described = ""; // the alt text that went with the promise
    this.preview = URL.createObjectURL(file);
    const number = `alt-${attempt().slice(0, 8)}`;
    const button = (name, text, act, kind) => h("button", { type: "button", class: kind, "aria-label": `${t(text)}: ${this.name}`, onclick: act }, icon(name));
    this.alt = h("textarea", { id: number, rows: 1, maxlength: 5000, dir: "auto" });
    this.bar = h("progress", { max: 1, value: 0, hidden: true, "aria-label": this.name });
    this.wrong = h("p", { class: "wrong", role: "alert", hidden: true });
    this.up = button("left", "move_up", () => form.move(this, -1), "up");
    this.down = button("right", "move_down", () => form.move(this, 1), "down");
    this.row = h(
      "li",
      { class: "piece", draggable: "true" },
      h("img", { class: "thumb", src: this.preview, alt: "", width: 88, height: 88 }),
      h(
        "div",
        {},
        h("label", { for: number }, t("alt")),
        this.alt,
        h("div", { class: "row" }, this.up, this.down, button("close", "remove", () => form.drop(this), "remove"), h("span", { class: "hint" }, this.name)),
        this.bar,
        this.wrong,
      ),
    );
    this.row.addEventListener("dragstart", () => form.drag(this));
    this.row.addEventListener("dragend", () => form.drag(null));
    this.row.addEventListener("dragover", (event) => form.over(this, event));
  }

  get height() {
    return this.row.getBoundingClientRect().height;
  }

  async upload(signal) {
    if (this.stored) return;
    this.wrong.hidden = true;
    this.bar.hidden = false;
    this.described = this.alt.value.trim();
    const body = { content_type: typeOf(this.file), size: this.file.size, alt: this.described };
    const promise = await call("POST", "/v1/media/upload", { body, key: attempt(), signal });
    await put(promise.upload_url, this.file, { signal, onprogress: (share) => (this.bar.value = share) });
    this.media = promise.media_id;
    this.stored = true;
    this.bar.value = 1;
  }

  fail(why) {
    this.bar.hidden = true;
    this.wrong.textContent = why;
    this.wrong.hidden = false;
  }

  forget() {
    this.stored = false;
    this.media = null;
    this.bar.hidden = true;
  }
}

class NewPost extends HTMLElement {
  connectedCallback() {
    this.pieces = [];
    this.form = this.querySelector("form");
    this.list = this.querySelector(".chosen");
    this.area = this.querySelector(".drop");
    this.wrong = this.querySelector("form > .wrong");
    this.status = this.querySelector(".progress");
    this.submit = this.form.querySelector("button:not([type])");
    this.stop = this.querySelector('[data-act="cancel"]');
    const files = this.querySelector("#files");
    files.addEventListener("change", () => {
      this.add([...files.files]);
      files.value = "";
    });
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.publish();
    });
    this.stop.addEventListener("click", () => this.under?.abort());
    document.addEventListener("paste", this.paste);
    for (const name of ["dragenter", "dragover", "dragleave", "drop"]) this.addEventListener(name, this.dropped);
    addEventListener("beforeunload", this.leave);
  }

  disconnectedCallback() {
    document.removeEventListener("paste", this.paste);
    removeEventListener("beforeunload", this.leave);
  }

  paste = (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    this.add(files);
  };

  dropped = (event) => {
    if (this.dragged || !event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    this.area.classList.toggle("over", event.type === "dragenter" || event.type === "dragover");
    if (event.type === "drop") this.add([...event.dataTransfer.files]);
  };

  leave = (event) => {
    if (this.under) event.preventDefault();
  };

  // --- choosing
  add(files) {
    const most = Number(this.dataset.most);
    const bytes = Number(this.dataset.bytes);
    const refused = [];
    for (const file of files) {
      const name = file.name;
      if (this.pieces.length >= most) {
        refused.push(t("too_many", { count: most }));
        break;
      }
      if (!typeOf(file)) refused.push(t("not_a_picture", { name }));
      else if (file.size > bytes) refused.push(t("too_large", { name, size: Math.floor(bytes / MIB) }));
      else this.pieces.push(new Piece(this, file));
    }
    this.tell(refused.join(" "));
    this.draw();
  }

  drop(piece) {
    if (this.under) return;
    URL.revokeObjectURL(piece.preview);
    this.pieces = this.pieces.filter((one) => one !== piece);
    this.draw();
    (this.pieces[0]?.alt ?? this.querySelector("#files")).focus();
  }

  move(piece, by) {
    const from = this.pieces.indexOf(piece);
    const to = from + by;
    if (this.under || to < 0 || to >= this.pieces.length) return;
    this.pieces.splice(to, 0, ...this.pieces.splice(from, 1));
    this.draw();
    const button = by < 0 ? piece.up : piece.down;
    (button.disabled ? (by < 0 ? piece.down : piece.up) : button).focus();
    announce(t("moved", { name: piece.name, number: to + 1 }));
  }

  drag(piece) {
    this.dragged?.row.classList.remove("dragged");
    this.dragged = this.under ? null : piece;
    piece?.row.classList.add("dragged");
  }

  over(piece, event) {
    if (!this.dragged || this.dragged === piece) return;
    event.preventDefault();
    const before = event.offsetY < piece.height / 2;
    const rest = this.pieces.filter((one) => one !== this.dragged);
    rest.splice(rest.indexOf(piece) + (before ? 0 : 1), 0, this.dragged);
    if (rest.every((one, at) => one === this.pieces[at])) return;
    this.pieces = rest;
    this.draw();
  }

  draw() {
    const kept = document.activeElement;
    this.list.replaceChildren(...this.pieces.map((piece) => piece.row));
    if (this.list.contains(kept)) kept.focus();
    this.pieces.forEach((piece, at) => {
      piece.up.disabled = at === 0;
      piece.down.disabled = at === this.pieces.length - 1;
    });
    this.submit.disabled = this.pieces.length === 0;
  }

  tell(wrong) {
    this.wrong.textContent = wrong;
    this.wrong.hidden = !wrong;
  }

  // --- posting
  async publish() {
    if (this.under || !this.pieces.length) return;
    this.under = new AbortController();
    this.busy(true);
    this.tell("");
    try {
      await this.upload();
      await this.post();
    } catch (error) {
      this.tell(error.name === "AbortError" ? t("upload_cancelled") : error.message);
    } finally {
      this.under = null;
      this.busy(false);
      this.status.textContent = "";
    }
  }

  busy(is) {
    this.submit.disabled = is || !this.pieces.length;
    this.stop.hidden = !is;
    this.form.setAttribute("aria-busy", String(is));
  }

  async upload() {
    const count = this.pieces.length;
    for (const [done, piece] of this.pieces.entries()) {
      this.status.textContent = t("uploading", { done: done + 1, count });
      try {
        await piece.upload(this.under.signal);
      } catch (error) {
        if (error.name !== "AbortError") {
          const why = t("upload_failed", { name: piece.name, why: reason(error) });
          piece.fail(why);
          throw new Error(why);
        }
        piece.bar.hidden = true;
        throw error;
      }
    }
  }

  async post() {
    const { signal } = this.under;
    const { caption, location: place } = this.form.elements;
    const body = { caption: caption.value.trim(), location: place.value.trim(), media_ids: this.pieces.map((piece) => piece.media) };
    this.status.textContent = t("processing");
    let post;
    try {
      post = await call("POST", "/v1/posts", { body, key: attempt(), signal });
      const changed = this.pieces.filter((piece) => piece.alt.value.trim() !== piece.described);
      if (changed.length) {
        const alts = Object.fromEntries(changed.map((piece) => [piece.media, piece.alt.value.trim()]));
        await call("PATCH", `/v1/posts/${post.id}`, { body: { alts } });
      }
    } catch (error) {
      if (error.name === "AbortError") throw error;
      // A promise that has run out, or media that are gone: they are sent anew.
      if (error.status === 404 || error.status === 422) this.pieces.forEach((piece) => piece.forget());
      throw new Error(t("post_failed", { why: reason(error) }));
    }
    await this.processed(post);
  }

  /** Wait until the post is out; it goes on without us if we leave. */
  async processed(post) {
    const until = Date.now() + PROCESSING_MS;
    let seen = post;
    while (seen.upload_status !== "complete" && seen.upload_status !== "failed" && Date.now() < until) {
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
      if (this.under.signal.aborted) break;
      seen = await call("GET", `/v1/posts/${post.id}`).catch(() => seen);
    }
    if (seen.upload_status === "failed") {
      await call("DELETE", `/v1/posts/${post.id}`).catch(() => announce(t("delete_failed")));
      this.pieces.forEach((piece) => piece.forget());
      throw new Error(t("post_failed", { why: seen.failure }));
    }
    this.under = null;
    announce(t("posted"));
    location.assign(seen.upload_status === "complete" ? "/" : `/p/${post.id}`);
  }
}

function reason(error) {
  return error instanceof Unreachable ? t("no_network") : error.message;
}

component("new-post", NewPost);
