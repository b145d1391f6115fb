// JSON-RPC 2.0: npm's `rpc-websockets` with a method `echo` and one that fails.

import { createServer } from "node:http";
import { createRequire } from "node:module";

const { Server } = createRequire(`${process.env.NODE_MODULES}/`)("rpc-websockets");

const http = createServer();
const server = new Server({ server: http });
server.register("echo", (parameters) => parameters);
server.register("add", ([one, other]) => one + other);
server.register("fail", () => {
    throw { code: -32000, message: "it failed", data: null };
});
http.listen(0, "127.0.0.1", () => console.log(`listening ${http.address().port}`));
