/** The place behind a message. It can be stored as JSON, and subscribed from later. */
export interface Position {
  /** The life of the topic at the server. Offsets of different epochs cannot be compared. */
  readonly epoch: string;
  /** The number of the message, from 1; 0 is the place before the first one. */
  readonly offset: number;
}

/** What the client uses of a WebSocket. */
export interface Socket {
  readonly protocol: string;
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(text: string): void;
  close(code: number): void;
  /** Reads nothing until `resume`. */
  pause?(): void;
  resume?(): void;
}

export interface ClientOptions {
  /**
   * Returns the token to present: called for each attempt to connect, and when the token in use expires soon. If it fails, or the server
   * refuses a fresh token, it is called again after a delay that grows; only `Unauthorized` closes the client, at an attempt to connect.
   * An empty token stands for none. Within 45 seconds. Without this option, the credentials are those of the handshake, such as cookies.
   */
  token?: () => Promise<string | null> | string | null;
  /** The WebSocket to use; by default the global one. If it has `pause` and `resume`, `Client.pause` uses them. */
  WebSocket?: new (url: string, protocols: string[]) => Socket;
  /**
   * Is used instead of a WebSocket while two in a row have brought no message although the server can be reached, such as
   * `eventStreams()` of `echoring/event-streams`. The client returns to WebSockets when it has lost the fallback, and after `open`.
   */
  fallback?: new (url: string, protocols: string[]) => Socket;
  /**
   * Silence in ms after which the server is asked for a sign of life; 30,000 by default. The connection is lost without an answer in a
   * third of it, which is also how long a handshake may take where there is a fallback.
   */
  silenceMs?: number;
  /** Maximum number of attempts without a connection that lasts ten seconds; by default without a maximum. */
  attemptsMax?: number;
  /** Is called with a line for each attempt, request and event, without their contents and tokens. */
  log?: (line: string) => void;
}

export interface SubscribeOptions {
  /** Where to begin: with the messages after it that the server keeps. Otherwise with new ones, behind the topic's snapshot. */
  position?: Position | null;
  /** Whether to keep the list of members. On a topic without presence it stays empty, and `count` is `null`. */
  presence?: boolean;
}

/** How long a program waits for an answer. */
export interface Limits {
  /** Stops waiting when it is aborted. */
  signal?: AbortSignal;
  /** Stops waiting after this time in ms. */
  timeoutMs?: number;
}

/**
 * A message to publish: one of `data`, `json` and `text`. A program that stops waiting gets the reason of its signal or `timeout` if the
 * message was not sent, and otherwise `uncertain`.
 */
export interface Publication extends Limits {
  /** A value, published as JSON. */
  data?: unknown;
  /** A JSON value as it is written: numbers keep their digits. */
  json?: string;
  /** A text. */
  text?: string;
  /** The key whose latest state it is, on a topic that conflates: 1 to 255 bytes. */
  key?: string;
  /**
   * By which the server knows the message again: 1 to 255 bytes, random by default. With `null` the message is not repeated, and a lost
   * connection rejects it as `uncertain`.
   */
  idempotencyKey?: string | null;
}

/** A code of an `error` event of the protocol. */
export type RefusalCode =
  | "bad-json" | "too-large" | "not-text" | "unknown-type" | "missing-field" | "bad-field" | "already-subscribed" | "not-subscribed"
  | "too-many-subscriptions" | "no-presence" | "no-key" | "too-many-keys" | "rate-limited" | "idempotency-key-reused"
  | "forbidden" | "bad-token" | "too-many-topics" | "too-many-topics-per-connection" | "too-many-topics-per-identity" | "busy"
  | "out-of-memory" | "behind" | "no-storage" | "unreachable" | "uncertain" | "draining";

/**
 * A code of the client:
 * - `uncertain`: the connection was lost before the answer; the request may have been carried out
 * - `too-large`: the message has more bytes than the server takes
 * - `bad-field`: half of a surrogate pair, or an empty idempotency key
 * - `queue-full`: more than 1,024 publications, or 4 MiB of them, wait for their answers
 * - `timeout`: `timeoutMs` is over
 * - `receive-only`: the connection is a fallback that only receives
 * - `not-subscribed`: there is no connection or subscription now
 * - `already-subscribed`: the client has a subscription of this topic
 * - `refused`: the server closed the connection for good, with `closeCode`
 * - `not-spoken`: the server does not speak the protocol
 * - `bad-request`: the URL or the token cannot be sent
 * - `gave-up`: `attemptsMax` attempts have failed
 * - `unauthorized`: the token source has no token for this user
 * - `closed`: the program has closed the client
 */
export type ClientCode =
  | "uncertain" | "too-large" | "bad-field" | "queue-full" | "timeout" | "receive-only" | "not-subscribed" | "already-subscribed" | "refused"
  | "not-spoken" | "bad-request" | "gave-up" | "unauthorized" | "closed";

/** Any code; a later server may have others. */
export type ErrorCode = RefusalCode | ClientCode | (string & {});

/** Why something failed. */
export class EchoringError extends Error {
  readonly code: ErrorCode;
  /** Whether the same may succeed later. */
  readonly temporary: boolean;
  /** The field of the request that the server refuses. */
  readonly field?: string;
  /** The code of the last Close, or 1006 without one. */
  readonly closeCode?: number;
  constructor(code: string, message?: string, more?: object);
}

/** The error of a token source that is final: this user gets no token. */
export class Unauthorized extends EchoringError {
  constructor(message?: string);
}

/** There is no connection; an attempt follows. */
export interface ConnectingEvent extends Event {
  /** The number of the attempt, from 1, again after a connection that lasted ten seconds. */
  readonly attempt: number;
  /** The delay before it in ms. */
  readonly delayMs: number;
  /** The code of the lost connection; 1006 without a Close, `null` if there was none. */
  readonly code: number | null;
  readonly reason: string;
}

/** There is a connection. */
export interface OpenEvent extends Event {
  /** Whether it is the `fallback`, which may only receive. */
  readonly isFallback: boolean;
}

/** There is no further attempt before `Client.open`. */
export interface ClosedEvent extends Event {
  /** Why; `null` if the program closed the client. */
  readonly error: EchoringError | null;
}

/** A message of the server's operator to this connection, without a topic. */
export type DirectEvent = Event & Content;

export interface ClientEvents {
  connecting: ConnectingEvent;
  open: OpenEvent;
  closed: ClosedEvent;
  direct: DirectEvent;
}

/** The subscription has begun, for the first time or again. Messages after the position follow. */
export interface SubscribedEvent extends Event {
  readonly position: Position;
  /** Whether everything after the previous position follows; `null` if there is none. */
  readonly recovered: boolean | null;
  /** Subscribers, this one included, if the topic has presence. */
  readonly count: number | null;
  /** The name of this client among the members, if the topic has presence. */
  readonly client: string | null;
}

/** The subscription has ended for the moment; the client subscribes again from its position. */
export interface UnsubscribedEvent extends Event {
  /** The server's reason, `null` after `Client.pause`, or `closed` with the client, until `Client.open`. */
  readonly reason: "slow" | "moved" | "forbidden" | "closed" | (string & {}) | null;
}

/** What a message has. */
export type Content =
  | { readonly kind: "json"; readonly data: unknown }
  | { readonly kind: "text"; readonly data: string }
  | { readonly kind: "bytes"; readonly data: Uint8Array };

interface AnyMessageEvent extends Event {
  readonly offset: number;
  readonly key: string | null;
  /** Messages since the previous one that this one stands for, because the topic conflates. */
  readonly skipped: number;
  /** Whether it was published before, and is part of the topic's snapshot. */
  readonly snapshot: boolean;
}

export type TopicMessageEvent = AnyMessageEvent & Content;

/** The messages `from` to `to`, both included, will not come. */
export interface GapEvent extends Event {
  readonly from: number;
  readonly to: number;
  /** `to - from + 1`. */
  readonly count: number;
  /** `unreported` if the server gave none. */
  readonly reason: "slow" | "history" | "memory" | "drain" | "unreported" | (string & {});
}

/** The topic does not know the previous position, as after a restart: how many messages are missing is unknown. Fetch the state anew. */
export interface ResetEvent extends Event {
  readonly previous: Position;
  readonly position: Position;
}

/** Somebody subscribed, or a subscriber is gone. */
export interface MemberEvent extends Event {
  /** The name of the connection. */
  readonly client: string;
  /** The subject of its credentials. */
  readonly subject: string | null;
  /** Subscribers now. */
  readonly count: number;
}

/** `Subscription.members` was renewed. */
export interface MembersEvent extends Event {
  readonly count: number;
}

/** The subscription has ended, and nothing follows. */
export interface EndedEvent extends Event {
  /** Why; `null` if the program ended it. */
  readonly error: EchoringError | null;
}

export interface SubscriptionEvents {
  subscribed: SubscribedEvent;
  unsubscribed: UnsubscribedEvent;
  message: TopicMessageEvent;
  gap: GapEvent;
  reset: ResetEvent;
  join: MemberEvent;
  leave: MemberEvent;
  members: MembersEvent;
  ended: EndedEvent;
}

/** A page of a topic's members. */
export interface Members {
  /** All members. */
  readonly count: number;
  /** The subjects of the page's members, by the names of their connections. */
  readonly members: Map<string, string | null>;
  /** The `after` of the next page; `null` behind the last one. */
  readonly next: string | null;
}

/** A message of a topic's history. */
export type StoredMessage = Content & { readonly offset: number; readonly key: string | null };

/** A page of a topic's history. */
export interface HistoryPage {
  /** The topic's latest message. Offsets of a page with another epoch cannot be compared with these. */
  readonly position: Position;
  /** The messages that the server keeps, the oldest first. */
  readonly messages: StoredMessage[];
  /** The `before` of the page with earlier messages; `null` if there are none. */
  readonly next: number | null;
}

type Listener<This, E> = ((this: This, event: E) => unknown) | { handleEvent(event: E): unknown };

// As those of the DOM, which a program for Node does not have.
interface ListenerOptions {
  capture?: boolean;
  once?: boolean;
  passive?: boolean;
  signal?: AbortSignal;
}
type AnyListener = Listener<any, any>;

/** A subscription of one topic, which outlives connections. */
export class Subscription extends EventTarget {
  private constructor();
  readonly topic: string;
  /** Everything up to it was an event: store it with what the program has made of the events. `null` before the first `subscribed`. */
  readonly position: Position | null;
  /** Subscribers, if the topic has presence. */
  readonly count: number | null;
  /** With `presence`: the subjects of the members, by the names of their connections; at most 10,000. It changes with the events. */
  readonly members: ReadonlyMap<string, string | null>;
  /** Asks for members: at most `limit`, behind the one named `after`. */
  presence(page?: Limits & { after?: string | null; limit?: number }): Promise<Members>;
  /** Asks for earlier messages: at most `limit`, up to 256, before the offset `before`, or the latest ones. It moves no position. */
  history(page?: Limits & { before?: number | null; limit?: number }): Promise<HistoryPage>;
  /** Ends the subscription. */
  unsubscribe(): void;
  addEventListener<K extends keyof SubscriptionEvents>(
    type: K, listener: Listener<Subscription, SubscriptionEvents[K]> | null, options?: ListenerOptions | boolean,
  ): void;
  addEventListener(type: string, listener: AnyListener | null, options?: ListenerOptions | boolean): void;
  removeEventListener<K extends keyof SubscriptionEvents>(
    type: K, listener: Listener<Subscription, SubscriptionEvents[K]> | null, options?: ListenerOptions | boolean,
  ): void;
  removeEventListener(type: string, listener: AnyListener | null, options?: ListenerOptions | boolean): void;
}

/** A session that reconnects until it is closed. It begins to connect once the current task has ended. */
export class Client extends EventTarget {
  constructor(url: string, options?: ClientOptions);
  readonly url: string;
  readonly state: "connecting" | "open" | "closed";
  /** Subscribes now, or as soon as there is a connection. Throws `already-subscribed` and `closed`. */
  subscribe(topic: string, options?: SubscribeOptions): Subscription;
  /**
   * Publishes, now or as soon as there is a connection. Resolves with the position of the message, or rejects with an `EchoringError`. It
   * is repeated while the server refuses it for the moment; then later publications may overtake it.
   */
  publish(topic: string, publication: Publication): Promise<Position>;
  /**
   * Receives nothing until `resume`. A WebSocket with a method `pause` is not read, so that the server handles a slow subscriber as the
   * topic says. Otherwise the subscriptions end at the server, and continue from their positions.
   */
  pause(): void;
  /** Ends a pause. */
  resume(): void;
  /** Skips the delay before the next attempt. */
  retry(): void;
  /**
   * Closes the connection. Publications that were sent and not answered fail as `uncertain`, others as `closed`. Subscriptions wait for
   * `open`.
   */
  close(): void;
  /** Opens a closed client again, also one that the server or a token source has closed. Its subscriptions continue from their positions. */
  open(): void;
  addEventListener<K extends keyof ClientEvents>(
    type: K, listener: Listener<Client, ClientEvents[K]> | null, options?: ListenerOptions | boolean,
  ): void;
  addEventListener(type: string, listener: AnyListener | null, options?: ListenerOptions | boolean): void;
  removeEventListener<K extends keyof ClientEvents>(
    type: K, listener: Listener<Client, ClientEvents[K]> | null, options?: ListenerOptions | boolean,
  ): void;
  removeEventListener(type: string, listener: AnyListener | null, options?: ListenerOptions | boolean): void;
}
