// The server's side of Phoenix channels, V2 serializer, as npm's `phoenix` client speaks it: joins, replies, broadcasts and heartbeats. Phoenix
// itself comes from a registry of its own, so this program stands in for it; a test connects the unmodified client to it.

import { createRequire } from "node:module";

const { WebSocketServer } = createRequire(`${process.env.NODE_MODULES}/`)("ws");

const server = new WebSocketServer({ port: 0, host: "127.0.0.1", path: "/socket/websocket" });
const channels = new Map();

server.on("connection", (socket) => {
    const send = (...message) => socket.send(JSON.stringify(message));
    const joined = new Map();
    socket.on("message", (data) => {
        const [joinRef, ref, topic, event, payload] = JSON.parse(data);
        const reply = (status, response) => send(joinRef, ref, topic, "phx_reply", { status, response });
        if (event === "heartbeat") return reply("ok", {});
        if (event === "phx_join") {
            joined.set(topic, joinRef);
            if (!channels.has(topic)) channels.set(topic, new Set());
            channels.get(topic).add(deliver);
            return reply("ok", {});
        }
        if (joined.get(topic) === undefined) return reply("error", { reason: "unmatched topic" });
        if (event === "echo") return reply("ok", payload);
        if (event === "fail") return reply("error", { reason: "it failed" });
        if (event === "shout") for (const member of channels.get(topic)) member(topic, event, payload);
    });
    const deliver = (topic, event, payload) => send(null, null, topic, event, payload);
    socket.on("close", () => joined.forEach((_, topic) => channels.get(topic).delete(deliver)));
});
server.on("listening", () => console.log(`listening ${server.address().port}`));
