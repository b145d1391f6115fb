// npm's `centrifuge`, unmodified, as the client. `test_centrifuge.py` describes the lines of its input and output.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

// Installed beside the build's other products, not beside this file.
const require = createRequire(`${process.env.NODE_MODULES}/`);
const settings = JSON.parse(process.argv[2]);
const { Centrifuge, UnauthorizedError } = require(settings.protobuf ? "centrifuge/build/protobuf" : "centrifuge");

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
// Only clients of protobuf have bytes.
const pack = (data) => (data?.bytes === undefined ? data : new Uint8Array(Buffer.from(data.bytes, "base64")));
const unpack = (data) => (data instanceof Uint8Array ? { bytes: Buffer.from(data).toString("base64") } : data);
// With protobuf, 64-bit integers are objects.
const number = (value) => value?.toNumber?.() ?? value;
const position = (at) => at && { offset: number(at.offset), epoch: at.epoch };
const about = (name, data) => (data?.length === 0 || data === undefined ? {} : { [name]: unpack(data) });
const info = ({ user, client, connInfo, chanInfo }) => ({
    user,
    client,
    ...about("conn_info", connInfo),
    ...about("chan_info", chanInfo),
});
const publication = ({ data, offset, tags, info: author }) => ({
    data: unpack(data),
    offset: number(offset),
    tags,
    ...(author && { info: info(author) }),
});
const reason = ({ code, reason }) => ({ code, reason });
const failure = ({ code, message }) => ({ code, message });

const tokens = [...settings.tokens];
const options = {
    websocket: require("ws"),
    minReconnectDelay: 50,
    maxReconnectDelay: 500,
    timeout: settings.timeout_ms,
    token: tokens.shift() ?? "",
};
if (settings.protobuf) {
    options.protocol = "protobuf";
}
if (settings.tokens.length > 0) {
    options.getToken = async () => {
        say({ event: "token" });
        if (tokens.length === 0) {
            throw new UnauthorizedError();
        }
        return tokens.shift();
    };
}

const client = new Centrifuge(settings.url, options);
client.on("connecting", (context) => say({ event: "connecting", ...reason(context) }));
client.on("connected", ({ client, data }) => say({ event: "connected", client, data: unpack(data) }));
client.on("disconnected", (context) => say({ event: "disconnected", ...reason(context) }));
client.on("error", (context) => say({ event: "error", ...failure(context.error) }));

// Subscriptions that the server makes.
client.on("subscribed", ({ channel, wasRecovering, recovered, recoverable, streamPosition, data }) => {
    const at = position(streamPosition);
    say({ event: "server subscribed", channel, wasRecovering, recovered, recoverable, position: at, data: unpack(data) });
});
client.on("unsubscribed", ({ channel }) => say({ event: "server unsubscribed", channel }));
client.on("publication", (context) => {
    say({ event: "server publication", channel: context.channel, ...publication(context) });
});

function subscribe({ channel, recoverable = false, join_leave: joinLeave = false, tags_filter: tagsFilter, since, delta, tokens = [] }) {
    const ownTokens = [...tokens];
    const nextToken = async () => {
        say({ event: "subscription token", channel });
        if (ownTokens.length === 0) {
            throw new UnauthorizedError();
        }
        return ownTokens.shift();
    };
    const subscription = client.newSubscription(channel, {
        ...(tokens.length > 0 && { token: ownTokens.shift(), getToken: nextToken }),
        recoverable,
        joinLeave,
        since,
        delta,
        ...(tagsFilter && { tagsFilter }),
        minResubscribeDelay: 50,
        maxResubscribeDelay: 500,
    });
    const tell = (event, more) => say({ event, channel, ...more });
    subscription.on("subscribing", (context) => tell("subscribing", reason(context)));
    subscription.on("subscribed", (context) => {
        const { wasRecovering, recovered, recoverable, positioned, streamPosition } = context;
        const at = position(streamPosition);
        tell("subscribed", { wasRecovering, recovered, recoverable, positioned, position: at, data: unpack(context.data) });
    });
    subscription.on("unsubscribed", (context) => tell("unsubscribed", reason(context)));
    subscription.on("publication", (context) => tell("publication", publication(context)));
    subscription.on("join", (context) => tell("join", info(context.info)));
    subscription.on("leave", (context) => tell("leave", info(context.info)));
    subscription.on("error", (context) => tell("subscription error", failure(context.error)));
    subscription.subscribe();
}

const actions = {
    connect: () => client.connect(),
    disconnect: () => client.disconnect(),
    subscribe,
    unsubscribe: ({ channel }) => client.getSubscription(channel).unsubscribe(),
    publish: async ({ channel, data }) => {
        await client.publish(channel, pack(data));
    },
    history: async ({ channel, limit, since, reverse }) => {
        const result = await client.history(channel, { limit, since, reverse });
        return {
            publications: result.publications.map(publication),
            position: position(result),
        };
    },
    presence: async ({ channel }) => Object.values((await client.presence(channel)).clients).map(info),
    presence_stats: async ({ channel }) => {
        const { numClients, numUsers } = await client.presenceStats(channel);
        return { clients: numClients, users: numUsers };
    },
    send: ({ data }) => client.send(pack(data)),
    rpc: async ({ method, data }) => unpack((await client.rpc(method, pack(data))).data),
};

for await (const line of createInterface({ input: process.stdin })) {
    const { id, action, ...parameters } = JSON.parse(line);
    // Not awaited: a client does several things at a time.
    (async () => actions[action](parameters))().then(
        (result) => say({ answer: id, result: result ?? null }),
        (error) => say({ answer: id, error: failure(error) }),
    );
}
process.exit();
