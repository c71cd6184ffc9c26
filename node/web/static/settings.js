// The forms of the settings page: profile, password, and leaving for good.

import { announce, ask } from "./announce.js";
import { Unreachable, attempt, call, put } from "./api.js";
import { forget } from "./device.js";
import { component, h } from "./dom.js";
import { t } from "./words.js";

const LOOK_MS = 400;
const PROCESSING_MS = 60000;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function tell(form, error) {
  const wrong = form.querySelector(".wrong");
  wrong.textContent = error ? (error instanceof Unreachable ? t("no_network") : error.message) : "";
  wrong.hidden = !error;
}

/** Run what a form asks for while its button waits; a failure stands in the form. */
function submits(form, act) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button:not([type])");
    button.disabled = true;
    tell(form, null);
    try {
      await act();
    } catch (error) {
      tell(form, error);
    } finally {
      button.disabled = false;
    }
  });
}

class ProfileForm extends HTMLElement {
  connectedCallback() {
    this.form = this.querySelector("form");
    this.face = this.querySelector("#face");
    this.face.addEventListener("change", () => this.change(() => this.newFace(this.face.files[0])));
    this.querySelector('[data-act="no-face"]')?.addEventListener("click", () => this.change(() => this.save({ avatar_media_id: null })));
    submits(this.form, async () => {
      const { display_name: name, bio, private: closed } = this.form.elements;
      await this.save({ display_name: name.value.trim(), bio: bio.value.trim(), private: closed.checked });
      announce(t("saved"));
    });
  }

  save(body) {
    return call("PATCH", "/v1/users/me", { body });
  }

  async change(act) {
    this.setAttribute("aria-busy", "true");
    tell(this.form, null);
    try {
      await act();
      location.reload();
    } catch (error) {
      tell(this.form, error);
    } finally {
      this.removeAttribute("aria-busy");
    }
  }

  /** A picture is a medium like any other: it must have been processed before it can be a face. */
  async newFace(file) {
    announce(t("processing"));
    const promise = await call("POST", "/v1/media/upload", { body: { content_type: file.type, size: file.size }, key: attempt() });
    await put(promise.upload_url, file, { onprogress: () => {} });
    const until = Date.now() + PROCESSING_MS;
    for (;;) {
      try {
        return await this.save({ avatar_media_id: promise.media_id });
      } catch (error) {
        if (error.status !== 409 || Date.now() > until || error.message.includes("failed")) throw error;
        await pause(LOOK_MS);
      }
    }
  }
}

class PasswordForm extends HTMLElement {
  connectedCallback() {
    const form = this.querySelector("form");
    submits(form, async () => {
      await call("POST", "/v1/users/me/password", { body: { current: form.elements.current.value, new: form.elements.new.value }, key: attempt() });
      form.reset();
      announce(t("password_changed"));
    });
  }
}

document.querySelector('form[action="/sign-out"]').addEventListener("submit", () => forget());

class DeleteAccount extends HTMLElement {
  connectedCallback() {
    this.querySelector("button").addEventListener("click", () => this.goodbye());
  }

  async goodbye() {
    const password = await ask({
      title: t("delete_account_sure"),
      detail: t("delete_account_more"),
      confirm: t("delete_account"),
      danger: true,
      fields: [
        h("label", { for: "goodbye" }, t("password")),
        h("input", { id: "goodbye", name: "password", type: "password", autocomplete: "current-password", required: true }),
      ],
      read: (dialog) => dialog.querySelector("#goodbye").value,
    });
    if (password === null) return;
    try {
      await call("POST", "/v1/users/me/delete", { body: { password } });
      await forget();
      location.assign("/");
    } catch (error) {
      announce(error.message);
    }
  }
}

component("profile-form", ProfileForm);
component("password-form", PasswordForm);
component("delete-account", DeleteAccount);
