// The service worker: keeps the shell and the last feed, so that they open without a network. The server writes
// VERSION and SHELL above this. Whoever signs out has all of it cleared (Clear-Site-Data).

const SHELL_CACHE = `shell-${VERSION}`;
const FEED_CACHE = "feed";
const PHOTO_CACHE = "photos";
const PHOTOS_MAX = 80;
const OFFLINE = "/offline";

self.addEventListener("install", (event) => {
  event.waitUntil(
    (async () => {
      const cache = await caches.open(SHELL_CACHE);
      await cache.addAll(SHELL);
      await self.skipWaiting();
    })(),
  );
});

self.addEventListener("activate", (event) => {
  event.waitUntil(
    (async () => {
      for (const name of await caches.keys()) {
        if (name.startsWith("shell-") && name !== SHELL_CACHE) await caches.delete(name);
      }
      await self.clients.claim();
    })(),
  );
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.method !== "GET" || url.origin !== location.origin) return;
  if (request.mode === "navigate") event.respondWith(page(event, url));
  else if (url.pathname.startsWith("/assets/")) event.respondWith(kept(SHELL_CACHE, request));
  else if (url.pathname.startsWith("/media/")) event.respondWith(photo(event));
});

/** From the network; the feed is kept, and shown where there is no network. */
async function page(event, url) {
  const home = url.pathname === "/" && !url.search;
  try {
    const answer = await fetch(event.request);
    if (home && answer.ok) {
      const copy = answer.clone();
      event.waitUntil(caches.open(FEED_CACHE).then((cache) => cache.put("/", copy)));
    }
    return answer;
  } catch {
    const last = home ? await (await caches.open(FEED_CACHE)).match("/") : null;
    return last ?? (await caches.match(OFFLINE)) ?? Response.error();
  }
}

async function kept(name, request) {
  const cache = await caches.open(name);
  const found = await cache.match(request);
  if (found) return found;
  const answer = await fetch(request);
  if (answer.ok) await cache.put(request, answer.clone());
  return answer;
}

/** Photos never change under their address: kept, up to a bound, the oldest first to go. A signature in the address
 * only says who may have it, and changes. */
async function photo(event) {
  const cache = await caches.open(PHOTO_CACHE);
  try {
    const found = await cache.match(event.request, { ignoreSearch: true });
    if (found) return found;
    const answer = await fetch(event.request);
    if (answer.status === 200) {
      const copy = answer.clone();
      event.waitUntil(
        (async () => {
          await cache.put(event.request, copy);
          const held = await cache.keys();
          await Promise.all(held.slice(0, Math.max(0, held.length - PHOTOS_MAX)).map((one) => cache.delete(one)));
        })(),
      );
    }
    return answer;
  } catch {
    return Response.error();
  }
}
