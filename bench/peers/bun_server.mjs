// Bun's own server as a peer: an echo, or with --broadcast its own publish, a topic for each path.
//
//     bun_server.mjs [--broadcast] [--compress] [--tls CERT KEY]      prints `listening ws://127.0.0.1:PORT ...` once it accepts connections

const MESSAGE_BYTES_MAX = 16 * 1024 * 1024;
// Generous, so that nobody is left behind in an overload: it would drop messages without a word.
const BACKPRESSURE_BYTES = 64 * 1024 * 1024;

const broadcast = process.argv.includes("--broadcast");
const compress = process.argv.includes("--compress");
const secured = process.argv.indexOf("--tls");
const [cert, key] = secured < 0 ? [] : process.argv.slice(secured + 1).map((file) => Bun.file(file));

const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    tls: cert && { cert, key },
    fetch(request, server) {
        const topic = new URL(request.url).pathname;
        if (server.upgrade(request, { data: { topic } })) return undefined;
        return new Response("an upgrade, please\n", { status: 400 });
    },
    websocket: {
        maxPayloadLength: MESSAGE_BYTES_MAX,
        backpressureLimit: BACKPRESSURE_BYTES,
        closeOnBackpressureLimit: true,
        perMessageDeflate: compress,
        open(socket) {
            if (broadcast) socket.subscribe(socket.data.topic);
        },
        message: broadcast
            ? (socket, message) => void socket.publish(socket.data.topic, message)
            : (socket, message) => void socket.send(message, compress),
    },
});

console.log(`listening ${cert ? "wss" : "ws"}://127.0.0.1:${server.port} driver=epoll shards=1 pid=${process.pid}`);
