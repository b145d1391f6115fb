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
   * Returns the token to present: called for each attempt to connect, and when the token in use expires soon. If it fails, it is called
   * again after a delay that grows; only `Unauthorized` is final. An empty token stands for none. Within 45 seconds.
   */
  token?: () => Promise<string | null> | string | null;
  /** The WebSocket to use; by default the global one. If it has `pause` and `resume`, `Client.pause` uses them. */
  WebSocket?: new (url: string, protocols: string[]) => Socket;
  /**
   * Silence in ms after which the server is asked for a sign of life; 30,000 by default. The connection is lost without an answer in a
   * third of it.
   */
  silenceMs?: number;
  /** Maximum number of attempts without a connection that lasts 30 seconds; by default without a maximum. */
  attemptsMax?: number;
}

export interface SubscribeOptions {
  /** Where to begin: with the messages after it that the server keeps. Otherwise with new ones, behind the topic's snapshot. */
  position?: Position | null;
  /** Whether to keep the list of members, if the topic has presence. */
  presence?: boolean;
}

/** A message to publish: one of `data`, `json` and `text`. */
export interface Publication {
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

/** Why something failed. */
export class EchoringError extends Error {
  /**
   * A code of the protocol's errors, such as `forbidden`, or one of the client:
   * - `uncertain`: the connection was lost before the answer; the request may have been carried out
   * - `queue-full`: more than 1,024 publications, or 4 MiB of them, wait for their answers
   * - `not-subscribed`: there is no connection or subscription now
   * - `already-subscribed`: the client has a subscription of this topic
   * - `refused`: the server closed the connection for good, with `closeCode`
   * - `not-spoken`: the server does not speak the protocol
   * - `bad-request`: the URL or the token cannot be sent
   * - `gave-up`: `attemptsMax` attempts have failed
   * - `unauthorized`: the token source has no token for this user
   * - `closed`: the program has closed the client
   */
  readonly code: string;
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
  /** The number of the attempt, from 1, again after a connection that lasted 30 seconds. */
  readonly attempt: number;
  /** The delay before it in ms. */
  readonly delayMs: number;
  /** The code of the lost connection; 1006 without a Close, `null` if there was none. */
  readonly code: number | null;
  readonly reason: string;
}

/** There is no further attempt. */
export interface ClosedEvent extends Event {
  /** Why; `null` if the program closed the client. */
  readonly error: EchoringError | null;
}

export interface ClientEvents {
  connecting: ConnectingEvent;
  open: Event;
  closed: ClosedEvent;
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

/** The server has ended the subscription for the moment; the client subscribes again from its position. */
export interface UnsubscribedEvent extends Event {
  /** The server's reason: `slow` or `moved`; `null` after `Client.pause`. */
  readonly reason: string | null;
}

interface AnyMessageEvent extends Event {
  readonly offset: number;
  readonly key: string | null;
  /** Messages since the previous one that this one stands for, because the topic conflates. */
  readonly skipped: number;
  /** Whether it was published before, and is part of the topic's snapshot. */
  readonly snapshot: boolean;
}

export type TopicMessageEvent = AnyMessageEvent &
  (
    | { readonly kind: "json"; readonly data: unknown }
    | { readonly kind: "text"; readonly data: string }
    | { readonly kind: "bytes"; readonly data: Uint8Array }
  );

/** The messages `from` to `to`, both included, will not come. */
export interface GapEvent extends Event {
  readonly from: number;
  readonly to: number;
  /** `to - from + 1`. */
  readonly count: number;
  /** `slow`, `history`, `memory`, `drain`, or `unreported` if the server gave none. */
  readonly reason: string;
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

type Listener<This, E> = ((this: This, event: E) => unknown) | { handleEvent(event: E): unknown };

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
  presence(page?: { after?: string | null; limit?: number }): Promise<Members>;
  /** Ends the subscription. */
  unsubscribe(): void;
  addEventListener<K extends keyof SubscriptionEvents>(
    type: K, listener: Listener<Subscription, SubscriptionEvents[K]> | null, options?: AddEventListenerOptions | boolean,
  ): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: AddEventListenerOptions | boolean): void;
  removeEventListener<K extends keyof SubscriptionEvents>(
    type: K, listener: Listener<Subscription, SubscriptionEvents[K]> | null, options?: EventListenerOptions | boolean,
  ): void;
  removeEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: EventListenerOptions | boolean): void;
}

/** A session that reconnects until it is closed. It begins to connect once the current task has ended. */
export class Client extends EventTarget {
  constructor(url: string, options?: ClientOptions);
  readonly url: string;
  readonly state: "connecting" | "open" | "closed";
  /** Subscribes now, or as soon as there is a connection. Throws `already-subscribed` and `closed`. */
  subscribe(topic: string, options?: SubscribeOptions): Subscription;
  /** Publishes, now or as soon as there is a connection. Resolves with the position of the message, or rejects with an `EchoringError`. */
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
  /** Closes the connection. Everything that waits fails as `closed`. */
  close(): void;
  addEventListener<K extends keyof ClientEvents>(
    type: K, listener: Listener<Client, ClientEvents[K]> | null, options?: AddEventListenerOptions | boolean,
  ): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: AddEventListenerOptions | boolean): void;
  removeEventListener<K extends keyof ClientEvents>(
    type: K, listener: Listener<Client, ClientEvents[K]> | null, options?: EventListenerOptions | boolean,
  ): void;
  removeEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: EventListenerOptions | boolean): void;
}
