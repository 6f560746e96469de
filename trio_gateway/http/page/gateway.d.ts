/** The types of gateway.js, a client of trio_gateway. Needs the libraries ES2022 and DOM. */

/** Where a stream stands: offsets of one stream and epoch rise by one. */
export interface Position {
  epoch: string;
  offset: number;
}

export interface ChatMessage {
  type: "message";
  room: string;
  offset: number;
  user: string;
  text: string;
  /** RFC 3339. */
  time: string;
}

export interface Notification {
  type: "notification";
  /** The shared topic it is of; absent for the user's own. */
  topic?: string;
  offset: number;
  title: string;
  body: string;
  data: Record<string, unknown>;
  /** RFC 3339. */
  time: string;
  read: boolean;
}

/** What a connection is doing. */
export type State = Readonly<
  {
    /** Failures in a row. */
    attempt: number;
    /** Whether the server has ever welcomed this client. */
    welcomed: boolean;
    /** Whether the browser says that there is no network. */
    offline: boolean;
  } & (
    | { name: "connecting" | "open" }
    | {
        name: "waiting";
        /** Milliseconds until the next attempt. */
        delay: number;
        /** When that is, as `Date.now()` counts. */
        retryAt: number;
        /** Whether the server named the delay (1012). */
        told: boolean;
        /** Whether the attempt ended before the welcome. */
        refused: boolean;
        code: number;
        reason: string;
      }
    | { name: "closed"; code: number; reason: string }
  )
>;

export interface ErrorFrame {
  type: "error";
  id?: string | number;
  code: string;
  message: string;
  field?: string;
}

export interface Aborting {
  signal?: AbortSignal;
}

export type TokenProvider = (options: { signal: AbortSignal }) => string | Promise<string>;

/** All times in milliseconds. */
export interface Options extends Aborting {
  /** The name, where the server takes clients at their word. */
  user?: string;
  /** A token, or what gives one for each attempt; sent as the subprotocol pair `bearer, TOKEN`. */
  token?: string | TokenProvider;
  /** A constructor like the browser's; needed on Node.js 20. */
  WebSocket?: new (url: string, protocols: string[]) => unknown;
  /** The first cap of the full-jitter back-off (500). */
  backoffBase?: number;
  /** The last (30,000). */
  backoffCap?: number;
  /** A connection that lasted this long starts the back-off anew (5,000). */
  settledAfter?: number;
  /** From an attempt to the welcome (15,000). */
  connectTimeout?: number;
  /** For an answer after a silence (10,000). */
  probeTimeout?: number;
  /** For an answer after waking up or a change of network (3,000). */
  wakeTimeout?: number;
  /** The longest silence before the server is asked for a sign of life (25,000). */
  silence?: number;
  /** Commands that may wait for replies (1,000). */
  maxQueued?: number;
  /** The same in characters of JSON (1,048,576). */
  maxQueuedBytes?: number;
  /** Commands sent before the first of them is answered (64). */
  maxInFlight?: number;
}

/** Why a command or a connection failed. */
export class GatewayError extends Error {
  constructor(code: string, message: string, field?: string);
  /** An `error` frame's code, or `closed`, `left`, `queue_full`, `overrun`. */
  readonly code: string;
  readonly field?: string;
}

/** Full jitter, in milliseconds. */
export function backoff(
  failures: number,
  options?: { backoffBase: number; backoffCap: number },
): number;

/** An EventTarget, of which only these CustomEvents can be listened to. */
declare class TypedTarget<Events> {
  addEventListener<K extends keyof Events & string>(
    type: K,
    listener: (event: CustomEvent<Events[K]>) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof Events & string>(
    type: K,
    listener: (event: CustomEvent<Events[K]>) => void,
    options?: boolean | EventListenerOptions,
  ): void;
  dispatchEvent(event: Event): boolean;
}

export interface ConnectionEvents {
  /** It does something else now. */
  state: State;
  /** The server's first frame, on each connection. */
  welcome: { user: string; connection: string; heartbeat: number; server: string };
  /** An error that answers no command of this client. */
  error: ErrorFrame;
}

/** What `Chat` and `Notifications` share. */
declare class Connection<Events extends ConnectionEvents> extends TypedTarget<Events> {
  readonly state: State;
  readonly user: string | null;
  /** Commands that wait for their replies. */
  readonly pending: number;
  /** Close for good; what waits is rejected. Idempotent. */
  close(): void;
  /** Don't wait any longer for the next attempt; when there is a connection, see that it lives. */
  retry(): void;
  /** Send a command, again after each break, until its reply comes. */
  request(
    command: { type: string } & Record<string, unknown>,
    options?: Aborting,
  ): Promise<{ type: string } & Record<string, unknown>>;
}

export interface RoomEvents {
  /** It is live, perhaps again: `missed` messages follow at once. */
  joined: {
    resumed: boolean;
    recovered: boolean;
    missed: number;
    members: number;
    position: Position;
  };
  message: ChatMessage;
  /** Messages are missing before this position: load the history again. */
  stale: { position: Position };
  presence: { room: string; count: number; joined?: string[]; left?: string[] };
  typing: { room: string; user: string };
  /** It was left, or is lost for good. */
  left: GatewayError;
  /** The room was refused; `left` follows. */
  error: ErrorFrame;
}

/** One room; made by `Chat.join()`. */
export class Room extends TypedTarget<RoomEvents> implements AsyncIterable<ChatMessage> {
  private constructor();
  readonly name: string;
  readonly joined: boolean;
  /** Where to resume; null before the first join. */
  readonly position: Position | null;
  /** Distinct users, as last heard. */
  readonly members: number;
  /** Resolves at the first join; rejects if that is refused. */
  readonly ready: Promise<Room>;
  /** Resolves once it is in the store; queued, and resent after any break, until then. */
  publish(
    text: string,
    options?: { key?: string } & Aborting,
  ): Promise<{ room: string; offset: number; key: string }>;
  history(
    options?: { before?: number; limit?: number } & Aborting,
  ): Promise<{ room: string; messages: ChatMessage[]; more: boolean }>;
  who(options?: Aborting): Promise<{ room: string; count: number; members: string[] }>;
  typing(): void;
  leave(): void;
  messages(options?: { max?: number } & Aborting): AsyncIterableIterator<ChatMessage>;
  [Symbol.asyncIterator](): AsyncIterableIterator<ChatMessage>;
}

export class Chat extends Connection<ConnectionEvents> {
  constructor(url: string | URL, options?: Options);
  readonly rooms: ReadonlyMap<string, Room>;
  join(name: string, options?: { presence?: boolean; since?: Position } & Aborting): Room;
}

export interface TopicEvents {
  notification: Notification;
  stale: { position: Position };
  left: GatewayError | undefined;
  error: ErrorFrame;
}

/** A shared topic; made by `Notifications.subscribe()`. */
export class Topic extends TypedTarget<TopicEvents> implements AsyncIterable<Notification> {
  private constructor();
  readonly name: string;
  readonly joined: boolean;
  readonly position: Position | null;
  unsubscribe(): void;
  [Symbol.asyncIterator](): AsyncIterableIterator<Notification>;
}

export interface NotificationEvents extends ConnectionEvents {
  notification: Notification;
  /** How many are unread; all up to `offset` are read. */
  unread: { count: number; offset: number };
  /** Some are missing before this position: list them again. */
  stale: { position: Position };
  /** The server had lost the thread and has it again, on the same connection; behind `stale`. */
  resumed: { position: Position; recovered: boolean };
}

export class Notifications
  extends Connection<NotificationEvents>
  implements AsyncIterable<Notification>
{
  constructor(url?: string | URL, options?: Options & { since?: Position });
  readonly topics: ReadonlyMap<string, Topic>;
  readonly unread: number;
  readonly readUpTo: number;
  readonly position: Position | null;
  markRead(offset: number, options?: Aborting): Promise<{ count: number }>;
  list(
    options?: { before?: number; limit?: number } & Aborting,
  ): Promise<{ notifications: Notification[]; more: boolean }>;
  subscribe(name: string, options?: Aborting): Topic;
  notifications(options?: { max?: number } & Aborting): AsyncIterableIterator<Notification>;
  [Symbol.asyncIterator](): AsyncIterableIterator<Notification>;
}
