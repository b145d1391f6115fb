// WAMP 2: npm's `fox-wamp` as the router, and a callee with `autobahn` that has two procedures.

import { createServer } from "node:http";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.NODE_MODULES}/`);
const FoxRouter = require("fox-wamp");
const autobahn = require("autobahn");

const http = createServer();
new FoxRouter().listenWAMP({ server: http, path: "/ws" });
http.listen(0, "127.0.0.1", () => {
    const { port } = http.address();
    const callee = new autobahn.Connection({ url: `ws://127.0.0.1:${port}/ws`, realm: "realm1" });
    callee.onopen = async (session) => {
        await session.register("com.example.echo", ([text]) => text);
        await session.register("com.example.fail", () => {
            throw new autobahn.Error("com.example.failed", ["it failed"]);
        });
        console.log(`listening ${port}`);
    };
    callee.open();
});
