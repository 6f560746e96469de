/**
 * The rooms: their list, their messages, who is there, what is being written.
 *
 * In: a `Chat` of gateway.js. Out: what is on the screen. The rules: messages stand in the order of
 * their offsets, each once; what is being sent stands below them until it is in the store.
 */

import { $, announce, atEnd, avatar, button, clock, dayOf, element, icon, plural, stored } from "./page-dom.js";

const PAGE = 50;
const MAX_SHOWN = 1_000;
const TOGETHER = 5 * 60_000; // messages of one user this close share their head
const TYPING_EVERY = 3_000;
const TYPING_LASTS = 5_000;
const MAX_NAMES = 100;

const kept = stored("localStorage", "rooms");

/** One room's messages and people. */
class RoomView {
  #items = new Map(); // offset → { item, message }
  #sending = []; // in the order of sending: { text, item, key, hidden }
  #more = false;
  #loading = false;
  #top = null;
  #pinned = true;

  constructor(chats, room) {
    this.chats = chats;
    this.room = room;
    this.name = room.name;
    this.draft = "";
    this.unread = 0;
    this.members = new Set();
    this.typists = new Map();
    this.older = button("quiet older", () => this.loadOlder(), null, "Show older messages");
    this.older.hidden = true;
    this.list = element("ol", { className: "messages" });
    this.empty = element("p", { className: "empty", hidden: true }, "No messages yet. Say hello.");
    this.note = element("p", { className: "note", hidden: true });
    this.box = element("section", { className: "log", tabIndex: 0, hidden: true });
    this.box.setAttribute("aria-label", `Messages in ${room.name}`);
    this.box.append(this.older, this.note, this.empty, this.list);
    this.box.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    // Whoever reads the end stays there, whatever grows or shrinks.
    const resized = new ResizeObserver(() => this.#pinned && this.toEnd());
    resized.observe(this.box);
    resized.observe(this.list);
    room.addEventListener("joined", ({ detail }) => this.#joined(detail));
    room.addEventListener("message", ({ detail }) => this.#came(detail));
    room.addEventListener("stale", () => this.#stale());
    room.addEventListener("presence", ({ detail }) => this.#presence(detail));
    room.addEventListener("typing", ({ detail }) => this.#typing(detail.user));
    room.addEventListener("left", ({ detail }) => this.chats.lost(this, detail));
  }

  get shown() {
    return this.chats.current === this;
  }

  get sending() {
    return this.#sending.filter(({ item }) => item.classList.contains("sending")).length;
  }

  show() {
    this.box.hidden = false;
    this.unread = 0;
    this.box.scrollTop = this.#top ?? this.box.scrollHeight;
    this.#scrolled();
  }

  hide() {
    this.#top = this.#pinned ? null : this.box.scrollTop;
    this.box.hidden = true;
  }

  say(text) {
    const entry = { text, hidden: false, key: undefined };
    const fate = element("p", { className: "fate" });
    const body = element("div", { className: "body" }, element("p", { className: "text" }, text), fate);
    entry.fate = fate;
    entry.item = element("li", { className: "message own" }, body);
    this.#sending.push(entry);
    this.list.append(entry.item);
    this.empty.hidden = true;
    this.toEnd();
    this.#send(entry);
  }

  #send(entry) {
    entry.item.classList.remove("failed");
    entry.item.classList.add("sending");
    entry.fate.replaceChildren("Sending…");
    entry.key ??= Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(36)).join("-");
    this.room.publish(entry.text, { key: entry.key }).then(
      ({ offset }) => {
        // Its message may be here already, or comes at once.
        this.#forget(entry);
        this.#items.get(offset)?.item.classList.add("sent");
        this.sentUpTo = Math.max(this.sentUpTo ?? 0, offset);
      },
      (error) => {
        if (error.code === "left") this.#forget(entry);
        else this.#failed(entry, error);
      },
    );
    this.chats.changed();
  }

  #failed(entry, error) {
    if (!this.#sending.includes(entry)) return;
    entry.item.hidden = false;
    entry.item.classList.replace("sending", "failed");
    const again = button("link", () => this.#send(entry), null, "Try again");
    const drop = button("link", () => this.#forget(entry, true), null, "Discard");
    entry.fate.replaceChildren(element("span", {}, `Not sent: ${error.message}`), again, drop);
    announce(`Not sent: ${entry.text}`);
  }

  #forget(entry, focus = false) {
    entry.item.remove();
    this.#sending = this.#sending.filter((other) => other !== entry);
    if (focus) $("text").focus();
    this.chats.changed();
  }

  #joined({ resumed, recovered, missed }) {
    if (!resumed || !recovered) this.#loadLatest();
    if (resumed) this.chats.caughtUp(missed, recovered);
    this.room.who().then(({ members }) => {
      this.members = new Set(members);
      this.chats.changed();
    }, () => {});
    this.chats.changed();
  }

  #stale() {
    for (const { item } of this.#items.values()) item.remove();
    this.#items.clear();
    this.note.textContent = "Some messages from while you were away are no longer kept.";
    this.note.hidden = false;
  }

  #came(message) {
    const own = message.user === this.chats.user;
    // The page's own words come back: they take the place of those being sent.
    const sending = own && this.#sending.find((entry) => !entry.hidden && entry.text === message.text);
    if (sending) {
      sending.hidden = true;
      sending.item.hidden = true;
    }
    this.typists.delete(message.user);
    this.#add([message], own);
    if (!own) {
      if (!this.shown || document.hidden) this.unread += 1;
      if (this.shown) announce(`${message.user}: ${message.text}`);
    }
    this.chats.changed();
  }

  async #loadLatest() {
    const offset = this.room.position?.offset;
    try {
      const { messages, more } = await this.room.history({ before: offset && offset + 1, limit: PAGE });
      this.#more = more;
      this.#add(messages, true);
    } catch {
      this.#more = true;
    }
    this.older.hidden = !this.#more;
    this.empty.hidden = this.#items.size + this.#sending.length > 0;
  }

  async loadOlder() {
    if (this.#loading || !this.#items.size) return;
    this.#loading = true;
    this.older.textContent = "Loading…";
    const focused = document.activeElement === this.older;
    try {
      const before = Math.min(...this.#items.keys());
      const { messages, more } = await this.room.history({ before, limit: PAGE });
      const height = this.box.scrollHeight - this.box.scrollTop;
      this.#more = more;
      this.#add(messages, false);
      this.older.hidden = !more;
      this.box.scrollTop = this.box.scrollHeight - height;
      if (focused) {
        this.box.focus({ preventScroll: true });
        announce(`${plural(messages.length, "older message")}`);
      }
    } catch {
      // the button stays, to try again
    }
    this.older.textContent = "Show older messages";
    this.#loading = false;
  }

  /** Put messages where their offsets want them; `follow`: go to the end if that is in sight. */
  #add(messages, follow) {
    const stay = !(follow || this.#pinned);
    for (const message of messages) {
      if (this.#items.has(message.offset)) continue;
      const item = this.#render(message);
      let next = null;
      for (const [offset, other] of this.#items) {
        if (offset > message.offset && (next === null || offset < next.offset)) next = { offset, ...other };
      }
      this.list.insertBefore(item, next?.item ?? this.#sending[0]?.item ?? null);
      this.#items.set(message.offset, { item, message });
      this.#join(item);
      if (item.nextElementSibling) this.#join(item.nextElementSibling);
    }
    this.empty.hidden = this.#items.size + this.#sending.length > 0;
    if (stay) return;
    this.#trim();
    this.toEnd();
  }

  #render(message) {
    const own = message.user === this.chats.user;
    const meta = element("p", { className: "meta" }, element("b", {}, message.user), clock(message.time));
    const text = element("p", { className: "text" }, message.text);
    const sent = element("span", { className: "tick" }, icon("check"), element("span", { className: "unseen" }, "Sent"));
    const item = element("li", { className: own ? "message own" : "message" });
    item.append(avatar(message.user), element("div", { className: "body" }, meta, text, sent));
    item.dataset.user = message.user;
    item.dataset.time = message.time;
    if (own && message.offset <= (this.sentUpTo ?? 0)) item.classList.add("sent");
    return item;
  }

  /** Show a head where the writer, the day or the hour changes. */
  #join(item) {
    const { user, time } = item.dataset;
    if (!time) return;
    const before = item.previousElementSibling?.dataset ?? {};
    const newDay = !before.time || dayOf(before.time) !== dayOf(time);
    item.classList.toggle(
      "continued",
      !newDay && before.user === user && new Date(time) - new Date(before.time) < TOGETHER,
    );
    item.querySelector(".day")?.remove();
    if (newDay) item.prepend(element("p", { className: "day" }, dayOf(time)));
  }

  #trim() {
    if (this.#items.size <= MAX_SHOWN) return;
    const offsets = [...this.#items.keys()].sort((a, b) => a - b);
    for (const offset of offsets.slice(0, offsets.length - MAX_SHOWN)) {
      this.#items.get(offset).item.remove();
      this.#items.delete(offset);
    }
    this.older.hidden = false;
    this.#join(this.list.firstElementChild);
  }

  toEnd() {
    this.#pinned = true;
    this.box.scrollTop = this.box.scrollHeight;
  }

  #scrolled() {
    if (!this.shown || this.box.hidden) return;
    this.#pinned = atEnd(this.box);
    $("newest").hidden = this.#pinned;
    if (this.box.scrollTop < 80 && !this.older.hidden) this.loadOlder();
  }

  #presence({ joined = [], left = [] }) {
    for (const user of left) this.members.delete(user);
    for (const user of joined) this.members.add(user);
    this.chats.changed();
  }

  #typing(user) {
    if (user === this.chats.user) return; // on another device
    clearTimeout(this.typists.get(user));
    const forget = () => this.typists.delete(user) && this.chats.changed();
    this.typists.set(user, setTimeout(forget, TYPING_LASTS));
    this.chats.changed();
  }
}

/** All rooms of a `Chat`, of which one is shown. */
export class Chats {
  #views = new Map();
  #typed = 0;

  /** @param {(missed: number, recovered: boolean) => void} caughtUp what a return brought. */
  constructor(chat, { first, caughtUp, changed }) {
    this.chat = chat;
    this.caughtUp = caughtUp;
    this.onchange = changed;
    this.current = null;
    const rooms = this.#remembered();
    const shown = first ?? rooms[0] ?? "lobby";
    this.open(shown);
    for (const name of rooms) if (name !== shown) this.open(name, false);
    this.#listen();
  }

  get user() {
    return this.chat.user;
  }

  get unread() {
    let count = 0;
    for (const view of this.#views.values()) count += view.unread;
    return count;
  }

  /** How many messages are on their way. */
  get sending() {
    let count = 0;
    for (const view of this.#views.values()) count += view.sending;
    return count;
  }

  #remembered() {
    try {
      const rooms = JSON.parse(kept.get() ?? "[]");
      return rooms.filter((name) => typeof name === "string" && name).slice(0, 50);
    } catch {
      return [];
    }
  }

  open(name, show = true) {
    let view = this.#views.get(name);
    if (!view) {
      view = new RoomView(this, this.chat.join(name, { presence: true }));
      this.#views.set(name, view);
      $("logs").append(view.box);
      kept.set(JSON.stringify([...this.#views.keys()]));
    }
    if (show && this.current !== view) this.#show(view);
    this.changed();
  }

  #show(view) {
    if (this.current) {
      this.current.draft = $("text").value;
      this.current.hide();
    }
    this.current = view;
    $("text").value = view.draft;
    this.#fitText();
    view.show();
  }

  leave() {
    this.current?.room.leave();
  }

  /** A room is no more: left, refused, or the connection is closed for good. */
  lost(view, error) {
    if (error.code === "closed" || this.#views.get(view.name) !== view) return;
    this.#views.delete(view.name);
    kept.set(JSON.stringify([...this.#views.keys()]));
    view.box.remove();
    if (error.code !== "left") $("room-error").textContent = `${view.name}: ${error.message}`;
    if (this.current === view) {
      this.current = null;
      const next = this.#views.values().next().value;
      if (next) this.#show(next);
      else if (error.code === "left") this.open("lobby");
    }
    this.changed();
  }

  /** Draw what is small: the list of rooms, who is there, who is typing. */
  changed() {
    cancelAnimationFrame(this.drawing);
    this.drawing = requestAnimationFrame(() => this.#draw());
    this.onchange();
  }

  #draw() {
    const focused = document.activeElement?.dataset?.room;
    $("rooms").replaceChildren(...[...this.#views.values()].map((view) => this.#roomItem(view)));
    if (focused !== undefined) {
      [...$("rooms").querySelectorAll("button")].find((each) => each.dataset.room === focused)?.focus();
    }
    const view = this.current;
    $("room-name").textContent = view?.name ?? "No room";
    const count = view?.room.members ?? 0;
    $("count").textContent = `${count} here`;
    const names = [...(view?.members ?? [])].sort((a, b) => a.localeCompare(b)).slice(0, MAX_NAMES);
    const others = Math.max(0, count - names.length);
    $("members").replaceChildren(
      ...names.map((name) => element("li", {}, avatar(name), name === this.user ? `${name} (you)` : name)),
      ...(others ? [element("li", { className: "others" }, `and ${others} more`)] : []),
    );
    const typists = [...(view?.typists.keys() ?? [])];
    $("typing").textContent =
      typists.length > 2
        ? "Several people are typing…"
        : typists.length
          ? `${typists.join(" and ")} ${typists.length > 1 ? "are" : "is"} typing…`
          : "";
  }

  #roomItem(view) {
    const label = view.unread ? `${view.name}, ${view.unread} unread` : null;
    const go = button("room", () => this.open(view.name), label, element("span", {}, view.name));
    go.dataset.room = view.name;
    if (view === this.current) go.setAttribute("aria-current", "true");
    if (view.unread) go.append(element("span", { className: "badge" }, String(view.unread)));
    return element("li", {}, go);
  }

  #fitText() {
    const text = $("text");
    text.style.height = "auto";
    text.style.height = `${text.scrollHeight + 2}px`;
  }

  #listen() {
    $("message-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const text = $("text").value;
      if (!text.trim() || !this.current) return;
      this.current.say(text);
      $("text").value = "";
      this.#typed = 0;
      this.#fitText();
    });
    $("text").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      $("message-form").requestSubmit();
    });
    $("text").addEventListener("input", () => {
      this.#fitText();
      if (!$("text").value || Date.now() - this.#typed < TYPING_EVERY) return;
      this.#typed = Date.now();
      this.current?.room.typing();
    });
    $("room-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const name = $("room").value.trim();
      $("room-error").textContent = "";
      if (!name) return;
      $("room").value = "";
      this.open(name);
      announce(`Room ${name}`);
    });
    $("leave").addEventListener("click", () => this.leave());
    $("newest").addEventListener("click", () => {
      this.current?.toEnd();
      $("text").focus();
    });
    $("who-toggle").addEventListener("click", () => {
      $("who").hidden = !$("who").hidden;
      $("who-toggle").setAttribute("aria-expanded", String(!$("who").hidden));
    });
    document.addEventListener("visibilitychange", () => {
      if (document.hidden || !this.current) return;
      this.current.unread = 0;
      this.changed();
    });
  }
}
