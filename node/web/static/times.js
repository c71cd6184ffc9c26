// Times as a person says them. The server writes the day; here it becomes "3 h" and keeps the whole in its title.

import { language, t } from "./words.js";

const STEPS = [
  [60, "second"], [60, "minute"], [24, "hour"], [7, "day"],
];
const whole = new Intl.DateTimeFormat(language, { dateStyle: "long", timeStyle: "short" });
const day = new Intl.DateTimeFormat(language, { day: "numeric", month: "short" });
const dayOfYear = new Intl.DateTimeFormat(language, { day: "numeric", month: "short", year: "numeric" });

function ago(then, now) {
  let value = Math.max(0, (now - then) / 1000);
  for (const [most, unit] of STEPS) {
    if (value < most) {
      if (unit === "second") return t("now");
      return new Intl.NumberFormat(language, { style: "unit", unit, unitDisplay: "narrow" }).format(Math.floor(value));
    }
    value /= most;
  }
  return (then.getFullYear() === now.getFullYear() ? day : dayOfYear).format(then);
}

/** Rewrite every `time` within `root`. */
export function tellTimes(root = document) {
  const now = new Date();
  for (const element of root.querySelectorAll("time[datetime]")) {
    const then = new Date(element.dateTime);
    element.textContent = ago(then, now);
    element.title = whole.format(then);
  }
}
