/**
 * A client of trio_gateway, for browsers and Node.js 20 and newer; no dependencies, no build step.
 *
 * In: rooms to join, messages to publish, notifications to hear of. Out: events, promises, async
 * iterators. The rules: what was published is kept until it is acknowledged and resent after any
 * break under its key, so it is stored once; what was missed is asked for by position, so it comes
 * once and in order; where the server can't give all of it, a `stale` event says so.
 *
 *     import { Chat } from "/gateway.js";
 *     const chat = new Chat("/", { user: "ann" });
 *     const lobby = chat.join("lobby");
 *     lobby.addEventListener("message", ({ detail }) => console.log(detail.user, detail.text));
 *     await lobby.publish("hello"); // resolves once it is in the store
 *
 * Node.js 20 has no WebSocket of its own: pass one, `new Chat(url, { WebSocket })` from npm `ws`.
 */

/** Close codes after which the same connection would end the same way. */
const FINAL = new Set([1000, 1001, 1002, 1003, 1007, 1008, 1009, 4403]);
const SERVICE_RESTART = 1012;
const ABNORMAL = 1006;
const CLOSED_HERE = 0; // no code of the protocol's: `close()` was called
const TOKEN_EXPIRED = 4401;
const RATE = 4429;
const LEAST_AFTER_RATE = 5_000;

const RETRY = /^retry (\d{1,9})$/;
const MOST_TOLD = 300_000; // the most that a server can ask a client to wait

/** Whether an error says "later": the command is sent again. */
const TRANSIENT = new Set(["store_unavailable", "rate_limited", "not_joined"]);
const isTransient = (frame) => frame.retry !== undefined || TRANSIENT.has(frame.code);

const TICK = 2_000; // a laptop that slept is noticed at the first tick after it
const OPEN = 1; // WebSocket.OPEN, which an injected constructor may not have

const DEFAULTS = {
  backoffBase: 500,
  backoffCap: 30_000,
  settledAfter: 5_000,
  connectTimeout: 15_000,
  probeTimeout: 10_000,
  wakeTimeout: 3_000,
  silence: 25_000,
  maxQueued: 1_000,
  maxQueuedBytes: 1 << 20,
  maxInFlight: 64,
};

/** Why a command or a connection failed; `code` is for programs and stable. */
export class GatewayError extends Error {
  /**
   * @param {string} code from an `error` frame, or `closed`, `left`, `queue_full`, `overrun`.
   * @param {string} message one sentence for people.
   * @param {string} [field] the field it is about.
   */
  constructor(code, message, field) {
    super(message);
    this.name = "GatewayError";
    this.code = code;
    this.field = field;
  }
}

/**
 * Full jitter: anything from nothing to the cap that doubles with each failure.
 * @param {number} failures in a row, the last one included.
 * @param {{backoffBase: number, backoffCap: number}} options milliseconds.
 * @returns {number} milliseconds.
 */
export function backoff(failures, { backoffBase, backoffCap } = DEFAULTS) {
  return Math.random() * Math.min(backoffCap, backoffBase * 2 ** Math.min(failures, 30));
}

/** A key nobody else has. `crypto.randomUUID` is missing on plain-HTTP pages, this is not. */
function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const emit = (target, type, detail) => target.dispatchEvent(new CustomEvent(type, { detail }));
const aborted = (signal) => signal.reason ?? new DOMException("aborted", "AbortError");

/** Commands that wait for their replies: bounded, resent after a break, in order. */
class Outbox {
  #items = new Map();
  #bytes = 0;
  #ids = 0;
  #timer;

  /** @param ready whether a feed's commands may go out. @param transmit sends one, or says false. */
  constructor(limits, ready, transmit) {
    this.limits = limits;
    this.ready = ready;
    this.transmit = transmit;
  }

  get size() {
    return this.#items.size;
  }

  nextId() {
    return ++this.#ids;
  }

  add(command, feed, signal) {
    if (signal?.aborted) return Promise.reject(aborted(signal));
    const id = this.nextId();
    const text = JSON.stringify({ ...command, id });
    if (this.size >= this.limits.maxQueued || this.#bytes + text.length > this.limits.maxQueuedBytes) {
      const most = `${this.limits.maxQueued} commands or ${this.limits.maxQueuedBytes} characters`;
      return Promise.reject(new GatewayError("queue_full", `more than ${most} would wait`));
    }
    return new Promise((resolve, reject) => {
      const onAbort = () => this.#end(id)?.reject(aborted(signal));
      signal?.addEventListener("abort", onAbort);
      const off = () => signal?.removeEventListener("abort", onAbort);
      const message = command.type === "message";
      this.#items.set(id, { text, feed, message, resolve, reject, off, sent: false, notBefore: 0, tries: 0 });
      this.#bytes += text.length;
      this.flush();
    });
  }

  #end(id) {
    const item = this.#items.get(id);
    if (!item) return undefined;
    this.#items.delete(id);
    this.#bytes -= item.text.length;
    item.off();
    return item;
  }

  /** Send what may be sent, oldest first; what is held back holds back the messages behind it. */
  flush() {
    clearTimeout(this.#timer);
    const now = Date.now();
    const held = new Set();
    let inFlight = 0;
    let earliest = Infinity;
    for (const item of this.#items.values()) {
      if (!item.sent) {
        if (item.message && held.has(item.feed)) continue;
        if (item.notBefore > now) {
          if (item.message) held.add(item.feed);
          earliest = Math.min(earliest, item.notBefore);
          continue;
        }
        if (!this.ready(item.feed)) continue;
        if (!this.transmit(item.text)) return;
        item.sent = true;
      }
      inFlight += 1;
      if (inFlight >= this.limits.maxInFlight) break;
    }
    if (earliest < Infinity) this.#timer = setTimeout(() => this.flush(), earliest - now + 1);
  }

  /** Take a reply; returns whether it was one. */
  settle(frame) {
    const item = this.#items.get(frame.id);
    if (!item) return false;
    if (frame.type !== "error") {
      this.#end(frame.id).resolve(frame);
    } else if (isTransient(frame)) {
      item.sent = false;
      item.tries += 1;
      const told = Math.min(frame.retry ?? 0, MOST_TOLD);
      item.notBefore = Date.now() + told + backoff(item.tries, this.limits);
    } else {
      this.#end(frame.id).reject(new GatewayError(frame.code, frame.message, frame.field));
    }
    this.flush();
    return true;
  }

  /** The connection broke: everything goes out again. */
  broken() {
    for (const item of this.#items.values()) item.sent = false;
  }

  /** Reject what waits, all of it or one feed's. */
  fail(error, feed) {
    for (const [id, item] of [...this.#items]) {
      if (feed === undefined || item.feed === feed) this.#end(id).reject(error);
    }
    if (feed === undefined) clearTimeout(this.#timer);
  }
}

/** A socket that comes back: the part that chat and notifications share. */
class Connection extends EventTarget {
  #url;
  #socket = null;
  #attempt = null;
  #failures = 0;
  #openedAt = 0;
  #heardAt = 0;
  #tickedAt = 0;
  #silence;
  #retryTimer;
  #probeTimer;
  #tickTimer;
  #off = new AbortController();

  constructor(url, options = {}) {
    super();
    this.options = { ...DEFAULTS, WebSocket: globalThis.WebSocket, ...options };
    if (!this.options.WebSocket) {
      throw new TypeError("there is no WebSocket here: pass one as options.WebSocket");
    }
    this.#url = new URL(url, globalThis.location?.href);
    this.#url.protocol = this.#url.protocol.replace(/^http/, "ws");
    this.#silence = this.options.silence;
    /** Who the server says this is. */
    this.user = options.user ?? null;
    this.state = { name: "connecting", attempt: 0, welcomed: false };
    this._outbox = new Outbox(this.options, (feed) => !feed || feed.joined, (text) => this._send(text));
    this.#listen();
    const { signal } = this.options;
    signal?.addEventListener("abort", () => this.close(), { signal: this.#off.signal });
    this.#tickedAt = Date.now();
    this.#tickTimer = setInterval(() => this.#tick(), Math.min(TICK, this.options.silence));
    // Later, so that listeners are there and a join behind the constructor goes out with it.
    queueMicrotask(() => (signal?.aborted ? this.close() : this.#open()));
  }

  /** Commands that wait for their replies. */
  get pending() {
    return this._outbox.size;
  }

  /** Close for good with 1000: what waits is rejected, iterations end. Idempotent. */
  close() {
    if (this.state.name === "closed") return;
    const socket = this.#detach();
    try {
      socket?.close(1000);
    } catch {
      // one that is still connecting says no in some implementations; it is detached all the same
    }
    this.#finish(CLOSED_HERE, "closed here");
  }

  /** Don't wait any longer for the next attempt; when there is a connection, see that it lives. */
  retry() {
    if (this.state.name === "waiting") this.#open();
    else if (this.state.name === "open") this.#probe(this.options.wakeTimeout);
  }

  /**
   * Send a command, again after each break, until its reply comes.
   * @param {object} command a client's frame of the wire page, without `id`.
   * @param {{signal?: AbortSignal}} [options] aborted, the reply is not waited for; what has been
   *     sent may have been obeyed.
   * @returns {Promise<object>} the reply; rejects with GatewayError.
   */
  request(command, { signal } = {}) {
    return this._request(command, undefined, signal);
  }

  _request(command, feed, signal) {
    if (this.state.name === "closed") {
      return Promise.reject(new GatewayError("closed", "this connection is closed for good"));
    }
    return this._outbox.add(command, feed, signal);
  }

  _send(text) {
    if (this.state.name !== "open" || this.#socket?.readyState !== OPEN) return false;
    this.#socket.send(text);
    return true;
  }

  /** Give up this socket and come back with the positions that are in hand. */
  _reconnect(reason) {
    this.#lost(ABNORMAL, reason);
  }

  async #open() {
    if (this.state.name === "closed") return;
    clearTimeout(this.#retryTimer);
    const attempt = (this.#attempt = new AbortController());
    this.#setState("connecting", { attempt: this.#failures });
    this.#openedAt = Date.now();
    this.#retryTimer = setTimeout(
      () => this.#lost(ABNORMAL, "connecting took too long"),
      this.options.connectTimeout,
    );
    let socket;
    try {
      let { token } = this.options;
      if (typeof token === "function") token = await token({ signal: attempt.signal });
      if (attempt.signal.aborted) return;
      const { WebSocket } = this.options;
      const url = this._address(new URL(this.#url), token != null);
      socket = new WebSocket(url.href, token == null ? [] : ["bearer", token]);
    } catch (error) {
      if (!attempt.signal.aborted) this.#lost(ABNORMAL, String(error?.message ?? error));
      return;
    }
    this.#socket = socket;
    const mine = (act) => (event) => {
      if (socket === this.#socket) act(event);
    };
    socket.addEventListener("error", () => {}); // a close follows, which says as much as there is
    socket.addEventListener("close", mine((event) => this.#lost(event.code, event.reason)));
    socket.addEventListener("message", mine((event) => this.#receive(event.data)));
  }

  #receive(data) {
    this.#heardAt = Date.now();
    clearTimeout(this.#probeTimer);
    this.#probeTimer = undefined;
    let frame;
    try {
      frame = JSON.parse(data);
    } catch {
      frame = null;
    }
    if (frame === null || typeof frame !== "object") return; // nothing that a gateway says
    if (frame.type === "welcome" && this.state.name === "open") {
      this._resumed(frame); // the server has missed something itself
    } else if (frame.type === "welcome") {
      clearTimeout(this.#retryTimer);
      this.#openedAt = this.#heardAt;
      this.user = frame.user;
      if (frame.heartbeat > 0) {
        this.#silence = Math.min(this.options.silence, frame.heartbeat * 1_000);
      }
      this.#setState("open", { welcomed: true });
      this._welcomed(frame);
      emit(this, "welcome", frame);
      this._outbox.flush();
    } else if (frame.id === "alive") {
      // the answer to a probe: that it came is all it says
    } else if (frame.type === "error" && frame.id === undefined) {
      this._strayError(frame);
    } else {
      const reply = frame.id !== undefined && this._outbox.settle(frame);
      if (!this._frame(frame) && !reply && frame.type === "error") emit(this, "error", frame);
    }
  }

  #detach() {
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#probeTimer);
    this.#probeTimer = undefined;
    this.#attempt?.abort();
    const socket = this.#socket;
    this.#socket = null;
    this._outbox.broken();
    this._broken();
    return socket;
  }

  #lost(code, reason) {
    const told = RETRY.exec(reason ?? "");
    const wasOpen = this.state.name === "open";
    const socket = this.#detach();
    if (socket && socket.readyState <= OPEN) {
      // A dead peer answers no Close frame; the handshake may take its time without us.
      if (socket.terminate) socket.terminate();
      else socket.close();
    }
    const renewable = typeof this.options.token === "function";
    if (FINAL.has(code) || (code === TOKEN_EXPIRED && !renewable)) {
      this.#finish(code, reason);
      return;
    }
    const settled = wasOpen && Date.now() - this.#openedAt >= this.options.settledAfter;
    this.#failures = settled ? 1 : this.#failures + 1;
    let delay = told ? Math.min(Number(told[1]), MOST_TOLD) : this.#delay(code);
    if (told && code !== SERVICE_RESTART) delay += backoff(this.#failures, this.options); // 1012's is jittered
    this.#setState("waiting", {
      attempt: this.#failures,
      delay,
      retryAt: Date.now() + delay,
      told: Boolean(told),
      refused: !wasOpen,
      code,
      reason,
    });
    this.#retryTimer = setTimeout(() => this.#open(), delay);
  }

  #delay(code) {
    if (globalThis.navigator?.onLine === false) return this.options.backoffCap; // or when it is on
    return backoff(this.#failures, this.options) + (code === RATE ? LEAST_AFTER_RATE : 0);
  }

  #finish(code, reason) {
    clearInterval(this.#tickTimer);
    this.#off.abort();
    this.#setState("closed", { code, reason });
    this._outbox.fail(new GatewayError("closed", `the connection is closed: ${reason || code}`));
    this._closed(code === CLOSED_HERE);
  }

  #setState(name, more = {}) {
    const { welcomed } = this.state;
    const offline = globalThis.navigator?.onLine === false;
    this.state = Object.freeze({ name, attempt: 0, welcomed, offline, ...more });
    emit(this, "state", this.state);
  }

  #listen() {
    const { signal } = this.#off;
    const wake = () => this.#wake();
    globalThis.addEventListener?.("online", wake, { signal });
    globalThis.addEventListener?.("pageshow", wake, { signal });
    globalThis.addEventListener?.("offline", wake, { signal });
    globalThis.document?.addEventListener("resume", wake, { signal });
    globalThis.document?.addEventListener(
      "visibilitychange",
      () => document.visibilityState === "visible" && this.#wake(),
      { signal },
    );
  }

  /** Something about this machine changed: is the connection still one? */
  #wake() {
    if (this.state.name === "open") {
      this.#probe(this.options.wakeTimeout);
    } else if (this.state.name === "waiting" && !this.state.told) {
      if (globalThis.navigator?.onLine === false) this.#setState("waiting", { ...this.state, offline: true });
      else this.#open();
    }
  }

  #tick() {
    const now = Date.now();
    const slept = now - this.#tickedAt > 3 * TICK;
    this.#tickedAt = now;
    if (this.state.name === "waiting" && now > this.state.retryAt + TICK) this.#open();
    else if (slept && globalThis.document?.visibilityState !== "hidden") this.#wake();
    else if (this.state.name === "open" && now - this.#heardAt >= this.#silence) {
      this.#probe(this.options.probeTimeout);
    }
  }

  /** Pings are invisible to scripts, so ask something: any frame is an answer. */
  #probe(timeout) {
    if (this.#probeTimer !== undefined) return;
    const began = Date.now();
    this.#probeTimer = setTimeout(() => {
      this.#probeTimer = undefined;
      if (this.#heardAt < began) this.#lost(ABNORMAL, "the server went silent");
    }, timeout);
    this._send('{"type":"ping","id":"alive"}');
  }
}

/** One stream of positions: what came is told once, in order, and a hole is noticed. */
class Feed extends EventTarget {
  #last = 0;
  #queues = new Set();

  constructor(name, type) {
    super();
    this.name = name;
    /** Whether it is live on the connection of this moment. */
    this.joined = false;
    /** Where to resume: `{epoch, offset}`, or null before the first join. */
    this.position = null;
    this._type = type;
  }

  /** Begin or resume at a position; returns whether everything since the last one is coming. */
  _begin(position, recovered) {
    const before = this.position;
    const first = before === null;
    const same = before?.epoch === position.epoch;
    if (first || !recovered || !same) {
      this.#last = first ? position.offset : same ? this.#last : 0;
      this.position = { ...position };
    }
    this.joined = true;
    return first || (recovered && same);
  }

  /** Take a frame: "new" (told), "old" (a duplicate), "gap" (not taken). */
  _take(frame) {
    if (frame.offset <= this.#last) return "old";
    if (frame.offset > this.position.offset + 1) return "gap";
    this.position.offset = Math.max(this.position.offset, frame.offset);
    this.#last = frame.offset;
    emit(this, this._type, frame);
    for (const queue of this.#queues) queue.push(frame);
    return "new";
  }

  /** All up to a position has been given. */
  _reached(position) {
    if (position.epoch !== this.position.epoch) return;
    this.position.offset = Math.max(this.position.offset, position.offset);
    this.#last = Math.max(this.#last, position.offset);
  }

  _end(error) {
    this.joined = false;
    for (const queue of [...this.#queues]) queue.end(error);
  }

  _iterate({ signal, max = 1_000 } = {}) {
    const items = [];
    const queues = this.#queues;
    let failure;
    let done = false;
    let wake = () => {};
    const queue = {
      push(frame) {
        if (items.push(frame) <= max) wake();
        else queue.end(new GatewayError("overrun", `more than ${max} were waiting to be read`));
      },
      end(error) {
        queues.delete(queue);
        done = true;
        failure = error;
        wake();
      },
    };
    const onAbort = () => queue.end(aborted(signal));
    queues.add(queue);
    if (signal?.aborted) onAbort();
    else signal?.addEventListener("abort", onAbort, { once: true });
    const finish = () => {
      queues.delete(queue);
      signal?.removeEventListener("abort", onAbort);
    };
    return {
      async next() {
        while (!items.length && !done) await new Promise((resolve) => (wake = resolve));
        if (items.length) return { done: false, value: items.shift() };
        finish();
        const error = failure;
        failure = undefined;
        if (error) throw error;
        return { done: true, value: undefined };
      },
      async return() {
        queue.end();
        finish();
        return { done: true, value: undefined };
      },
      [Symbol.asyncIterator]() {
        return this;
      },
    };
  }
}

/** One room; made by `Chat.join()`. Events: joined, message, stale, presence, typing, left, error. */
export class Room extends Feed {
  #chat;

  constructor(chat, name, presence) {
    super(name, "message");
    this.#chat = chat;
    this.presence = presence;
    /** Distinct users in the room, as last heard. */
    this.members = 0;
    /** Resolves at the first join; rejects if it is refused or the room is left before. */
    this.ready = new Promise((resolve, reject) => Object.assign(this, { _resolve: resolve, _reject: reject }));
    this.ready.catch(() => {}); // also told as an event
    this._joinId = undefined;
    this._tries = 0;
  }

  /**
   * Say something. It is queued until acknowledged and resent after any break.
   * @param {string} text
   * @param {{key?: string, signal?: AbortSignal}} [options] `key` makes a retry of your own safe.
   *     Aborted, it may or may not have been stored.
   * @returns {Promise<{room: string, offset: number, key: string}>} once it is in the store.
   */
  async publish(text, { key = newKey(), signal } = {}) {
    if (this.#chat.rooms.get(this.name) !== this && this.#chat.state.name !== "closed") {
      throw new GatewayError("left", `the room ${this.name} was left`);
    }
    const command = { type: "message", room: this.name, text, key };
    const ack = await this.#chat._request(command, this, signal);
    return { room: this.name, offset: ack.offset, key };
  }

  /**
   * A page of older messages, oldest first.
   * @param {{before?: number, limit?: number, signal?: AbortSignal}} [options]
   * @returns {Promise<{messages: object[], more: boolean}>}
   */
  history({ before, limit, signal } = {}) {
    return this.#chat._request({ type: "history", room: this.name, before, limit }, undefined, signal);
  }

  /**
   * Who is here: the count always, names up to the server's cap.
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<{count: number, members: string[]}>}
   */
  who({ signal } = {}) {
    return this.#chat._request({ type: "members", room: this.name }, undefined, signal);
  }

  /** Tell the others that this user is typing; lost when there is no connection. */
  typing() {
    if (this.joined) this.#chat._send(JSON.stringify({ type: "typing", room: this.name }));
  }

  /** Leave; what waits to be published here is rejected. */
  leave() {
    this.#chat._leave(this);
  }

  /**
   * Iterate over the messages from now on, through breaks.
   * @param {{signal?: AbortSignal, max?: number}} [options] more than `max` (1000) unread end it
   *     with `overrun`.
   * @returns {AsyncIterableIterator<object>}
   */
  messages(options) {
    return this._iterate(options);
  }

  [Symbol.asyncIterator]() {
    return this._iterate();
  }
}

/** A chat connection. Events: state, welcome, error. */
export class Chat extends Connection {
  /** The rooms that are joined, or to be, by name. */
  rooms = new Map();
  #opening = null;
  #timers = new Set();

  /**
   * Join a room now and after every break. Joining a joined room returns it.
   * @param {string} name
   * @param {{presence?: boolean, since?: {epoch: string, offset: number}, signal?: AbortSignal}}
   *     [options] `since` begins at a position kept from before; aborting the signal leaves.
   * @returns {Room}
   */
  join(name, { presence = false, since, signal } = {}) {
    const known = this.rooms.get(name);
    if (known) return known;
    const room = new Room(this, name, presence);
    if (since) room._begin(since, true);
    room.joined = false;
    this.rooms.set(name, room);
    if (this.state.name === "closed" || signal?.aborted) this._leave(room);
    else if (this.state.name === "open") this.#join(room);
    signal?.addEventListener("abort", () => this._leave(room), { once: true });
    return room;
  }

  _leave(room, error = new GatewayError("left", `the room ${room.name} was left`)) {
    if (this.rooms.get(room.name) !== room) return;
    this.rooms.delete(room.name);
    this._send(JSON.stringify({ type: "leave", room: room.name }));
    this.#drop(room, error);
  }

  #drop(room, error, quietly = error.code === "left") {
    room._end(quietly ? undefined : error);
    room._reject(error);
    this._outbox.fail(error, room);
    emit(room, "left", error);
  }

  _address(url, identified) {
    this.#opening = this.rooms.values().next().value ?? null;
    if (this.user !== null && !identified) url.searchParams.set("user", this.user);
    if (this.#opening) {
      const { name, presence, position } = this.#opening;
      this.#opening._joinId = undefined;
      url.searchParams.set("room", name);
      if (presence) url.searchParams.set("presence", "true");
      if (position) url.searchParams.set("since", `${position.epoch}:${position.offset}`);
    }
    return url;
  }

  _welcomed(welcome) {
    // A connection is in a room from the start. Ours, unless that was left while connecting.
    if (!this.rooms.has(welcome.room)) {
      this._send(JSON.stringify({ type: "leave", room: welcome.room }));
    }
    if (this.rooms.get(this.#opening?.name) !== this.#opening) this.#opening = null;
    for (const room of this.rooms.values()) {
      if (room !== this.#opening) this.#join(room);
    }
  }

  #join(room) {
    room.joined = false;
    room._joinId = `join:${this._outbox.nextId()}`;
    const { name, presence, position } = room;
    const since = position ?? undefined;
    this._send(JSON.stringify({ type: "join", id: room._joinId, room: name, presence, since }));
  }

  #joinFailed(room, frame) {
    if (!isTransient(frame)) {
      emit(room, "error", frame);
      this._leave(room, new GatewayError(frame.code, frame.message, frame.field));
      return;
    }
    room._tries += 1;
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      if (this.rooms.get(room.name) === room && !room.joined) this.#join(room);
    }, (frame.retry ?? 0) + backoff(room._tries, this.options));
    this.#timers.add(timer);
  }

  _strayError(frame) {
    // The room of the address is joined by a command that never had an id.
    const room = this.#opening;
    this.#opening = null;
    if (room && !room.joined && this.rooms.get(room.name) === room) this.#joinFailed(room, frame);
    else emit(this, "error", frame);
  }

  _frame(frame) {
    const room = this.rooms.get(frame.room);
    switch (frame.type) {
      case "joined":
        // One that nobody asked for: the server has missed something itself, and goes on from here.
        if (room && (frame.id === room._joinId || (frame.id === undefined && room.joined))) {
          this.#joined(room, frame);
        }
        return true;
      case "message":
        // A hole in the offsets: ask again from the last message in hand.
        if (room?.joined && room._take(frame) === "gap") this.#join(room);
        return true;
      case "presence":
        if (room?.joined) {
          room.members = frame.count;
          emit(room, "presence", frame);
        }
        return true;
      case "typing":
        if (room?.joined) emit(room, "typing", frame);
        return true;
      case "error":
        for (const waiting of this.rooms.values()) {
          if (waiting._joinId !== frame.id) continue;
          this.#joinFailed(waiting, frame);
          return true;
        }
    }
    return false;
  }

  _resumed() {} // rooms are told each by itself

  #joined(room, frame) {
    if (room === this.#opening) this.#opening = null;
    const resumed = room.position !== null;
    const whole = room._begin(frame.position, frame.recovered);
    room.members = frame.members;
    room._tries = 0;
    if (!whole) emit(room, "stale", { position: frame.position });
    const missed = frame.messages.length;
    const { position, members } = frame;
    emit(room, "joined", { resumed, recovered: whole, missed, members, position });
    for (const message of frame.messages) room._take(message);
    room._reached(frame.position);
    room._resolve(room);
    this._outbox.flush();
  }

  _broken() {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    for (const room of this.rooms.values()) room.joined = false;
  }

  _closed(here) {
    const error = new GatewayError("closed", "the connection is closed for good");
    for (const room of this.rooms.values()) this.#drop(room, error, here);
    this.rooms.clear();
  }
}

/** A shared topic; made by `Notifications.subscribe()`. Events: notification, stale, left, error. */
export class Topic extends Feed {
  #owner;

  constructor(owner, name) {
    super(name, "notification");
    this.#owner = owner;
    this._joinId = undefined;
  }

  /** Receive it no longer. */
  unsubscribe() {
    this.#owner._unsubscribe(this);
  }

  [Symbol.asyncIterator]() {
    return this._iterate();
  }
}

/** A user's notifications. Events: notification, unread, stale, resumed, state, welcome, error. */
export class Notifications extends Connection {
  /** The shared topics, by name. */
  topics = new Map();
  /** How many are unread. */
  unread = 0;
  /** All up to this offset are read. */
  readUpTo = 0;
  #own = new Feed("", "notification");
  #latest = 0;

  constructor(url = "/notifications/ws", options = {}) {
    super(url, options);
    if (options.since) this.#own._begin(options.since, true);
    this.#own.addEventListener("notification", ({ detail }) => {
      this.#latest = Math.max(this.#latest, detail.offset);
      emit(this, "notification", detail);
      this.#count();
    });
  }

  /** Where to resume: `{epoch, offset}`, or null before the first welcome. */
  get position() {
    return this.#own.position;
  }

  /**
   * Mark all up to an offset as read, on every device of this user.
   * @param {number} offset
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<{count: number}>} how many are unread.
   */
  markRead(offset, { signal } = {}) {
    return this._request({ type: "read", offset }, undefined, signal);
  }

  /**
   * A page of older notifications, oldest first.
   * @param {{before?: number, limit?: number, signal?: AbortSignal}} [options]
   * @returns {Promise<{notifications: object[], more: boolean}>}
   */
  list({ before, limit, signal } = {}) {
    return this._request({ type: "list", before, limit }, undefined, signal);
  }

  /**
   * Receive a shared topic too, now and after every break.
   * @param {string} name
   * @param {{signal?: AbortSignal}} [options] aborting the signal unsubscribes.
   * @returns {Topic}
   */
  subscribe(name, { signal } = {}) {
    const topic = this.topics.get(name) ?? new Topic(this, name);
    if (this.topics.get(name) !== topic) {
      this.topics.set(name, topic);
      if (this.state.name === "open") this.#subscribe(topic);
    }
    if (signal?.aborted) this._unsubscribe(topic);
    signal?.addEventListener("abort", () => this._unsubscribe(topic), { once: true });
    return topic;
  }

  /**
   * Iterate over the user's own notifications from now on, through breaks.
   * @param {{signal?: AbortSignal, max?: number}} [options] as `Room.messages()`.
   * @returns {AsyncIterableIterator<object>}
   */
  notifications(options) {
    return this.#own._iterate(options);
  }

  [Symbol.asyncIterator]() {
    return this.#own._iterate();
  }

  _unsubscribe(topic, error) {
    if (this.topics.get(topic.name) !== topic) return;
    this.topics.delete(topic.name);
    this._send(JSON.stringify({ type: "unsubscribe", topic: topic.name }));
    topic._end(error);
    emit(topic, "left", error);
  }

  #subscribe(topic) {
    topic.joined = false;
    topic._joinId = `topic:${this._outbox.nextId()}`;
    const since = topic.position ?? undefined;
    this._send(JSON.stringify({ type: "subscribe", id: topic._joinId, topic: topic.name, since }));
  }

  _address(url, identified) {
    if (this.user !== null && !identified) url.searchParams.set("user", this.user);
    if (this.position) {
      url.searchParams.set("since", `${this.position.epoch}:${this.position.offset}`);
    }
    return url;
  }

  _welcomed(frame) {
    this.#begin(frame);
    for (const topic of this.topics.values()) this.#subscribe(topic);
  }

  _resumed(frame) {
    this.#begin(frame);
    emit(this, "resumed", { position: frame.position, recovered: frame.recovered });
  }

  #begin({ position, recovered, unread }) {
    const whole = this.#own._begin(position, recovered);
    this.#latest = position.offset;
    this.readUpTo = position.offset - unread;
    if (!whole) emit(this, "stale", { position });
    this.#count();
  }

  _frame(frame) {
    switch (frame.type) {
      case "notification": {
        const feed = frame.topic === undefined ? this.#own : this.topics.get(frame.topic);
        if (!feed?.joined || feed._take(frame) !== "gap") return true;
        if (feed === this.#own) this._reconnect("a notification is missing");
        else this.#subscribe(feed);
        return true;
      }
      case "unread":
        this.readUpTo = frame.offset ?? this.#latest - frame.count;
        this.#count();
        return true;
      case "subscribed": {
        const topic = this.topics.get(frame.topic);
        // As in the chat, one that nobody asked for is the server's.
        if (!topic || (frame.id !== topic._joinId && !(frame.id === undefined && topic.joined))) {
          return true;
        }
        if (!topic._begin(frame.position, frame.recovered ?? true)) {
          emit(topic, "stale", { position: frame.position });
        }
        return true;
      }
      case "error":
        for (const topic of this.topics.values()) {
          if (topic._joinId !== frame.id) continue;
          if (isTransient(frame)) {
            setTimeout(() => {
              if (this.topics.get(topic.name) === topic && !topic.joined) this.#subscribe(topic);
            }, (frame.retry ?? 0) + backoff(2, this.options));
          } else {
            emit(topic, "error", frame);
            this._unsubscribe(topic, new GatewayError(frame.code, frame.message, frame.field));
          }
          return true;
        }
    }
    return false;
  }

  #count() {
    this.unread = Math.max(0, this.#latest - this.readUpTo);
    emit(this, "unread", { count: this.unread, offset: this.readUpTo });
  }

  _strayError(frame) {
    emit(this, "error", frame);
  }

  _broken() {
    this.#own.joined = false;
    for (const topic of this.topics.values()) topic.joined = false;
  }

  _closed(here) {
    const error = here ? undefined : new GatewayError("closed", "the connection is closed for good");
    this.#own._end(error);
    for (const topic of this.topics.values()) topic._end(error);
    this.topics.clear();
  }
}
