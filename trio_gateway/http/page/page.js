"use strict";

// Chat and notifications, live. Text from others only ever becomes text (textContent). After a lost
// connection the page comes back by itself and asks for what it missed, from its last position.

const $ = (id) => document.getElementById(id);
const wanted = new URLSearchParams(location.search);
const MAX_SHOWN = 1000;

// Close codes after which coming back would not help.
const FINAL = new Set([1000, 1001, 1002, 1003, 1007, 1009, 4401, 4403]);

/** A WebSocket that comes back: with full jitter, or when a draining server says. */
class Stream {
  constructor(url, onframe, onstate) {
    this.url = url;
    this.onframe = onframe;
    this.onstate = onstate;
    this.failures = 0;
    this.open();
  }

  open() {
    clearTimeout(this.timer);
    this.socket = new WebSocket(this.url());
    this.socket.onmessage = (event) => {
      const frame = JSON.parse(event.data);
      if (frame.type === "welcome") {
        this.failures = 0;
        this.onstate("connected");
      }
      this.onframe(frame);
    };
    this.socket.onclose = (event) => this.closed(event);
  }

  closed(event) {
    if (FINAL.has(event.code)) {
      this.onstate(`closed: ${event.reason || event.code}; reload the page to come back`);
      return;
    }
    const told = event.code === 1012 && /^retry (\d+)$/.exec(event.reason);
    this.failures += 1;
    const most = Math.min(30000, 500 * 2 ** this.failures);
    const least = event.code === 4429 ? 5000 : 100;
    const delay = told ? Number(told[1]) : least + Math.random() * most;
    this.onstate("connection lost, coming back…");
    this.timer = setTimeout(() => this.open(), delay);
  }

  send(command) {
    if (this.socket.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(command));
    return true;
  }
}

function address(path, parameters) {
  const url = new URL(path, location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  for (const [name, value] of Object.entries(parameters)) {
    if (value) url.searchParams.set(name, value);
  }
  return url.href;
}

const since = (position) => position && `${position.epoch}:${position.offset}`;

function element(name, text, className) {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function clock(time) {
  const made = element("time", new Date(time).toLocaleTimeString());
  made.dateTime = time;
  return made;
}

/** A list in the order of offsets, without duplicates, that stays at its end while one reads there. */
class Log {
  constructor(list) {
    this.list = list;
    this.shown = new Map();
  }

  add(offset, item) {
    if (this.shown.has(offset)) return;
    const atEnd = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 40;
    let before = null;
    for (const [other, shown] of this.shown) {
      if (other > offset && (before === null || other < before[0])) before = [other, shown];
    }
    this.list.insertBefore(item, before ? before[1] : this.list.querySelector(".waiting"));
    this.shown.set(offset, item);
    if (this.shown.size > MAX_SHOWN && atEnd) this.remove(this.first());
    if (atEnd) this.list.scrollTop = this.list.scrollHeight;
  }

  remove(offset) {
    this.shown.get(offset).remove();
    this.shown.delete(offset);
  }

  first() {
    return Math.min(...this.shown.keys());
  }

  clear() {
    for (const item of this.shown.values()) item.remove();
    this.shown.clear();
  }
}

// ---- chat

const chat = {
  user: wanted.get("user"),
  room: wanted.get("room"),
  position: null,
  waiting: new Map(), // key → a message that is not acknowledged yet
  log: new Log($("messages")),
};

function onChat(frame) {
  switch (frame.type) {
    case "welcome":
      chat.user = frame.user; // a guest keeps the name it was given
      chat.room = frame.room;
      $("room").value = frame.room;
      startNotifications();
      break;
    case "joined":
      if (frame.room === chat.room) onJoined(frame);
      break;
    case "message":
      if (frame.room === chat.room) showMessage(frame);
      break;
    case "history":
      if (frame.room !== chat.room) break;
      frame.messages.forEach(showMessage);
      $("older").hidden = !frame.more;
      break;
    case "ack":
      settle(frame.id);
      break;
    case "presence":
      if (frame.room === chat.room) $("members").textContent = `${frame.count} here`;
      break;
    case "typing":
      if (frame.room === chat.room) showTyping(frame.user);
      break;
    case "error":
      onChatError(frame);
      break;
  }
}

function onJoined(frame) {
  const fresh = chat.position === null;
  if (!frame.recovered) chat.log.clear();
  chat.position = frame.position;
  $("members").textContent = `${frame.members} here`;
  frame.messages.forEach(showMessage);
  if (fresh || !frame.recovered) askHistory(frame.position.offset + 1);
  for (const message of chat.waiting.values()) chatStream.send(message.command);
}

function onChatError(frame) {
  const message = chat.waiting.get(frame.id);
  const later = frame.code === "store_unavailable";
  if (later && message) setTimeout(() => chatStream.send(message.command), 1000 + Math.random() * 4000);
  else if (later) setTimeout(join, 1000 + Math.random() * 4000);
  else if (message) settle(frame.id);
  $("status").textContent = frame.message;
}

function showMessage(message) {
  if (chat.position && message.offset > chat.position.offset) {
    chat.position.offset = message.offset;
  }
  const item = element("li", "");
  item.append(clock(message.time), element("b", message.user), message.text);
  chat.log.add(message.offset, item);
}

function askHistory(before) {
  chatStream.send({ type: "history", room: chat.room, before, limit: 50 });
}

function join() {
  const command = { type: "join", room: chat.room, presence: true };
  if (chat.position) command.since = chat.position;
  chatStream.send(command);
}

function say(text) {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const key = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  const item = element("li", text, "waiting");
  const command = { type: "message", id: key, key, room: chat.room, text };
  chat.waiting.set(key, { command, item });
  $("messages").append(item);
  $("messages").scrollTop = $("messages").scrollHeight;
  chatStream.send(command); // if it is not open, the next "joined" sends it
}

function settle(key) {
  const message = chat.waiting.get(key);
  if (!message) return;
  message.item.remove();
  chat.waiting.delete(key);
}

let typingShown;
function showTyping(user) {
  $("typing").textContent = `${user} is typing…`;
  clearTimeout(typingShown);
  typingShown = setTimeout(() => ($("typing").textContent = ""), 4000);
}

$("message-form").addEventListener("submit", (event) => {
  event.preventDefault();
  say($("text").value);
  $("text").value = "";
});

let typingSent = 0;
$("text").addEventListener("input", () => {
  if (Date.now() - typingSent < 3000) return;
  typingSent = Date.now();
  chatStream.send({ type: "typing", room: chat.room });
});

$("room-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("room").value === chat.room) return;
  chatStream.send({ type: "leave", room: chat.room });
  chat.room = $("room").value;
  chat.position = null;
  chat.log.clear();
  for (const key of [...chat.waiting.keys()]) settle(key);
  join();
});

$("older").addEventListener("click", () => askHistory(chat.log.first()));

const chatStream = new Stream(
  () =>
    address("/", {
      user: chat.user,
      room: chat.room,
      presence: "true",
      since: since(chat.position),
    }),
  onChat,
  (state) => ($("status").textContent = state),
);

// ---- notifications

const notes = { position: null, cursor: 0, log: new Log($("notifications")) };
let notesStream = null;

function startNotifications() {
  if (notesStream) return;
  notesStream = new Stream(
    () => address("/notifications/ws", { user: chat.user, since: since(notes.position) }),
    onNotes,
    () => {},
  );
}

function onNotes(frame) {
  switch (frame.type) {
    case "welcome":
      if (!frame.recovered) notes.log.clear();
      if (!notes.position || !frame.recovered) notesStream.send({ type: "list", limit: 50 });
      notes.position = frame.position;
      notes.cursor = frame.position.offset - frame.unread;
      break;
    case "notification":
      showNote(frame);
      break;
    case "list":
      frame.notifications.forEach(showNote);
      break;
    case "unread":
      notes.cursor = frame.offset;
      break;
  }
  showUnread();
}

function showNote(note) {
  if (note.offset > notes.position.offset) {
    notes.position.offset = note.offset;
  }
  const item = element("li", "");
  item.append(clock(note.time), element("b", note.title), note.body);
  notes.log.add(note.offset, item);
}

function showUnread() {
  const count = notes.position ? Math.max(0, notes.position.offset - notes.cursor) : 0;
  $("unread").textContent = count ? `(${count} new)` : "";
  $("read").disabled = count === 0;
  for (const [offset, item] of notes.log.shown) {
    item.classList.toggle("unread", offset > notes.cursor);
  }
}

$("read").addEventListener("click", () => {
  notesStream.send({ type: "read", offset: notes.position.offset });
});
