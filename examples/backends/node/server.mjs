// Counts and echoes messages, and sends some later, behind echoring: clients have WebSockets, this program has requests. Needs Node 18.
//
//     export WEBHOOK_SECRET=whsec_$(openssl rand -base64 32)
//     node examples/backends/node/server.mjs 8000
//     # in echoring.toml: [[backends]] with path = "/echo", url = "http://127.0.0.1:8000/" and the same secret
//
// docs/guide/back-ends.md explains the requests.

import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

// A request that is older or newer is refused: it may be a copy of one that somebody has recorded.
const TOLERANCE_S = 300;
const BODY_BYTES_MAX = 4 * 1024 * 1024;

const secret = process.env.WEBHOOK_SECRET ?? "";
const key = secret.startsWith("whsec_") ? Buffer.from(secret.slice(6), "base64") : Buffer.from(secret);
if (key.length < 24) throw new Error("WEBHOOK_SECRET needs 24 bytes or more");
// With several servers, http://{node}:9002 has the name of the one that has the connection.
const admin = process.env.ECHORING_ADMIN;
// How many messages a connection has sent.
const counts = new Map();

/** Whether a request comes from echoring, and now. The signature is about the bytes, not about the JSON in them. */
function isGenuine(headers, body) {
  const sentAt = Number(headers["webhook-timestamp"]);
  if (!(Math.abs(Date.now() / 1000 - sentAt) <= TOLERANCE_S)) return false;
  const hmac = createHmac("sha256", key).update(`${headers["webhook-id"]}.${headers["webhook-timestamp"]}.`).update(body);
  const expected = Buffer.from(`v1,${hmac.digest("base64")}`);
  // There is a signature for each secret of the server.
  return String(headers["webhook-signature"]).split(" ").some((text) => {
    const signature = Buffer.from(text);
    return signature.length === expected.length && timingSafeEqual(signature, expected);
  });
}

/** Sends to a connection outside of an answer. */
async function sendLater(node, connection, text) {
  const headers = { "content-type": "text/plain" };
  if (process.env.ECHORING_TOKEN) headers.authorization = `Bearer ${process.env.ECHORING_TOKEN}`;
  const response = await fetch(`${admin.replace("{node}", node)}/connections/${connection}`, { method: "POST", headers, body: text });
  // 404: the client has left.
  if (!response.ok && response.status !== 404) console.error(`cannot send: ${response.status}`);
}

const handlers = {
  connect({ connection }) {
    counts.set(connection, 0);
    return {};
  },

  message({ node, connection, text, base64 }) {
    const count = (counts.get(connection) ?? 0) + 1;
    counts.set(connection, count);
    if (text === undefined) return { messages: [{ base64 }] };
    if (text === "bye") return { close: { code: 1000, reason: `after ${count} messages` } };
    if (text === "later" && admin) setTimeout(() => sendLater(node, connection, "now").catch(console.error), 10);
    return { messages: [{ text: `${count}: ${text}` }] };
  },

  disconnect({ connection }) {
    counts.delete(connection);
    return {};
  },
};

/** The answer to a request: its status, and what echoring is to do. */
function answer(headers, body) {
  if (!isGenuine(headers, body)) return [401, {}];
  const event = JSON.parse(body);
  return [200, handlers[event.event](event)];
}

const server = createServer(async (request, response) => {
  const parts = [];
  let bytes = 0;
  for await (const part of request) {
    bytes += part.length;
    if (bytes > BODY_BYTES_MAX) return request.destroy();
    parts.push(part);
  }
  const [status, json] = answer(request.headers, Buffer.concat(parts));
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(json));
});
// echoring keeps connections for 4 s: one that it ends first cannot be lost under a request.
server.keepAliveTimeout = 5_000;
server.listen(Number(process.argv[2] ?? 8000), "127.0.0.1", () => console.log(`listening ${server.address().port}`));
