import { Chat, Notifications, Room, GatewayError, type ChatMessage } from "./gateway.js";
const chat = new Chat("/", { user: "ann", token: async ({ signal }) => signal.aborted ? "" : "t" });
chat.addEventListener("state", ({ detail }) => { if (detail.name === "waiting") detail.retryAt.toFixed(); });
const room: Room = chat.join("lobby", { presence: true });
room.addEventListener("message", ({ detail }) => { const text: string = detail.text; text.trim(); });
// @ts-expect-error no such event
room.addEventListener("massage", () => {});
// @ts-expect-error a room is made by Chat.join()
new Room();
async function all(): Promise<ChatMessage[]> { const r: ChatMessage[] = []; for await (const m of room.messages({ max: 3 })) r.push(m); return r; }
const notes = new Notifications(undefined, { WebSocket });
notes.addEventListener("unread", ({ detail }) => detail.count + 1);
export { all, GatewayError };
