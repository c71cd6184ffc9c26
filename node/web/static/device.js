// What the app keeps on a device, and how it goes: signing out says so by Clear-Site-Data, which needs a secure address.

/** Forget everything that is kept here: it is not for who comes next. */
export async function forget() {
  sessionStorage.clear();
  localStorage.clear();
  if (!("caches" in window)) return;
  for (const name of await caches.keys()) await caches.delete(name);
}
