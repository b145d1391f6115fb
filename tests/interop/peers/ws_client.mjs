// npm's `ws` as the client.

import { createRequire } from "node:module";
import { Inbox, Refused, main, same } from "./steps.mjs";

// Installed beside the build's other products, not beside this file.
const WebSocket = createRequire(`${process.env.NODE_MODULES}/`)("ws");

class Session {
    #inbox = new Inbox();

    constructor(socket) {
        this.socket = socket;
        socket.on("message", (data, binary) => {
            this.#inbox.put(["message", binary ? new Uint8Array(data) : data.toString()]);
        });
        socket.on("pong", (data) => this.#inbox.put(["pong", data.toString()]));
        socket.on("close", (code, reason) => this.#inbox.put(["close", { code, reason: reason.toString() }]));
    }

    get subprotocol() {
        return this.socket.protocol;
    }

    get compressed() {
        return this.socket.extensions.includes("permessage-deflate");
    }

    send(message) {
        this.socket.send(message);
    }

    fragments(parts) {
        parts.forEach((part, i) => this.socket.send(part, { fin: i === parts.length - 1 }));
    }

    receive() {
        return this.#inbox.expect("message");
    }

    async ping(payload) {
        this.socket.ping(payload);
        same(await this.#inbox.expect("pong"), payload, "pong");
    }

    async close(code, reason) {
        this.socket.close(code, reason);
        return (await this.#inbox.expect("close")).code;
    }

    waitClosed() {
        return this.#inbox.expect("close");
    }
}

function open(url, subprotocols, compress) {
    const socket = new WebSocket(url, subprotocols, { perMessageDeflate: compress ?? false });
    return new Promise((resolve, reject) => {
        socket.on("open", () => resolve(new Session(socket)));
        socket.on("unexpected-response", (request, response) => {
            response.resume();
            reject(new Refused(response.statusCode));
        });
        // After the close, too, such as when sending is cut short; the close itself is what checks look at.
        socket.on("error", reject);
    });
}

await main(open);
