"""The permissions of NATS in the documentation: they are enough for nodes, and what a client may not do, no node does for it."""

import asyncio
import json
import os
import re
import tempfile
import unittest

from harness import wait_until_async
from test_cluster import InACluster, Nats, NatsClient, Session, asynchronous

PAGE = os.path.join(os.path.dirname(__file__), "../../docs/reference/cluster.md")
CONFIG = """
[[topics]]
pattern = "prices.*"
durable = true
history_messages = 2
nats = "json"
"""


def documented():
    """The configuration of NATS that the page shows: the user of the nodes, and that of a client."""
    with open(PAGE) as file:
        nodes, client = re.findall(r"```text\n(authorization .*?|    \{\n.*?)```", file.read(), re.DOTALL)
    inboxes = '"_INBOX.>", "_INBOX_app.>"'
    assert nodes.count('"_INBOX.>"') == 1 and nodes.endswith("    }\n  ]\n}\n"), nodes
    nodes = nodes.replace('"_INBOX.>"', inboxes)
    return (nodes.removesuffix("  ]\n}\n") + client + "  ]\n}\n").replace("…", "secret")


def fnv(pattern):
    """The stream of a pattern, as the page says."""
    number = 0xCBF29CE484222325
    for byte in pattern:
        number = (number ^ byte) * 0x100000001B3 % 2**64
    return number


class Permissions(InACluster):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        at = lambda name: os.path.join(folder.name, name)  # noqa: E731
        for name, text in (("nats.conf", documented()), ("echoring.toml", CONFIG), ("password", "secret\n")):
            with open(at(name), "w") as file:
                file.write(text)
        self.nats = Nats("-c", at("nats.conf"), "-js", "-sd", at("streams"))
        self.addCleanup(self.nats.close)
        self.flags = (
            *("--config", at("echoring.toml"), "--cluster-user", "echoring", "--cluster-password-file", at("password")),
            *("--cluster-nats-clients", "--cluster-nats-inbox", "_INBOX_app"),
        )

    def client(self):
        client = NatsClient(self.nats, user="app", **{"pass": "secret"})
        self.addCleanup(client.close)
        client.subscribe("_INBOX_app.>")
        return client

    async def accepted(self, client, payload):
        """Publishes until the topic has an owner. Returns the answer."""

        async def answer():
            client.publish("echoring.publish.prices.EUR", payload, "_INBOX_app.1")
            _, _, fields, body = await asyncio.to_thread(client.message)
            return fields.get("Echoring-Status") == "200" and json.loads(body)

        return await wait_until_async(answer, "an owner of the topic")

    @asynchronous
    async def test_are_enough_for_nodes(self):
        nodes = self.start("a", "b", flags=self.flags)
        client, receiver = self.client(), self.client()
        receiver.subscribe("echoring.messages.prices.>")
        for number in range(10):
            answer = await self.accepted(client, b"%d" % number)
        for node in nodes:
            async with Session(node) as session:
                # Most of it is in the stream only.
                back = await session.subscribe("prices.EUR", {"epoch": answer["epoch"], "offset": 0})
                self.assertTrue(back["recovered"], back)
                await session.messages("prices.EUR", 10)
            code, _, report = node.get("/cluster/topics")
            self.assertEqual((code, json.loads(report)["silent_nodes"]), (200, 0))
        while True:
            subject, _, fields, _ = await asyncio.to_thread(receiver.message)
            if subject == "echoring.messages.prices.EUR" and fields["echoring-offset"] == str(answer["offset"]):
                break
        for node in nodes:
            node.terminate()
            self.assertEqual(node.wait(), 0)
            self.assertNotIn("permissions violation", "".join(node.log).lower())

    @asynchronous
    async def test_a_client_may_not_do_more_by_its_reply_subject(self):
        (node,) = self.start("a", flags=self.flags)
        client = self.client()
        begun = await self.accepted(client, b"first")
        stream = f"echoring-durable-{fnv(b'prices.*'):016x}"
        for reply in (
            f"$JS.API.STREAM.PURGE.{stream}",
            f"$JS.API.STREAM.DELETE.{stream}",
            f"echoring.durable.{stream.rpartition('-')[2]}.prices.EUR",
            "echoring.publish.prices.USD",
            "echoring.heartbeat",
        ):
            client.publish("echoring.publish.prices.EUR", b"more", reply)
        last = await self.accepted(client, b"last")
        self.assertEqual((last["epoch"], last["offset"]), (begun["epoch"], begun["offset"] + 6))
        node.process.kill()
        node.process.wait()
        (node,) = self.start("b", flags=self.flags)
        async with Session(node) as session:
            back = await session.subscribe("prices.EUR", {"epoch": begun["epoch"], "offset": 0})
            self.assertEqual((back["recovered"], back["epoch"]), (True, begun["epoch"]), back)
            await session.messages("prices.EUR", last["offset"])
        self.assertEqual(node.get("/topics/prices.USD")[0], 404)


if __name__ == "__main__":
    unittest.main()
