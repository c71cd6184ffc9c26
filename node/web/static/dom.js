// Building elements without HTML texts: what a person wrote can only ever become a text node.

const SVG = "http://www.w3.org/2000/svg";

function make(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An element with attributes (`on…` are listeners; null, undefined and false are left out) and children. */
export function h(tag, attributes, ...children) {
  return make(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes, ...children) {
  return make(document.createElementNS(SVG, tag), attributes, children);
}

export function icon(name) {
  return svg("svg", { class: "icon", "aria-hidden": "true" }, svg("use", { href: `#i-${name}` }));
}

/** What the page says of who looks: their id and name, or nulls. */
export const me = (() => {
  const meta = document.querySelector('meta[name="me"]');
  return { id: meta?.content ?? null, username: meta?.dataset.username ?? null };
})();

export function avatar(user, size = "") {
  if (user.avatar_url) {
    return h("img", {
      class: `avatar ${size}`, src: user.avatar_url, alt: "", width: 150, height: 150, loading: "lazy", decoding: "async",
    });
  }
  const [first] = user.display_name || user.username;
  const hue = Number(BigInt(user.id) % 6n);
  return h("span", { class: `avatar ${size} hue-${hue}`, "aria-hidden": "true" }, first.toUpperCase());
}

/** Define a custom element once its page is there; `connect` is called with each. */
export function component(name, kind) {
  if (!customElements.get(name)) customElements.define(name, kind);
}
