// gateway.js against a server that the test plays, in virtual time; run by test_node.py with
// `node --test`.

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, mock, test } from "node:test";

const machine = new EventTarget(); // the browser's window, of which the client wants the events only
globalThis.addEventListener = machine.addEventListener.bind(machine);
let onLine = true;
Object.defineProperty(globalThis, "navigator", { value: { get onLine() { return onLine; } }, configurable: true });
const { Chat, Notifications, backoff } = await import("../../trio_gateway/http/page/gateway.js");

const settle = async () => {
  for (let n = 0; n < 5; n++) await new Promise((resolve) => setImmediate(resolve));
};

class Socket extends EventTarget {
  static all = [];
  readyState = 1;
  sent = [];
  constructor(url, protocols) {
    super();
    Object.assign(this, { url: new URL(url), protocols });
    Socket.all.push(this);
  }
  send(text) {
    this.sent.push(JSON.parse(text));
  }
  close(code) {
    this.closedWith = code;
    this.readyState = 2;
  }
  say(frame) {
    this.dispatchEvent(Object.assign(new Event("message"), { data: JSON.stringify(frame) }));
  }
  end(code, reason = "") {
    this.readyState = 3;
    this.dispatchEvent(Object.assign(new Event("close"), { code, reason }));
  }
  welcome(room = "lobby") {
    this.say({ type: "welcome", user: "ann", connection: "c", room, heartbeat: 25 });
  }
  joined(offset, messages = [], more = {}) {
    const frame = { type: "joined", room: "lobby", position: { epoch: "e", offset }, members: 1 };
    this.say({ ...frame, recovered: true, messages, ...more });
  }
  message(offset, text = `text ${offset}`) {
    this.say({ type: "message", room: "lobby", offset, user: "bob", text, time: "t" });
  }
  of(type) {
    return this.sent.filter((command) => command.type === type);
  }
}

const last = () => Socket.all.at(-1);
const message = (offset) => ({ type: "message", room: "lobby", offset, user: "bob", text: `text ${offset}` });
let open = [];

/** A chat that is welcomed and in the lobby at offset 10. */
async function lobby(options = {}) {
  const chat = new Chat("http://gateway.test/", { WebSocket: Socket, user: "ann", ...options });
  open.push(chat);
  const room = chat.join("lobby");
  await settle();
  last().welcome();
  last().joined(10);
  await settle();
  const heard = [];
  room.addEventListener("message", ({ detail }) => heard.push(detail.offset));
  return { chat, room, heard };
}

async function comeBack(chat) {
  mock.timers.tick(chat.state.delay);
  await settle();
  last().welcome();
}

beforeEach(() => {
  Socket.all = [];
  onLine = true;
  mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"], now: 1_000_000 });
});
afterEach(() => {
  for (const each of open) each.close();
  open = [];
  mock.timers.reset();
  mock.restoreAll();
});

describe("close codes", () => {
  for (const code of [1000, 1001, 1002, 1003, 1007, 1008, 1009, 4401, 4403]) {
    test(`${code} is final`, async () => {
      const { chat, room } = await lobby({ token: "t" });
      const waiting = assert.rejects(room.publish("x"), { code: "closed" });
      last().end(code, "because");
      assert.deepEqual([chat.state.name, chat.state.code, chat.state.reason], ["closed", code, "because"]);
      await waiting;
      mock.timers.tick(100_000);
      await settle();
      assert.equal(Socket.all.length, 1);
    });
  }
  for (const [code, least] of [[1005, 0], [1006, 0], [1011, 0], [1013, 0], [4408, 0], [4429, 5_000]]) {
    test(`${code} comes back with full jitter`, async () => {
      const { chat } = await lobby();
      mock.method(Math, "random", () => 0.5);
      last().end(code);
      assert.deepEqual([chat.state.name, chat.state.delay], ["waiting", least + 500]);
      mock.timers.tick(chat.state.delay);
      await settle();
      assert.equal(Socket.all.length, 2);
      last().end(code); // before its welcome: the cap doubles
      assert.deepEqual([chat.state.attempt, chat.state.delay], [2, least + 1_000]);
    });
  }
  test("1012 comes back when it says, whatever else happens", async () => {
    const { chat } = await lobby();
    last().end(1012, "retry 4321");
    assert.deepEqual([chat.state.told, chat.state.delay], [true, 4321]);
    machine.dispatchEvent(new Event("online"));
    mock.timers.tick(4320);
    await settle();
    assert.equal(Socket.all.length, 1);
    mock.timers.tick(1);
    await settle();
    assert.equal(Socket.all.length, 2);
  });
  test("4401 asks a provider for another token", async () => {
    let given = 0;
    const { chat } = await lobby({ token: async () => `token-${++given}` });
    assert.deepEqual(last().protocols, ["bearer", "token-1"]);
    assert.equal(last().url.searchParams.has("user"), false);
    last().end(4401);
    await comeBack(chat);
    assert.deepEqual(last().protocols, ["bearer", "token-2"]);
  });
});

test("the back-off stays below its cap", () => {
  mock.method(Math, "random", () => 0.999);
  const delays = [1, 5, 50, 5_000].map((failures) => backoff(failures));
  assert.deepEqual(delays.map(Math.floor), [999, 15984, 29970, 29970]);
});

test("it resumes at the last message it has, and drops what comes twice", async () => {
  const { chat, heard } = await lobby();
  last().message(11);
  last().message(11);
  last().end(1006);
  await comeBack(chat);
  assert.equal(last().url.searchParams.get("since"), "e:11");
  last().joined(13, [message(12), message(13)]);
  last().message(13);
  last().message(14);
  assert.deepEqual(heard, [11, 12, 13, 14]);
});

test("what is not a frame is nothing", async () => {
  const { chat } = await lobby();
  for (const data of ["null", "17", "[", "{}", '{"type":"tomorrow"}']) {
    last().dispatchEvent(Object.assign(new Event("message"), { data }));
  }
  assert.equal(chat.state.name, "open");
});

test("a hole in the offsets is asked for", async () => {
  const { heard } = await lobby();
  last().message(11);
  last().message(13);
  const [join] = last().of("join");
  assert.deepEqual(join.since, { epoch: "e", offset: 11 });
  last().message(14); // of the subscription before
  last().joined(14, [message(12), message(13), message(14)], { id: join.id });
  last().message(15);
  assert.deepEqual(heard, [11, 12, 13, 14, 15]);
});

test("what is not kept any more is told before what is", async () => {
  const { chat, room } = await lobby();
  const told = [];
  for (const type of ["stale", "joined", "message"]) room.addEventListener(type, () => told.push(type));
  last().end(1006);
  await comeBack(chat);
  last().joined(2, [message(1), message(2)], { position: { epoch: "f", offset: 2 }, recovered: false });
  last().message(3);
  assert.deepEqual(told, ["stale", "joined", "message", "message", "message"]);
  assert.deepEqual(room.position, { epoch: "f", offset: 3 });
});

describe("a joined that nobody asked for", () => {
  async function listening(room) {
    const told = [];
    for (const type of ["stale", "joined"]) room.addEventListener(type, ({ detail }) => told.push([type, detail]));
    return told;
  }
  test("fills what the server itself had missed", async () => {
    const { chat, room, heard } = await lobby();
    const told = await listening(room);
    last().message(11);
    last().joined(14, [message(12), message(13), message(14)]);
    last().message(15);
    assert.deepEqual(heard, [11, 12, 13, 14, 15]);
    assert.deepEqual(told.map(([type, { recovered, missed }]) => [type, recovered, missed]), [["joined", true, 3]]);
    last().end(1006);
    await comeBack(chat);
    assert.equal(last().url.searchParams.get("since"), "e:15");
  });
  test("says that a history is lost, and goes on in the new one", async () => {
    const { chat, room, heard } = await lobby();
    const told = await listening(room);
    last().joined(2, [message(1), message(2)], { position: { epoch: "f", offset: 2 }, recovered: false });
    last().message(3);
    assert.deepEqual([heard, told.map(([type]) => type)], [[1, 2, 3], ["stale", "joined"]]);
    assert.equal(Socket.all.length, 1);
    last().end(1006);
    await comeBack(chat);
    assert.equal(last().url.searchParams.get("since"), "f:3");
  });
  test("is heard in a room that was joined by a command", async () => {
    const { chat } = await lobby();
    const room = chat.join("tea");
    const heard = [];
    room.addEventListener("message", ({ detail }) => heard.push(detail.offset));
    const tea = (id, epoch, offset) =>
      last().say({ type: "joined", id, room: "tea", position: { epoch, offset }, members: 1, recovered: false, messages: [] });
    tea(undefined, "x", 7); // before ours is answered: it is not about us
    assert.equal(room.joined, false);
    tea(last().of("join")[0].id, "x", 7);
    tea(undefined, "y", 0);
    last().say({ type: "message", room: "tea", offset: 1, user: "bob", text: "t", time: "t" });
    assert.deepEqual([heard, room.position], [[1], { epoch: "y", offset: 1 }]);
  });
  test("does not disturb what waits to be acknowledged", async () => {
    const { room } = await lobby();
    const waiting = room.publish("hello");
    last().joined(1, [message(1)], { position: { epoch: "f", offset: 1 }, recovered: false });
    assert.equal(last().of("message").length, 1);
    last().say({ type: "ack", id: last().of("message")[0].id, room: "lobby", offset: 1 });
    assert.equal((await waiting).offset, 1);
  });
});

describe("the outgoing queue", () => {
  test("is kept through breaks, in order, under the same keys", async () => {
    const { chat, room } = await lobby();
    const both = [room.publish("one"), room.publish("two")];
    const before = last().of("message");
    last().end(1006);
    const third = room.publish("three");
    await comeBack(chat);
    assert.deepEqual(last().of("message"), []); // not before the room is joined
    last().joined(10);
    const after = last().of("message");
    assert.deepEqual(after.slice(0, 2), before);
    assert.deepEqual(after.map(({ text }) => text), ["one", "two", "three"]);
    assert.equal(new Set(after.map(({ key }) => key)).size, 3);
    after.forEach(({ id }, n) => last().say({ type: "ack", id, room: "lobby", offset: 11 + n }));
    const offsets = (await Promise.all([...both, third])).map(({ offset }) => offset);
    assert.deepEqual(offsets, [11, 12, 13]);
    assert.equal(chat.pending, 0);
  });
  test("tries again what the server can't take now, and tells what it won't", async () => {
    const { room } = await lobby();
    const [later, never] = [room.publish("later"), room.publish("never")];
    const [first, second] = last().of("message");
    last().say({ type: "error", id: first.id, code: "rate_limited", message: "slower", retry: 2_000 });
    last().say({ type: "error", id: second.id, code: "invalid_field", message: "no", field: "text" });
    await assert.rejects(never, { code: "invalid_field", field: "text" });
    mock.timers.tick(1_999);
    assert.equal(last().of("message").length, 2);
    mock.timers.tick(1_100);
    assert.equal(last().of("message").length, 3);
    last().say({ type: "ack", id: first.id, room: "lobby", offset: 11 });
    assert.equal((await later).offset, 11);
  });
  test("has bounds", async () => {
    const { room } = await lobby({ maxQueued: 2 });
    room.publish("one").catch(() => {});
    room.publish("two").catch(() => {});
    await assert.rejects(room.publish("three"), { code: "queue_full" });
    await assert.rejects(room.publish("x".repeat(2 ** 21)), { code: "queue_full" });
  });
  test("sends no more than it may before the first answer", async () => {
    const { room } = await lobby({ maxInFlight: 2 });
    for (let n = 0; n < 5; n++) room.publish(`${n}`).catch(() => {});
    await settle();
    assert.equal(last().of("message").length, 2);
    last().say({ type: "ack", id: last().sent[0].id, room: "lobby", offset: 11 });
    assert.equal(last().of("message").length, 3);
  });
  test("forgets what is aborted", async () => {
    const { chat, room } = await lobby();
    const stop = new AbortController();
    const publishing = room.publish("x", { signal: stop.signal });
    stop.abort(new Error("enough"));
    await assert.rejects(publishing, /enough/);
    await assert.rejects(room.publish("y", { signal: stop.signal }), /enough/);
    last().end(1006);
    await comeBack(chat);
    last().joined(10);
    assert.deepEqual(last().of("message"), []);
  });
  test("of a room that is left is rejected", async () => {
    const { room } = await lobby();
    const left = assert.rejects(room.publish("x"), { code: "left" });
    room.leave();
    await left;
    await assert.rejects(room.publish("y"), { code: "left" });
    assert.equal(last().of("leave").length, 1);
  });
});

describe("a silent connection", () => {
  test("is asked for a sign of life, and any frame is one", async () => {
    const { chat } = await lobby();
    mock.timers.tick(26_000);
    assert.equal(last().of("ping").length, 1);
    last().say({ type: "error", id: "alive", code: "unknown_type", message: "?" });
    mock.timers.tick(20_000);
    assert.equal(chat.state.name, "open");
  });
  test("is given up without waiting for its Close frame", async () => {
    const { chat } = await lobby();
    const dead = last();
    mock.timers.tick(26_000);
    mock.timers.tick(10_000);
    assert.deepEqual([chat.state.name, chat.state.reason], ["waiting", "the server went silent"]);
    assert.equal(dead.readyState, 2);
    dead.message(11); // too late
    assert.equal(chat.rooms.get("lobby").position.offset, 10);
  });
  test("is noticed quickly by a machine that slept", async () => {
    const { chat } = await lobby();
    mock.timers.tick(2_000);
    const awake = Date.now;
    mock.method(Date, "now", () => awake() + 600_000);
    mock.timers.tick(2_000); // its first tick after it
    assert.equal(last().of("ping").length, 1);
    mock.timers.tick(2_999);
    assert.equal(chat.state.name, "open");
    mock.timers.tick(1);
    assert.deepEqual([chat.state.name, chat.state.reason], ["waiting", "the server went silent"]);
  });
  test("is looked at when the network changes", async () => {
    await lobby();
    machine.dispatchEvent(new Event("online"));
    assert.equal(last().of("ping").length, 1);
  });
});

test("without a network it waits for one, and comes back at once", async () => {
  const { chat } = await lobby();
  onLine = false;
  last().end(1006);
  assert.deepEqual([chat.state.offline, chat.state.delay], [true, 30_000]);
  onLine = true;
  machine.dispatchEvent(new Event("online"));
  await settle();
  assert.equal(Socket.all.length, 2);
});

test("an attempt that leads nowhere is given up", async () => {
  const chat = new Chat("ws://gateway.test/", { WebSocket: Socket, connectTimeout: 1_000 });
  open.push(chat);
  await settle();
  mock.timers.tick(1_000);
  assert.deepEqual([chat.state.name, chat.state.refused], ["waiting", true]);
});

test("a join that the store can't serve now is tried again", async () => {
  const chat = new Chat("ws://gateway.test/", { WebSocket: Socket });
  open.push(chat);
  const room = chat.join("lobby");
  await settle();
  last().welcome();
  last().say({ type: "error", code: "store_unavailable", message: "later" });
  mock.timers.tick(30_000);
  const [join] = last().of("join");
  last().joined(0, [], { id: join.id });
  assert.equal(await room.ready, room);
});

test("a join that is refused is told, once", async () => {
  const { chat } = await lobby();
  const room = chat.join("secret");
  const told = [];
  room.addEventListener("error", ({ detail }) => told.push(detail.code));
  room.addEventListener("left", ({ detail }) => told.push(`left: ${detail.code}`));
  last().say({ type: "error", id: last().of("join")[0].id, code: "forbidden", message: "no" });
  await assert.rejects(room.ready, { code: "forbidden" });
  assert.deepEqual(told, ["forbidden", "left: forbidden"]);
  assert.equal(chat.rooms.has("secret"), false);
});

test("with no room wanted, the one of the connection is left", async () => {
  const chat = new Chat("ws://gateway.test/", { WebSocket: Socket });
  open.push(chat);
  await settle();
  last().welcome();
  assert.deepEqual(last().sent, [{ type: "leave", room: "lobby" }]);
});

describe("iteration", () => {
  test("gives what comes, and ends with the signal", async () => {
    const { room } = await lobby();
    const stop = new AbortController();
    const messages = room.messages({ signal: stop.signal });
    last().message(11);
    last().message(12);
    assert.equal((await messages.next()).value.offset, 11);
    stop.abort(new Error("enough"));
    assert.equal((await messages.next()).value.offset, 12);
    await assert.rejects(messages.next(), /enough/);
    assert.equal((await messages.next()).done, true);
  });
  test("that nobody reads ends, and says so", async () => {
    const { room } = await lobby();
    const messages = room.messages({ max: 2 });
    for (const offset of [11, 12, 13]) last().message(offset);
    for (let n = 0; n < 3; n++) await messages.next();
    await assert.rejects(messages.next(), { code: "overrun" });
  });
  test("ends quietly with the connection that was closed here", async () => {
    const { chat, room } = await lobby();
    const next = room.messages().next();
    chat.close();
    assert.equal((await next).done, true);
    assert.equal(last().closedWith, 1000);
    await assert.rejects(room.publish("x"), { code: "closed" });
  });
});

describe("notifications", () => {
  const welcome = (offset, unread, more = {}) => {
    const frame = { type: "welcome", user: "ann", position: { epoch: "e", offset }, heartbeat: 25 };
    last().say({ ...frame, unread, recovered: true, ...more });
  };
  const notification = (offset) => last().say({ type: "notification", offset, title: `${offset}` });
  async function start() {
    const notifications = new Notifications("ws://gateway.test/notifications/ws", { WebSocket: Socket });
    open.push(notifications);
    await settle();
    const heard = [];
    notifications.addEventListener("notification", ({ detail }) => heard.push(detail.offset));
    return { notifications, heard };
  }

  test("are counted, and resumed at the last that came", async () => {
    const { notifications, heard } = await start();
    welcome(5, 2);
    notification(6);
    assert.deepEqual([notifications.unread, notifications.readUpTo], [3, 3]);
    last().end(1006);
    mock.timers.tick(notifications.state.delay);
    await settle();
    assert.equal(last().url.searchParams.get("since"), "e:6");
    welcome(8, 5);
    notification(7);
    last().end(1006); // between the welcome and all that it promised
    mock.timers.tick(notifications.state.delay);
    await settle();
    assert.equal(last().url.searchParams.get("since"), "e:7");
    welcome(8, 5);
    notification(8);
    assert.deepEqual(heard, [6, 7, 8]);
    const marking = notifications.markRead(8);
    const [read] = last().of("read");
    last().say({ type: "unread", id: read.id, count: 0, offset: 8 });
    assert.equal((await marking).count, 0);
    assert.equal(notifications.unread, 0);
  });
  test("of a shared topic are its own", async () => {
    const { notifications, heard } = await start();
    const topic = notifications.subscribe("deploys");
    const shared = [];
    topic.addEventListener("notification", ({ detail }) => shared.push(detail.offset));
    welcome(5, 0);
    const [subscribe] = last().of("subscribe");
    last().say({ type: "subscribed", id: subscribe.id, topic: "deploys", position: { epoch: "x", offset: 1 } });
    last().say({ type: "notification", topic: "deploys", offset: 2, title: "t" });
    assert.deepEqual([shared, heard, notifications.unread], [[2], [], 0]);
  });
  test("that are not kept any more are told", async () => {
    const { notifications } = await start();
    welcome(5, 0);
    let stale = 0;
    notifications.addEventListener("stale", () => (stale += 1));
    last().end(1006);
    mock.timers.tick(notifications.state.delay);
    await settle();
    welcome(1, 1, { position: { epoch: "f", offset: 1 }, recovered: false });
    notification(1);
    assert.deepEqual([stale, notifications.unread], [1, 1]);
  });
  test("go on through a second welcome, which says what the server had missed", async () => {
    const { notifications, heard } = await start();
    const topic = notifications.subscribe("deploys");
    const told = [];
    for (const type of ["stale", "resumed", "welcome"]) notifications.addEventListener(type, () => told.push(type));
    welcome(5, 0);
    const [subscribe] = last().of("subscribe");
    last().say({ type: "subscribed", id: subscribe.id, topic: "deploys", position: { epoch: "x", offset: 1 } });
    welcome(7, 2);
    notification(6);
    notification(7);
    welcome(2, 2, { position: { epoch: "f", offset: 2 }, recovered: false });
    for (const offset of [1, 2, 3]) notification(offset);
    assert.deepEqual(heard, [6, 7, 1, 2, 3]);
    assert.deepEqual(told, ["welcome", "resumed", "stale", "resumed"]);
    assert.deepEqual([notifications.unread, notifications.position], [3, { epoch: "f", offset: 3 }]);
    assert.deepEqual([notifications.state.name, last().of("subscribe").length], ["open", 1]);
    last().end(1006);
    mock.timers.tick(notifications.state.delay);
    await settle();
    assert.equal(last().url.searchParams.get("since"), "f:3");
    assert.equal(topic.joined, false);
  });
  test("of a shared topic go on where the server says", async () => {
    const { notifications } = await start();
    const topic = notifications.subscribe("deploys");
    const told = [];
    for (const type of ["notification", "stale"]) topic.addEventListener(type, ({ detail }) => told.push(detail.offset ?? type));
    const subscribed = (epoch, offset, more) =>
      last().say({ type: "subscribed", topic: "deploys", position: { epoch, offset }, ...more });
    const come = (...offsets) => {
      for (const offset of offsets) last().say({ type: "notification", topic: "deploys", offset, title: "t" });
    };
    welcome(5, 0);
    subscribed("w", 9, { recovered: false }); // before ours is answered: it is not about us
    subscribed("x", 1, { id: last().of("subscribe")[0].id, recovered: true });
    subscribed("x", 3, { recovered: true });
    come(2, 3, 4);
    subscribed("y", 1, { recovered: false });
    come(1, 2);
    assert.deepEqual(told, [2, 3, 4, "stale", 1, 2]);
    assert.deepEqual(topic.position, { epoch: "y", offset: 2 });
  });
});
