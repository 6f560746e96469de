// The mistake that this gateway exists for: two WebSocket servers of npm `ws` on one HTTP server.
//
//     npm install ws@8
//     python -m trio_gateway storm ws://127.0.0.1:3000/ --fault well-behaved --restart "exec node ws_two_servers.mjs 3000"
//
// Each of the two answers every upgrade. At "/" the second finds that the path is not its own and
// writes "400 Bad Request" into the WebSocket that the first has just opened. At "/notifications/ws"
// both want the socket, `handleUpgrade() was called more than once`, and the process dies.
import { createServer } from "node:http";
import { WebSocketServer } from "ws";

const server = createServer((_request, response) => response.writeHead(404).end());
const chat = new WebSocketServer({ server });
const notifications = new WebSocketServer({ server, path: "/notifications/ws" });

for (const each of [chat, notifications]) {
  each.on("connection", (socket) => {
    socket.on("error", () => {});
    socket.on("message", (data, binary) => socket.send(data, { binary }));
  });
}

server.listen(Number(process.argv[2] ?? 3000), "127.0.0.1");
