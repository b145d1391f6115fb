import type { Socket } from "./echoring.js";

export interface EventStreamOptions {
  /** Where the event streams are, before the name of the topic; by default `sse/` beside the client's URL. */
  url?: string | URL;
  /**
   * Which cookies requests have, as for `fetch`; `include` by default. A server that allows pages of every origin answers only those
   * without: `omit`.
   */
  credentials?: "include" | "same-origin" | "omit";
  /** Silence of a stream in ms after which it is lost: more than the server's `ping_interval`; 60,000 by default. */
  silenceMs?: number;
}

/**
 * The `fallback` of a client for networks whose proxies break WebSockets: `new Client(url, { fallback: eventStreams() })`. It carries
 * each subscription over an event stream of the server, `GET /sse/TOPIC`, and only receives: publications and requests of members and
 * history are refused with `receive-only`. Browsers open six connections to a host over HTTP/1.1, and each subscription is one.
 */
export function eventStreams(options?: EventStreamOptions): new (url: string, protocols: string[]) => Socket;
