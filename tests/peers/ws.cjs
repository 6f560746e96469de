// npm `ws` as a client: `node ws.cjs SCENARIO URL [CA.pem]`. Prints one line of JSON.
"use strict";
const { readFileSync } = require("fs");
const WebSocket = require(process.env.WS_MODULE);

const [scenario, url, authority] = process.argv.slice(2);
const options = authority ? { ca: readFileSync(authority) } : {};

const report = (value) => console.log(JSON.stringify(value));
const open = (client) => new Promise((resolve, reject) => client.once("open", resolve).once("error", reject));
const message = (client) =>
  new Promise((resolve) => client.once("message", (data, isBinary) => resolve({ data, isBinary })));
const closed = (client) =>
  new Promise((resolve) => client.once("close", (code, reason) => resolve({ code, reason: reason.toString() })));
const pong = (client) => new Promise((resolve) => client.once("pong", (data) => resolve(data.toString())));

const scenarios = {
  async echo() {
    const client = new WebSocket(url, options);
    await open(client);
    const sizes = [];
    for (const sent of ["text", "", "ž🐎", "x".repeat(1 << 20), Buffer.from("bytes"), Buffer.alloc(0), Buffer.alloc(1 << 20)]) {
      const echoed = message(client);
      client.send(sent);
      const { data, isBinary } = await echoed;
      if (isBinary !== Buffer.isBuffer(sent)) throw new Error("another kind of message");
      if (Buffer.compare(data, Buffer.from(sent)) !== 0) throw new Error("another message");
      sizes.push(data.length);
    }
    const last = closed(client);
    client.close(1000);
    report({ sizes, extensions: client.extensions, ...(await last) });
  },

  async fragments() {
    const client = new WebSocket(url, options);
    await open(client);
    const echoed = message(client);
    client.send("one ", { fin: false });
    client.send("", { fin: false });
    client.ping();
    client.send("message", { fin: true });
    const { data } = await echoed;
    const last = closed(client);
    client.close();
    report({ text: data.toString(), ...(await last) });
  },

  async burst() {
    const client = new WebSocket(url, options);
    await open(client);
    let next = 0;
    let ordered = true;
    const all = new Promise((resolve) =>
      client.on("message", (data) => {
        ordered = ordered && data.toString() === String(next);
        next += 1;
        if (next === 2000) resolve();
      }),
    );
    for (let number = 0; number < 2000; number += 1) client.send(String(number));
    await all;
    const last = closed(client);
    client.close();
    await last;
    report({ count: next, ordered });
  },

  async pings() {
    const client = new WebSocket(url, options);
    await open(client);
    const pongs = [];
    for (const payload of ["", "marco", "x".repeat(125)]) {
      const answer = pong(client);
      client.ping(payload);
      pongs.push(await answer);
    }
    const last = closed(client);
    client.close();
    await last;
    report({ pongs });
  },

  async listen() {
    const client = new WebSocket(url, process.env.OFFERED ? process.env.OFFERED.split(",") : [], options);
    const messages = [];
    const pings = [];
    client.on("message", (data) => messages.push(data.toString()));
    client.on("ping", (data) => pings.push(data.toString()));
    const last = closed(client);
    await open(client);
    report({ protocol: client.protocol, ...(await last), messages, pings: pings.length });
  },

  async close() {
    const client = new WebSocket(url, options);
    await open(client);
    const last = closed(client);
    client.close(Number(process.env.CODE), process.env.REASON);
    report(await last);
  },

  async terminate() {
    const client = new WebSocket(url, options);
    await open(client);
    const last = closed(client);
    client.terminate();
    report(await last);
  },

  async rejected() {
    const client = new WebSocket(url, options);
    const response = await new Promise((resolve) =>
      client.once("unexpected-response", (_, incoming) => resolve(incoming)),
    );
    let body = "";
    for await (const chunk of response) body += chunk;
    report({ status: response.statusCode, phrase: response.statusMessage, why: response.headers["x-why"], body });
  },

  async large() {
    const client = new WebSocket(url, options);
    client.on("error", () => {});
    const last = closed(client);
    await open(client);
    client.send(Buffer.alloc(8 << 20));
    report(await last);
  },
};

scenarios[scenario]().catch((error) => {
  console.error(error);
  process.exit(1);
});
