// graphql-transport-ws: npm's `graphql-ws` with a query, a mutation and a subscription.

import { createRequire } from "node:module";

const require = createRequire(`${process.env.NODE_MODULES}/`);
const { WebSocketServer } = require("ws");
const { buildSchema, GraphQLError } = require("graphql");
const { useServer } = require("graphql-ws/use/ws");
const { EventEmitter, on } = require("node:events");

const schema = buildSchema(`
    type Query { echo(text: String!): String!, fail: String }
    type Mutation { publish(topic: String!, text: String!): Boolean! }
    type Subscription { messages(topic: String!): String! }
`);
const messages = new EventEmitter().setMaxListeners(0);
const roots = {
    query: {
        echo: ({ text }) => text,
        fail: () => {
            throw new GraphQLError("it failed");
        },
    },
    mutation: { publish: ({ topic, text }) => messages.emit(topic, text) || true },
    subscription: {
        async *messages({ topic }) {
            for await (const [text] of on(messages, topic)) yield { messages: text };
        },
    },
};
const server = new WebSocketServer({ port: 0, host: "127.0.0.1", path: "/graphql" });
useServer({ schema, roots }, server);
server.on("listening", () => console.log(`listening ${server.address().port}`));
