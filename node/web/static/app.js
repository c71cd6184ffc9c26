// Where the scripts of every page begin. What a page needs beyond (making a post, settings) it names itself.

import "./comments.js";
import "./follow.js";
import * as keys from "./keys.js";
import { flush } from "./likes.js";
import "./lists.js";
import "./photo_feed.js";
import "./photo_post.js";

function tellOffline() {
  document.getElementById("offline").hidden = navigator.onLine;
}

async function registerWorker() {
  if (!("serviceWorker" in navigator)) return;
  // Under trusted types an address of a script must come from a named policy; this one makes one address.
  const policy = window.trustedTypes?.createPolicy("heliograph", { createScriptURL: () => "/sw.js" });
  await navigator.serviceWorker.register(policy ? policy.createScriptURL("") : "/sw.js");
}

keys.listen();
tellOffline();
addEventListener("offline", tellOffline);
addEventListener("online", () => {
  tellOffline();
  flush();
});
flush();
const keepShell = () => registerWorker().catch((error) => console.warn("no service worker:", error.message));
// After the photos, which are what one came for. Scripts that wait for their words may be later than that.
if (document.readyState === "complete") keepShell();
else addEventListener("load", keepShell);
