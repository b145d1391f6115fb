// STOMP 1.1: npm's `stomp-broker-js`.

import { createServer } from "node:http";
import { createRequire } from "node:module";

const StompServer = createRequire(`${process.env.NODE_MODULES}/`)("stomp-broker-js");

const http = createServer();
new StompServer({ server: http, path: "/stomp", protocol: "ws", debug: () => {} });
http.listen(0, "127.0.0.1", () => console.log(`listening ${http.address().port}`));
