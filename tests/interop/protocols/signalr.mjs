// The server's side of SignalR's JSON hub protocol, as npm's `@microsoft/signalr` speaks it: invocations, completions, groups and pings. ASP.NET
// Core comes from a registry of its own, so this program stands in for it; a test connects the unmodified client to it.

import { createRequire } from "node:module";

const { WebSocketServer } = createRequire(`${process.env.NODE_MODULES}/`)("ws");

const SEPARATOR = "\u001e";
const PING_MS = 500;

const server = new WebSocketServer({ port: 0, host: "127.0.0.1", path: "/hub" });
const groups = new Map();

server.on("connection", (socket) => {
    const send = (message) => socket.send(JSON.stringify(message) + SEPARATOR);
    const joined = new Set();
    let shaken = false;
    let pings;
    const methods = {
        Echo: (text) => text,
        Fail: () => {
            throw new Error("it failed");
        },
        Join: (group) => {
            if (!groups.has(group)) groups.set(group, new Set());
            groups.get(group).add(send);
            joined.add(group);
        },
        Publish: (group, text) => {
            for (const member of groups.get(group) ?? []) member({ type: 1, target: "Message", arguments: [text] });
        },
    };
    socket.on("message", (data) => {
        for (const text of String(data).split(SEPARATOR).filter((part) => part)) {
            const message = JSON.parse(text);
            if (!shaken) {
                shaken = true;
                send({});
                pings = setInterval(() => send({ type: 6 }), PING_MS);
            } else if (message.type === 1) {
                const completion = { type: 3, invocationId: message.invocationId };
                try {
                    completion.result = methods[message.target](...message.arguments) ?? null;
                } catch (error) {
                    completion.error = error.message;
                }
                if (message.invocationId !== undefined) send(completion);
            } else if (message.type === 7) {
                socket.close();
            }
        }
    });
    socket.on("close", () => {
        clearInterval(pings);
        joined.forEach((group) => groups.get(group).delete(send));
    });
});
server.on("listening", () => console.log(`listening ${server.address().port}`));
