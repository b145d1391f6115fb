// npm's `ws` as a peer: an echo, or with --broadcast a loop over those who asked for the same path.
//
//     ws_server.mjs [--broadcast] [--compress]       prints `listening ws://127.0.0.1:PORT ...` once it accepts connections

import { createServer } from "node:http";
import { createRequire } from "node:module";

const { WebSocketServer } = createRequire(`${process.env.NODE_MODULES}/`)("ws");

const MESSAGE_BYTES_MAX = 16 * 1024 * 1024;
// What ten thousand who come at once need.
const BACKLOG = 4096;

const broadcast = process.argv.includes("--broadcast");
const compress = process.argv.includes("--compress");

const server = createServer((request, response) => response.writeHead(426).end());
const sockets = new WebSocketServer({
    server,
    maxPayload: MESSAGE_BYTES_MAX,
    perMessageDeflate: compress && { serverNoContextTakeover: true, clientNoContextTakeover: true, threshold: 128 },
});
const topics = new Map();

function subscribe(socket, name) {
    const members = topics.get(name) ?? new Set();
    topics.set(name, members.add(socket));
    socket.on("message", (data, binary) => {
        for (const member of members) {
            if (member !== socket) member.send(data, { binary });
        }
    });
    socket.on("close", () => {
        members.delete(socket);
        if (members.size === 0) topics.delete(name);
    });
}

sockets.on("connection", (socket, request) => {
    // What the peer does wrong closes the connection with the code that names it; this says it once more.
    socket.on("error", () => {});
    if (broadcast) subscribe(socket, request.url);
    else socket.on("message", (data, binary) => socket.send(data, { binary }));
});

server.listen({ host: "127.0.0.1", port: 0, backlog: BACKLOG }, () =>
    console.log(`listening ws://127.0.0.1:${server.address().port} driver=epoll shards=1 pid=${process.pid}`),
);
