// The API, called as any client calls it, but for who asks: the session's cookie, and with every write the
// token that only pages of this session carry.

const csrf = document.querySelector('meta[name="csrf"]')?.content ?? "";
const MARKS = "heliograph-marks"; // a cookie, so that the next page shows what was written here
const MARKS_S = 30;
const WAIT_MS = 20000;
let marks = "";

/** An answer that is no success: `code` is the API's word, `detail` what it says. */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail ?? `status ${status}`);
    this.status = status;
    this.code = problem.code ?? "";
    this.title = problem.title ?? "";
  }
}

/** No answer came: the network, or the node, is away. */
export class Unreachable extends Error {}

/** A number that names one attempt, so that a repetition does nothing twice. */
export function attempt() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** JSON in, JSON out (null where there is none). Throws Refused, Unreachable; AbortError where `signal` says so. */
export async function call(method, path, { body, key, signal } = {}) {
  const headers = {};
  if (method !== "GET") headers["Heliograph-CSRF"] = csrf;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key) headers["Idempotency-Key"] = key;
  if (marks) headers["Heliograph-Token"] = marks;
  const late = AbortSignal.timeout(WAIT_MS);
  let answer;
  try {
    answer = await fetch(path, {
      method, headers, body: body === undefined ? undefined : JSON.stringify(body), credentials: "same-origin",
      signal: signal && AbortSignal.any ? AbortSignal.any([signal, late]) : (signal ?? late),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Unreachable(error.message);
  }
  remember(answer.headers.get("Heliograph-Token"));
  if (answer.status === 401) location.assign(`/sign-in?next=${encodeURIComponent(location.pathname)}`);
  if (!answer.ok) throw new Refused(answer.status, await answer.json().catch(() => ({})));
  return answer.status === 204 || answer.status === 202 ? null : answer.json();
}

function remember(token) {
  if (!token) return;
  const newest = [...token.split(","), ...marks.split(",").filter(Boolean)];
  const seen = new Set();
  const places = newest.filter((mark) => {
    const place = mark.slice(0, mark.indexOf(":"));
    return seen.has(place) ? false : seen.add(place);
  });
  marks = places.slice(0, 8).join(",");
  document.cookie = `${MARKS}=${marks}; Path=/; Max-Age=${MARKS_S}; SameSite=Lax`;
}

/** PUT a file to a signed address; `onprogress` hears shares from 0 to 1. Rejects as `call` does. */
export function put(url, file, { onprogress, signal }) {
  const address = new URL(url, location.href);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("PUT", address.pathname + address.search);
    request.upload.onprogress = (event) => event.lengthComputable && onprogress(event.loaded / event.total);
    request.onerror = () => reject(new Unreachable("the upload was cut"));
    request.onabort = () => reject(new DOMException("stopped", "AbortError"));
    request.onload = () => {
      if (request.status < 300) {
        remember(request.getResponseHeader("Heliograph-Token"));
        resolve();
        return;
      }
      let problem = {};
      try {
        problem = JSON.parse(request.responseText);
      } catch {
        problem = { detail: `status ${request.status}` };
      }
      reject(new Refused(request.status, problem));
    };
    signal?.addEventListener("abort", () => request.abort());
    if (signal?.aborted) request.abort();
    else request.send(file);
  });
}
