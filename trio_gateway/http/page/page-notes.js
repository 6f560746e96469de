/**
 * The notifications: a bell with a count, a list with the newest on top, the desktop's own.
 *
 * In: a `Notifications` of gateway.js. Out: what is on the screen. The rule: read is what the
 * server says is read, on whichever of the user's devices that happened.
 */

import { $, ago, announce, button, element, icon, refreshTimes } from "./page-dom.js";

const PAGE = 30;
const MAX_SHOWN = 500;
const MAX_TITLE = 80;

export class Notes {
  #items = new Map(); // offset → li
  #latest = 0;

  /** @param changed called when the count may have. @param caughtUp what a return brought. */
  constructor(notifications, { changed, caughtUp }) {
    this.notifications = notifications;
    this.onchange = changed;
    this.caughtUp = caughtUp;
    notifications.addEventListener("welcome", ({ detail }) => this.#welcomed(detail));
    notifications.addEventListener("resumed", ({ detail }) => this.#welcomed(detail));
    notifications.addEventListener("notification", ({ detail }) => this.#came(detail));
    notifications.addEventListener("unread", () => this.#mark());
    notifications.addEventListener("stale", () => this.#clear());
    $("read-all").addEventListener("click", () => this.#read(this.#latest));
    $("older-notes").addEventListener("click", () => this.#load(Math.min(...this.#items.keys())));
    $("allow").addEventListener("click", () => this.#allow());
    setInterval(() => refreshTimes($("notes")), 30_000);
    this.#offerDesktop();
  }

  get unread() {
    return this.notifications.unread;
  }

  #welcomed({ position, recovered }) {
    const before = this.notifications.position;
    const missed = recovered ? position.offset - before.offset : 0;
    this.#latest = position.offset;
    if (this.listed && recovered) this.caughtUp(missed, true);
    else this.#load();
    this.listed = true;
  }

  #clear() {
    this.#items.clear();
    $("notes").replaceChildren();
  }

  async #load(before) {
    try {
      const { notifications, more } = await this.notifications.list({ before, limit: PAGE });
      for (const each of notifications) this.#show(each);
      $("older-notes").hidden = !more;
    } catch {
      $("older-notes").hidden = false;
    }
    this.#mark();
  }

  #came(notification) {
    this.#latest = Math.max(this.#latest, notification.offset);
    this.#show(notification);
    this.#mark();
    announce(`Notification: ${notification.title}`);
    this.#onDesktop(notification);
  }

  #show({ offset, title, body, time }) {
    if (this.#items.has(offset)) return;
    const read = button("icon read", () => this.#read(offset), `Mark as read up to: ${title}`, icon("check"));
    read.title = "Mark as read, with all older ones";
    const text = element("div", { className: "body" }, element("p", { className: "title" }, title));
    if (body) text.append(element("p", { className: "text" }, body));
    text.append(ago(time));
    const item = element("li", { className: "notification" }, text, read);
    let next = null;
    for (const [other, shown] of this.#items) {
      if (other < offset && (next === null || other > next[0])) next = [other, shown];
    }
    $("notes").insertBefore(item, next?.[1] ?? null);
    this.#items.set(offset, item);
    if (this.#items.size > MAX_SHOWN) {
      const oldest = Math.min(...this.#items.keys());
      this.#items.get(oldest).remove();
      this.#items.delete(oldest);
      $("older-notes").hidden = false;
    }
  }

  #read(offset) {
    this.notifications.markRead(offset).catch((error) => announce(error.message));
    if (document.activeElement?.classList.contains("read")) $("notes-panel").focus();
  }

  #mark() {
    const { unread, readUpTo } = this.notifications;
    for (const [offset, item] of this.#items) {
      item.classList.toggle("unread", offset > readUpTo);
      item.querySelector(".read").hidden = offset <= readUpTo;
    }
    $("no-notes").hidden = this.#items.size > 0;
    $("read-all").disabled = unread === 0;
    $("unread").textContent = unread > 99 ? "99+" : String(unread);
    $("unread").hidden = unread === 0;
    $("bell").setAttribute("aria-label", unread ? `Notifications, ${unread} unread` : "Notifications");
    this.onchange();
  }

  #offerDesktop() {
    $("desktop").hidden = !("Notification" in globalThis) || Notification.permission !== "default";
  }

  async #allow() {
    await Notification.requestPermission();
    this.#offerDesktop();
    $("notes-panel").focus();
  }

  #onDesktop({ offset, title, body }) {
    if (!("Notification" in globalThis) || Notification.permission !== "granted") return;
    if (!document.hidden && document.hasFocus()) return;
    try {
      const tag = `${this.notifications.position?.epoch}:${offset}`; // one, however many tabs are open
      const shown = new Notification(title.slice(0, MAX_TITLE), { body, tag, icon: "/icon.svg" });
      shown.addEventListener("click", () => {
        globalThis.focus();
        shown.close();
      });
    } catch {
      // phones have these for service workers only
    }
  }
}
