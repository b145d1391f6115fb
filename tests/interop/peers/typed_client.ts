// A program that uses the types of echoring.js: compiled only, with those of Node and with those of pages.

import { Client, EchoringError, Unauthorized } from "../../../src/server/pages/client/echoring.js";
import { eventStreams } from "../../../src/server/pages/client/event-streams.js";

const client = new Client("ws://live.example/broadcast", {
  log: console.log,
  fallback: eventStreams({ credentials: "omit" }),
  token: async () => { throw new Unauthorized(); },
});
const topic = client.subscribe("news", { presence: true });
topic.addEventListener("message", (event) => {
  if (event.kind === "text") event.data.toUpperCase();
  else if (event.kind === "bytes") event.data.byteLength.toFixed();
}, { once: true });
topic.addEventListener("gap", ({ from, to, reason }) => [from + to, reason === "history"]);
topic.history({ before: 7, limit: 5 }).then(({ messages: [first], next }) => [first?.offset, next]);
client.addEventListener("open", ({ isFallback }) => isFallback);
client.addEventListener("direct", ({ kind, data }) => [kind, data]);
client.addEventListener("closed", function ({ error }) {
  if (error?.code === "unauthorized") this.open();
});
client.publish("news", { data: 1, timeoutMs: 5, signal: AbortSignal.timeout(5) }).catch((error: unknown) => {
  if (error instanceof EchoringError && error.code === "too-large") return error.temporary;
});
// @ts-expect-error: there is no such field.
topic.addEventListener("gap", ({ nothing }) => nothing);
