/**
 * What the parts of the page share: elements, icons, times, storage, what screen readers hear.
 *
 * The rule: text from others only ever becomes text (`textContent`), never markup.
 */

const SVG = "http://www.w3.org/2000/svg";
const HUES = 8;
const MINUTE = 60_000;

export const $ = (id) => document.getElementById(id);

/** Make an element: `element("p", { className: "x" }, "text", otherElement)`. */
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export function icon(name) {
  const made = document.createElementNS(SVG, "svg");
  made.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  made.append(use);
  return made;
}

/** A button that does something; `label` where it has no text. */
export function button(className, act, label, ...children) {
  const made = element("button", { className, type: "button" }, ...children);
  if (label) made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

/** The first letter of a name and the colour that it always has. */
export function paintAvatar(target, name) {
  let hash = 0;
  for (const character of name) hash = (hash * 31 + character.codePointAt(0)) >>> 0;
  target.textContent = [...name.replace(/^guest-/, "")][0]?.toUpperCase() ?? "?";
  target.dataset.hue = hash % HUES;
  return target;
}

export function avatar(name) {
  const made = paintAvatar(element("span", { className: "avatar" }), name);
  made.setAttribute("aria-hidden", "true");
  return made;
}

const asTime = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
const asDay = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const asBoth = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const asDistance = new Intl.RelativeTimeFormat(undefined, { numeric: "auto", style: "short" });

/** A `<time>` that says the hour. */
export function clock(time) {
  const date = new Date(time);
  return element("time", { dateTime: time, title: asBoth.format(date) }, asTime.format(date));
}

/** The day, as a heading between messages says it. */
export function dayOf(time) {
  const date = new Date(time);
  return date.toDateString() === new Date().toDateString() ? "Today" : asDay.format(date);
}

/** How long ago; `refreshTimes()` keeps these true. */
export function ago(time) {
  const made = element("time", { dateTime: time, className: "ago", title: asBoth.format(new Date(time)) });
  made.textContent = distance(time);
  return made;
}

export function refreshTimes(within) {
  for (const made of within.querySelectorAll("time.ago")) made.textContent = distance(made.dateTime);
}

function distance(time) {
  const minutes = Math.round((new Date(time) - Date.now()) / MINUTE);
  if (minutes > -1) return "now";
  if (minutes > -60) return asDistance.format(minutes, "minute");
  if (minutes > -60 * 24) return asDistance.format(Math.round(minutes / 60), "hour");
  return asDistance.format(Math.round(minutes / 60 / 24), "day");
}

/** `1 message`, `2 messages`. */
export const plural = (count, one) => `${count} ${one}${count === 1 ? "" : "s"}`;

/** A value that outlives a reload, where the browser lets pages keep any. */
export function stored(area, name) {
  const key = `trio-gateway.${name}`;
  let value = null;
  return {
    get() {
      try {
        return globalThis[area].getItem(key) ?? value;
      } catch {
        return value;
      }
    },
    set(next) {
      value = next;
      try {
        if (next === null) globalThis[area].removeItem(key);
        else globalThis[area].setItem(key, next);
      } catch {
        // kept for as long as the page is
      }
    },
  };
}

let waiting = [];
let announcing;

/** Have a screen reader say something, when it has time; what comes at once is said together. */
export function announce(text) {
  waiting.push(text);
  announcing ??= setTimeout(() => {
    const said = waiting.length > 3 ? `${waiting.length} new: ${waiting.at(-1)}` : waiting.join(". ");
    $("announcer").textContent = said;
    waiting = [];
    announcing = undefined;
  }, 300);
}

/** A list is at its end when no more than a line is below. */
export const atEnd = (box) => box.scrollHeight - box.scrollTop - box.clientHeight < 48;
