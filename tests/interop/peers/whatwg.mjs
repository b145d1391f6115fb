// The WebSocket of the WHATWG, as pages, Node and Bun have it; Bun's can do more.

import { Inbox, Refused } from "./steps.mjs";

class Session {
    #inbox = new Inbox();

    constructor(socket) {
        this.socket = socket;
        socket.binaryType = "arraybuffer";
        socket.onmessage = ({ data }) => {
            this.#inbox.put(["message", typeof data === "string" ? data : new Uint8Array(data)]);
        };
        socket.onclose = ({ code, reason }) => this.#inbox.put(["close", { code, reason }]);
        // Only Bun has this event.
        socket.addEventListener("pong", ({ data }) => this.#inbox.put(["pong", new TextDecoder().decode(data)]));
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

    receive() {
        return this.#inbox.expect("message");
    }

    async ping(payload) {
        this.socket.ping(payload);
        const answer = await this.#inbox.expect("pong");
        if (answer !== payload) throw new Error(`pong with ${answer} instead of ${payload}`);
    }

    async close(code, reason) {
        this.socket.close(code, reason);
        return (await this.#inbox.expect("close")).code;
    }

    waitClosed() {
        return this.#inbox.expect("close");
    }
}

export function open(url, subprotocols, compress) {
    // Bun alone lets its user say whether compression is offered.
    const options = compress === undefined ? subprotocols : { protocols: subprotocols, perMessageDeflate: compress };
    const socket = new WebSocket(url, options);
    return new Promise((resolve, reject) => {
        socket.onopen = () => resolve(new Session(socket));
        // What came instead of 101 is not told to pages.
        socket.onerror = () => reject(new Refused());
    });
}
