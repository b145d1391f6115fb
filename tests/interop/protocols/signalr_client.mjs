// npm's `@microsoft/signalr`, unmodified: invokes methods of the hub, gets a message of a group, and prints them.

import { createRequire } from "node:module";

const require = createRequire(`${process.env.NODE_MODULES}/`);
const { HubConnectionBuilder, HttpTransportType, LogLevel } = require("@microsoft/signalr");

const hub = new HubConnectionBuilder()
    .withUrl(process.argv[2].replace(/^ws/, "http"), {
        skipNegotiation: true,
        transport: HttpTransportType.WebSockets,
        WebSocket: require("ws"),
    })
    .configureLogging(LogLevel.None)
    .build();
await hub.start();
const told = new Promise((resolve) => hub.on("Message", resolve));
console.log(await hub.invoke("Echo", "é"));
console.log(await hub.invoke("Fail").catch((error) => error.message.replace(/.*: /, "")));
await hub.invoke("Join", "group");
await hub.send("Publish", "group", "all");
console.log(await told);
await hub.stop();
