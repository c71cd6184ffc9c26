// What a page says of a photo before it is there: as node/web/pictures.py on the server, and held to it by a test.

import { h, svg } from "./dom.js";

const EDGES = { small: 320, medium: 640, large: 1080 };
const TALLEST = 1.25;
const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz#$%*+,-.:;=?@[]^_{|}~";
export const COLUMN_SIZES = "(min-width: 40rem) 37.5rem, 100vw";
export const TILE_SIZES = "(min-width: 60rem) 19rem, 33vw";

/** To the nearest, halves to the even one: as Python rounds. */
function rounded(value) {
  const below = Math.floor(value);
  const rest = value - below;
  return rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? below + 1 : below;
}

function srcset(medium, form) {
  const longest = Math.max(medium.width, medium.height, 1);
  const places = new Map();
  for (const [name, edge] of Object.entries(EDGES)) {
    const width = edge >= longest ? medium.width : Math.max(1, rounded((medium.width * edge) / longest));
    if (!places.has(width)) places.set(width, `${medium.urls[name][form]} ${width}w`);
  }
  return [...places.values()].join(", ");
}

function number(text) {
  let value = 0;
  for (const letter of text) value = value * 83 + DIGITS.indexOf(letter);
  return value;
}

const toLinear = (value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
const signedSquare = (value) => Math.sign(value) * value * value;

function toByte(linear) {
  const value = Math.max(0, Math.min(1, linear));
  return Math.trunc((value <= 0.0031308 ? value * 12.92 : 1.055 * value ** (1 / 2.4) - 0.055) * 255 + 0.5);
}

/** The colours of a BlurHash (blurha.sh) on a few squares, in rows; none where it is broken. */
function squares(hash, columns, rows) {
  if (!hash || hash.length < 6) return [];
  const size = number(hash[0]);
  const across = (size % 9) + 1;
  const down = Math.floor(size / 9) + 1;
  if (hash.length !== 4 + 2 * across * down) return [];
  const most = (number(hash[1]) + 1) / 166;
  const mean = number(hash.slice(2, 6));
  const waves = [[toLinear(mean >> 16), toLinear((mean >> 8) & 255), toLinear(mean & 255)]];
  for (let at = 1; at < across * down; at += 1) {
    const value = number(hash.slice(4 + at * 2, 6 + at * 2));
    waves.push([Math.floor(value / 361), Math.floor(value / 19) % 19, value % 19].map((part) => signedSquare((part - 9) / 9) * most));
  }
  const found = [];
  for (let y = 0; y < rows; y += 1) {
    for (let x = 0; x < columns; x += 1) {
      const sum = [0, 0, 0];
      waves.forEach((wave, at) => {
        const weight = Math.cos((Math.PI * x * (at % across)) / columns) * Math.cos((Math.PI * y * Math.floor(at / across)) / rows);
        wave.forEach((part, channel) => (sum[channel] += part * weight));
      });
      found.push([x, y, `#${sum.map((part) => (toByte(part) >> 4).toString(16)).join("")}`]);
    }
  }
  return found;
}

function placeholder(medium) {
  const wide = medium.width >= medium.height;
  const colours = squares(medium.placeholder, wide ? 4 : 3, wide ? 3 : 4);
  if (!colours.length) return null;
  return svg(
    "svg",
    { class: "blur", viewBox: wide ? "0 0 4 3" : "0 0 3 4", preserveAspectRatio: "none", "aria-hidden": "true" },
    colours.map(([x, y, fill]) => svg("rect", { x, y, width: "1.1", height: "1.1", fill })),
  );
}

function picture(medium, { src, sizes, alt }) {
  if (!medium.urls) return null;
  return h(
    "picture",
    {},
    h("source", { type: "image/webp", srcset: srcset(medium, "webp"), sizes }),
    h("img", {
      src, srcset: srcset(medium, "jpeg"), sizes, width: medium.width, height: medium.height, alt, loading: "lazy", decoding: "async",
    }),
  );
}

/** A photo in a post. */
export function shot(medium) {
  const tall = medium.height > TALLEST * medium.width;
  return h(
    "div",
    { class: tall ? "shot tall" : "shot" },
    placeholder(medium),
    picture(medium, { src: medium.urls?.medium.jpeg, sizes: COLUMN_SIZES, alt: medium.alt }),
  );
}

/** A photo in a grid. */
export function tilePicture(medium) {
  return [placeholder(medium), picture(medium, { src: medium.urls?.small.jpeg, sizes: TILE_SIZES, alt: "" })];
}
