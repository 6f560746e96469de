// Publishes in two rooms and listens to them, through whatever happens to the connection, until its
// stdin ends, which says how many notifications there were; then waits until all is acknowledged and
// heard, and reports. Arguments: URL, the number of messages to keep in flight.

import { Chat, Notifications } from "../../trio_gateway/http/page/gateway.js";

const [url, inFlight] = process.argv.slice(2);
const QUICK = {
  backoffBase: 10,
  backoffCap: 80,
  silence: 400,
  probeTimeout: 300,
  connectTimeout: 2_000,
  ...(process.env.WS_MODULE ? { WebSocket: (await import(process.env.WS_MODULE)).WebSocket } : {}),
};
const ROOMS = ["red", "blue"];
const report = { published: {}, heard: {}, acked: {}, stale: 0, opens: 0, notes: [], failed: [] };

const chat = new Chat(url, { ...QUICK, user: "publisher" });
const listener = new Chat(url, { ...QUICK, user: "listener" });
const notifications = new Notifications(new URL("/notifications/ws", url), { ...QUICK, user: "listener" });
chat.addEventListener("state", ({ detail }) => (report.opens += detail.name === "open"));

let going = true;
let notes = "";
process.stdin.on("data", (text) => (notes += text)).on("end", () => (going = false));
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function publish(name) {
  const room = chat.join(name);
  report.published[name] = 0;
  report.acked[name] = [];
  for (let n = 0; going; n++) {
    report.published[name] = n + 1;
    room.publish(`${name} ${n}`).then(
      ({ offset }) => (report.acked[name][n] = offset),
      (error) => report.failed.push(String(error)),
    );
    while (going && chat.pending >= Number(inFlight)) await pause(2);
    await pause(8);
  }
}

async function hear(name) {
  const room = listener.join(name);
  report.heard[name] = [];
  room.addEventListener("stale", () => (report.stale += 1));
  await room.ready;
  for await (const { text, offset } of room.messages({ max: 10_000 })) report.heard[name].push([offset, text]);
}

notifications.addEventListener("notification", ({ detail }) => report.notes.push(detail.title));
notifications.addEventListener("stale", () => (report.stale += 1));
for (const name of ROOMS) hear(name);
await Promise.all(ROOMS.map((name) => listener.join(name).ready));
if (notifications.state.name !== "open") {
  await new Promise((resolve) => notifications.addEventListener("welcome", resolve, { once: true }));
}
console.log("ready");
await Promise.all(ROOMS.map(publish));

const whole = () =>
  chat.pending === 0 &&
  report.notes.length >= Number(notes) &&
  ROOMS.every((name) => report.heard[name].length >= report.published[name]);
for (let waited = 0; !whole() && waited < 10_000; waited += 20) await pause(20);
await pause(300); // for doubles
for (const each of [chat, listener, notifications]) each.close();
console.log(JSON.stringify(report));
