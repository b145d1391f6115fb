// npm's `ws` as the server; see `programs.py` for what its paths do.

import { createServer } from "node:http";
import { createRequire } from "node:module";

const { WebSocketServer } = createRequire(`${process.env.NODE_MODULES}/`)("ws");

const MESSAGE_BYTES_MAX = 1 << 20;
const PATHS = ["/echo", "/close", "/fragment", "/ping"];

const server = createServer((request, response) => response.writeHead(404).end());
const sockets = new WebSocketServer({
    noServer: true,
    maxPayload: MESSAGE_BYTES_MAX,
    perMessageDeflate: process.argv.includes("--compress"),
    handleProtocols: (offered) => (offered.has("chat") ? "chat" : false),
});

server.on("upgrade", (request, socket, head) => {
    const url = new URL(request.url, "http://localhost");
    const status = url.pathname === "/reject" ? url.searchParams.get("status") : 404;
    if (!PATHS.includes(url.pathname)) {
        socket.end(`HTTP/1.1 ${status} Refused\r\nContent-Length: 8\r\nConnection: close\r\n\r\nrefused\n`);
        return;
    }
    sockets.handleUpgrade(request, socket, head, (connection) => handle(connection, url));
});

function handle(connection, url) {
    const query = url.searchParams;
    const parts = url.pathname === "/fragment" ? Number(query.get("parts")) : 1;
    // What the peer does wrong closes the connection with the code that names it; this says it once more.
    connection.on("error", () => {});
    connection.on("message", (data, binary) => {
        const length = Math.ceil(data.length / parts);
        for (let i = 0; i < parts; i++) {
            connection.send(data.subarray(i * length, (i + 1) * length), { binary, fin: i === parts - 1 });
        }
    });
    connection.on("pong", (data) => connection.send(`pong: ${data}`));
    if (url.pathname === "/ping") connection.ping("are you there?");
    if (url.pathname === "/close") connection.close(Number(query.get("code")), query.get("reason") ?? "");
}

server.listen(0, "127.0.0.1", () => console.log(`listening ${server.address().port}`));
