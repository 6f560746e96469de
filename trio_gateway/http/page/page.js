/**
 * The page: who one is, what the connections do, which panels are open; starts the two halves.
 *
 * In: the address (`?user=`, `?room=`), `data-auth` of the document. Out: chat and notifications,
 * live. The rule: what the connections do is always in sight, in words.
 */

import { Chat, Notifications } from "/gateway.js";
import { Chats } from "/page-chat.js";
import { $, announce, paintAvatar, plural, stored } from "/page-dom.js";
import { Notes } from "/page-notes.js";

const wanted = new URLSearchParams(location.search);
const byToken = document.documentElement.dataset.auth === "jwt";
const keptUser = stored("sessionStorage", "user");
const keptToken = stored("sessionStorage", "token");
const NEWS_LASTS = 6_000;
const LONG = 24; // on a phone, more than this has a line of its own

let chat = null;
let notifications = null;
let chats = null;
let notes = null;

// ---- connections

function start() {
  const identity = byToken
    ? { token: () => keptToken.get() }
    : { user: wanted.get("user") ?? keptUser.get() ?? undefined };
  chat = new Chat("/", identity);
  const first = wanted.get("room") ?? undefined;
  chats = new Chats(chat, { first, caughtUp, changed: drawTitle });
  chat.addEventListener("state", ({ detail }) => stateChanged(detail));
  chat.addEventListener("error", ({ detail }) => announce(detail.message));
  // A guest's name comes with the chat's welcome, and is the name of the notifications too.
  chat.addEventListener("welcome", ({ detail }) => welcomed(detail.user));
  if (byToken || identity.user) startNotifications(identity);
}

function startNotifications(identity) {
  notifications = new Notifications("/notifications/ws", identity);
  notes = new Notes(notifications, { changed: drawTitle, caughtUp });
  notifications.addEventListener("state", ({ detail }) => stateChanged(detail));
}

function welcomed(user) {
  if (!byToken) keptUser.set(user);
  $("me-name").textContent = user;
  $("me-change").textContent = byToken ? ", change the token" : ", change the name";
  paintAvatar($("me-avatar"), user);
  if (!notifications) startNotifications({ user });
}

// ---- what is happening

let news = "";
let newsTimer;
let missedSoFar = 0;
let saidBefore = "";

function caughtUp(missed, recovered) {
  clearTimeout(newsTimer);
  missedSoFar += missed;
  news = recovered ? `Caught up: ${missedSoFar} missed` : "Caught up, not all messages are kept";
  newsTimer = setTimeout(() => {
    news = "";
    missedSoFar = 0;
    drawStatus();
  }, NEWS_LASTS);
  drawStatus();
}

function stateChanged(state) {
  if (state.name === "waiting" && byToken) suspectToken(state);
  drawStatus();
}

/** Returns `{ look, text, said, retry }`: `said` has no count-down, so that it is said once. */
function describe() {
  const states = [chat?.state, notifications?.state].filter(Boolean);
  const closed = states.find(({ name }) => name === "closed");
  if (closed) {
    const text = `Disconnected: ${closed.reason || `code ${closed.code}`}`;
    return { look: "bad", text, said: text, retry: "Reload" };
  }
  const waiting = states.filter(({ name }) => name === "waiting").sort((a, b) => b.retryAt - a.retryAt)[0];
  if (waiting) {
    if (waiting.offline) {
      const text = "Offline, waiting for the network";
      return { look: "bad", text, said: text, retry: "Try now" };
    }
    const seconds = Math.max(1, Math.ceil((waiting.retryAt - Date.now()) / 1_000));
    const doing = waiting.told ? "Server is restarting, back" : waiting.welcomed ? "Reconnecting" : "No connection, trying again";
    return { look: "bad", text: `${doing} in ${seconds} s`, said: doing, retry: "Now" };
  }
  const connecting = states.find(({ name }) => name === "connecting");
  if (connecting) {
    const text = connecting.welcomed ? "Reconnecting…" : "Connecting…";
    return { look: "busy", text, said: text };
  }
  return { look: "ok", text: news || "Connected", said: news || "Connected" };
}

function drawStatus() {
  const { look, text, said, retry } = describe();
  const queued = look === "ok" ? 0 : (chats?.sending ?? 0);
  $("status").dataset.state = look;
  $("status").classList.toggle("long", text.length > LONG || queued > 0 || look === "bad");
  const shown = queued ? `${text} · ${plural(queued, "message")} waiting` : text;
  if ($("status-text").textContent !== shown) $("status-text").textContent = shown;
  $("retry").hidden = !retry;
  if (retry) $("retry").textContent = retry;
  if (said !== saidBefore) {
    if (saidBefore || look === "bad") announce(said);
    saidBefore = said;
  }
  clearTimeout(drawStatus.timer);
  if (look === "bad") drawStatus.timer = setTimeout(drawStatus, 250);
}

function drawTitle() {
  const count = (chats?.unread ?? 0) + (notes?.unread ?? 0);
  const room = chats?.current?.name;
  document.title = `${count ? `(${count}) ` : ""}${room ? `${room} · ` : ""}trio-gateway`;
}

$("retry").addEventListener("click", () => {
  if ([chat, notifications].some((each) => each?.state.name === "closed")) {
    location.reload();
    return;
  }
  for (const each of [chat, notifications]) if (each?.state.name === "waiting") each.retry();
  $("text").focus();
});

// ---- who one is

function claimsOf(token) {
  try {
    const part = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(part), (c) => c.charCodeAt(0))));
  } catch {
    return {};
  }
}

let asking = false;

/** A browser can't see a 401, so: refused, though the server is there? Then it may be the token. */
async function suspectToken({ code, refused, attempt }) {
  if (asking || $("identity").open) return;
  if (code === 4401) return askIdentity("Your token has expired. Paste a new one.");
  if (!refused || attempt < 2) return;
  asking = true;
  try {
    const response = await fetch("/readyz", { cache: "no-store" });
    if (response.ok && chat.state.name !== "open") {
      const expired = claimsOf(keptToken.get() ?? "").exp * 1_000 < Date.now();
      askIdentity(expired ? "Your token has expired. Paste a new one." : "The server did not accept this token.");
    }
  } catch {
    // no server, so it is not about the token
  }
  asking = false;
}

function askIdentity(problem = "") {
  const field = $("identity-value");
  if (byToken) {
    $("identity-title").textContent = "Access token";
    $("identity-label").textContent = "Token";
    $("identity-text").textContent = "This server knows its users by a token (JWT). It stays in this tab.";
    field.type = "password";
    field.maxLength = 16_384;
    $("identity-forget").hidden = !keptToken.get();
  } else {
    field.value = chat?.user ?? "";
  }
  $("identity-cancel").hidden = !chat;
  $("identity-error").textContent = problem;
  if (!$("identity").open) $("identity").showModal();
  field.select();
}

$("identity-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const value = $("identity-value").value.trim();
  if (byToken) {
    if (!/^[\w.~+/=-]+$/.test(value)) {
      $("identity-error").textContent = "A token has letters, digits and dots only.";
      return;
    }
    keptToken.set(value);
    $("identity-value").value = "";
    $("identity").close();
    const another = chat?.user && claimsOf(value).sub !== chat.user;
    if (another || chat?.state.name === "closed") location.reload();
    else if (chat) [chat, notifications].forEach((each) => each.retry());
    else start();
    return;
  }
  if (!value || value === chat?.user) {
    $("identity").close();
    return;
  }
  keptUser.set(value);
  wanted.set("user", value);
  if (chats?.current) wanted.set("room", chats.current.name);
  location.search = wanted; // other people's positions are of no use
});
$("identity-cancel").addEventListener("click", () => $("identity").close());
$("identity-forget").addEventListener("click", () => {
  keptToken.set(null);
  location.reload();
});
$("identity").addEventListener("cancel", (event) => {
  if (!chat) event.preventDefault();
});
$("me").addEventListener("click", () => askIdentity());

// ---- panels: beside the chat where there is room, above it where there is not

const BESIDE = "(min-width: 46rem)";

class Panel {
  constructor(panel, toggle, query) {
    this.panel = $(panel);
    this.toggle = $(toggle);
    this.wide = matchMedia(query);
    this.open(this.wide.matches);
    this.wide.addEventListener("change", () => this.open(this.wide.matches));
    this.toggle.addEventListener("click", () => this.open(this.panel.hidden, true));
    this.panel.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !this.wide.matches) this.close();
    });
  }

  open(open, focus = false) {
    this.panel.hidden = !open;
    this.toggle.setAttribute("aria-expanded", String(open));
    // What lies below a panel can neither be seen nor be stepped into.
    const shown = document.querySelector(".panel:not([hidden])") !== null;
    const covered = shown && !matchMedia(BESIDE).matches;
    for (const part of document.querySelector("main").children) part.inert = covered;
    if (focus && open) this.panel.focus();
  }

  close() {
    this.open(false);
    this.toggle.focus();
  }
}

const panels = {
  rooms: new Panel("rooms-panel", "rooms-toggle", BESIDE),
  notes: new Panel("notes-panel", "bell", "(min-width: 70rem)"),
};
for (const each of document.querySelectorAll("[data-close]")) {
  each.addEventListener("click", () => panels[each.dataset.close].close());
}
document.querySelector(".app").addEventListener("click", ({ target, currentTarget }) => {
  // What is inert passes its clicks on to what is around it.
  if (target !== currentTarget && target.localName !== "main") return;
  for (const each of Object.values(panels)) if (!each.wide.matches && !each.panel.hidden) each.close();
});
for (const [id, event] of [["rooms", "click"], ["room-form", "submit"]]) {
  $(id).addEventListener(event, () => {
    if (!panels.rooms.wide.matches) panels.rooms.close();
  });
}

if (byToken && !keptToken.get()) askIdentity();
else start();
drawStatus();
