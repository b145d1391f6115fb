// Bun's own server; see `programs.py` for what its paths do. It sends every message in one frame.

const MESSAGE_BYTES_MAX = 1 << 20;
const PATHS = ["/echo", "/close", "/ping"];

const compress = process.argv.includes("--compress");

const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch(request, server) {
        const url = new URL(request.url);
        if (url.pathname === "/reject") {
            return new Response("refused\n", { status: Number(url.searchParams.get("status")) });
        }
        if (!PATHS.includes(url.pathname)) return new Response("no such path\n", { status: 404 });
        const offered = (request.headers.get("Sec-WebSocket-Protocol") ?? "").split(/ *, */);
        const headers = offered.includes("chat") ? { "Sec-WebSocket-Protocol": "chat" } : {};
        if (server.upgrade(request, { data: { url }, headers })) return undefined;
        return new Response("an upgrade, please\n", { status: 400 });
    },
    websocket: {
        maxPayloadLength: MESSAGE_BYTES_MAX,
        perMessageDeflate: compress,
        open(connection) {
            const { url } = connection.data;
            if (url.pathname === "/ping") connection.ping("are you there?");
            if (url.pathname === "/close") {
                connection.close(Number(url.searchParams.get("code")), url.searchParams.get("reason") ?? "");
            }
        },
        message(connection, message) {
            connection.send(message, compress);
        },
        pong(connection, data) {
            connection.send(`pong: ${data}`);
        },
    },
});

console.log(`listening ${server.port}`);
