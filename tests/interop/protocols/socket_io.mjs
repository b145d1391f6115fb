// Engine.IO 4: npm's `socket.io`. The event `echo` is acknowledged with its argument; rooms have topics.

import { createServer } from "node:http";
import { createRequire } from "node:module";

const { Server } = createRequire(`${process.env.NODE_MODULES}/`)("socket.io");

const http = createServer();
// Heartbeats come often, so that tests see some.
const io = new Server(http, { transports: ["websocket"], pingInterval: 500, pingTimeout: 20000 });
io.on("connection", (socket) => {
    socket.on("echo", (text, acknowledge) => acknowledge(text));
    socket.on("join", (room, acknowledge) => {
        socket.join(room);
        acknowledge();
    });
    socket.on("publish", (room, text) => io.to(room).emit("message", text));
});
http.listen(0, "127.0.0.1", () => console.log(`listening ${http.address().port}`));
