// npm `ws` on Node: `node ws.cjs echo|broadcast`, as the other peers.
"use strict";
const { WebSocketServer } = require("ws");

const role = process.argv[2];
const server = new WebSocketServer({ host: "127.0.0.1", port: 0, perMessageDeflate: false });

server.on("connection", (connection) => {
  connection.on("error", () => {});
  connection.on("message", (data, isBinary) => {
    if (role === "echo") {
      connection.send(data, { binary: isBinary });
    } else {
      for (const each of server.clients) each.send(data, { binary: isBinary });
    }
  });
});
server.on("listening", () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
