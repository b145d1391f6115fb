// The WebSocket that Node and Bun have built in as the client.

import { main } from "./steps.mjs";
import { open } from "./whatwg.mjs";

await main(open);
