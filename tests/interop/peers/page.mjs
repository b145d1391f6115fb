// Stands in for a page in Node: runs the scripts that come as JSON, one in each line, and answers each with a line.

import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { install } from "./events.mjs";

const Script = (async () => {}).constructor;
const client = pathToFileURL(process.argv[2]);
install({ ...await import(client), ...await import(new URL("event-streams.js", client)) }, globalThis);
const answer = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
answer("ready");
for await (const line of createInterface({ input: process.stdin })) {
  const { script, args } = JSON.parse(line);
  await new Script("...args", script)(...args).then(
    (value) => answer({ value: value ?? null }),
    (error) => answer({ error: error?.stack ?? String(error) }),
  );
}
