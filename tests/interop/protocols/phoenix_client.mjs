// npm's `phoenix`, unmodified: joins a room, gets a reply, an error and a broadcast, and prints them.

import { createRequire } from "node:module";

const require = createRequire(`${process.env.NODE_MODULES}/`);
const { Socket } = require("phoenix");

const url = new URL(process.argv[2]);
const socket = new Socket(`ws://${url.host}/socket`, { transport: require("ws") });
socket.connect();
const channel = socket.channel("room:test", {});
const answer = (push) =>
    new Promise((resolve) => push.receive("ok", (ok) => resolve({ ok })).receive("error", (error) => resolve({ error })));
const told = new Promise((resolve) => channel.on("shout", resolve));
console.log(JSON.stringify(await answer(channel.join())));
console.log(JSON.stringify(await answer(channel.push("echo", { text: "é" }))));
console.log(JSON.stringify(await answer(channel.push("fail", {}))));
channel.push("shout", { text: "all" });
console.log(JSON.stringify(await told));
process.exit(0);
