"""Durable topics: what was accepted outlives the nodes, in its epoch, and clients recover it from JetStream."""

import asyncio
import json
import os
import signal
import subprocess
import tempfile
import unittest

import test_cluster
from harness import BINARY, PATIENCE_S, text_file
from relay import Relay
from test_cluster import InACluster, Nats, NatsClient, Node, PatientNode, Session, asynchronous

TOPICS = [f"orders.{number}" for number in range(6)]
CONFIG = """
[[topics]]
pattern = "orders.*"
durable = true
history_messages = 5
durable_messages = {messages}
"""


class Durable(InACluster):
    MESSAGES = 100_000

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.nats = Nats("-js", "-sd", os.path.join(self.folder.name, "streams"))
        self.addCleanup(self.nats.close)
        config = os.path.join(self.folder.name, "echoring.toml")
        with open(config, "w") as file:
            file.write(CONFIG.format(messages=self.MESSAGES))
        self.flags = ("--config", config)

    def start_all(self, *names):
        return self.start(*names, flags=self.flags)

    def kill(self, node):
        node.process.send_signal(signal.SIGKILL)
        node.process.wait()

    async def accepted(self, node, topic, text, **headers):
        """Publishes until the topic has an owner. Returns the position."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                status, answer = await asyncio.to_thread(node.publish, topic, text, **headers)
                if status == 200:
                    return answer
                self.assertIn(answer["error"]["code"], ("unreachable", "uncertain", "busy"), answer)


class Owners(Durable):
    @asynchronous
    async def test_may_be_killed_and_nothing_that_was_accepted_is_lost_or_told_twice(self):
        nodes = self.start_all("a", "b", "c")
        async with Session(nodes[0]) as session:
            epochs = {}
            for topic in TOPICS:
                epochs[topic] = (await session.subscribe(topic))["epoch"]
                for number in range(3):
                    answer = await self.accepted(nodes[number], topic, f"before {number}")
                    self.assertEqual((answer["epoch"], answer["offset"]), (epochs[topic], number + 1))
            self.kill(nodes[1])
            self.kill(nodes[2])
            for topic in TOPICS:
                answer = await self.accepted(nodes[0], topic, "after", Idempotency_Key=f"after-{topic}")
                self.assertEqual(answer["epoch"], epochs[topic], "the epoch goes on")
                # Nobody was subscribed but here, and this node missed nothing.
                messages = await session.messages(topic, 4)
                self.assertEqual([message["offset"] for message in messages], [1, 2, 3, 4])
                texts = [message["text"] for message in messages]
                self.assertEqual(texts, ["before 0", "before 1", "before 2", "after"])

    @asynchronous
    async def test_may_all_be_killed(self):
        nodes = self.start_all("a", "b")
        begun = {}
        for topic in TOPICS:
            for number in range(20):
                begun[topic] = await self.accepted(nodes[number % 2], topic, f"before {number}")
        for node in nodes:
            self.kill(node)
        nodes = self.start_all("a", "b")
        for topic in TOPICS:
            answer = await self.accepted(nodes[0], topic, "after")
            self.assertEqual((answer["epoch"], answer["offset"]), (begun[topic]["epoch"], 21))
        async with Session(nodes[1]) as session:
            for topic in TOPICS:
                back = await session.subscribe(topic, {"epoch": begun[topic]["epoch"], "offset": 3})
                self.assertTrue(back["recovered"], back)
                messages = await session.messages(topic, 18)
                self.assertEqual([message["offset"] for message in messages], list(range(4, 22)))
                texts = [message["text"] for message in messages]
                self.assertEqual(texts, [f"before {number}" for number in range(3, 20)] + ["after"])

    @asynchronous
    async def test_know_what_was_published_to_another_with_an_idempotency_key(self):
        nodes = self.start_all("a", "b", "c")
        first = {topic: await self.accepted(nodes[0], topic, "once", Idempotency_Key="k") for topic in TOPICS}
        self.kill(nodes[1])
        self.kill(nodes[2])
        for topic in TOPICS:
            again = await self.accepted(nodes[0], topic, "once", Idempotency_Key="k")
            for field in ("epoch", "offset"):
                self.assertEqual(again[field], first[topic][field])
            status, answer = nodes[0].publish(topic, "something else", Idempotency_Key="k")
            self.assertEqual((status, answer["error"]["code"]), (422, "idempotency-key-reused"), answer)

    @asynchronous
    async def test_hand_over_in_the_same_epoch(self):
        nodes = self.start_all("a", "b")
        async with Session(nodes[0]) as session:
            epochs = {topic: (await session.subscribe(topic))["epoch"] for topic in TOPICS}
            for topic in TOPICS:
                await self.accepted(nodes[1], topic, "before")
            nodes[1].terminate()
            self.assertEqual(nodes[1].wait(), 0)
            for topic in TOPICS:
                answer = await self.accepted(nodes[0], topic, "after")
                self.assertEqual((answer["epoch"], answer["offset"]), (epochs[topic], 2))
                self.assertEqual([message["text"] for message in await session.messages(topic, 2)], ["before", "after"])


class History(Durable):
    @asynchronous
    async def test_of_many_publications_is_read_from_the_stream(self):
        nodes = self.start_all("a", "b")
        count = 3_000
        async with Session(nodes[0]) as session:
            epoch = (await session.subscribe("orders.x"))["epoch"]
            live = []
            for first in range(0, count, 100):
                for number in range(first, first + 100):
                    await session.request("publish", topic="orders.x", text=f"{number} {'x' * 100}")
                for _ in range(100):
                    self.assertEqual((await session.next("published", "error"))["type"], "published")
                live += await session.messages("orders.x", 100)
        self.assertEqual([message["offset"] for message in live], list(range(1, count + 1)))
        for node in nodes:
            for offset in (0, 1, 1_500, count - 3, count):
                async with Session(node) as session:
                    back = await session.subscribe("orders.x", {"epoch": epoch, "offset": offset})
                    self.assertTrue(back["recovered"], back)
                    messages = await session.messages("orders.x", count - offset)
                    for message, before in zip(messages, live[offset:], strict=True):
                        self.assertEqual((message["offset"], message["text"]), (before["offset"], before["text"]))

    @asynchronous
    async def test_is_read_by_event_streams_too(self):
        (node,) = self.start_all("a")
        for number in range(30):
            begun = await self.accepted(node, "orders.x", f"{number}")
        host, port = node.host, node.port
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(
            f"GET /sse/orders.x HTTP/1.1\r\nHost: {host}\r\nLast-Event-ID: {begun['epoch']}-2\r\n\r\n".encode()
        )
        received = b""
        async with asyncio.timeout(PATIENCE_S):
            while b"-30\n" not in received:
                received += await reader.read(65536)
        writer.close()
        for offset in range(3, 31):
            self.assertIn(f"-{offset}\n".encode(), received)
        self.assertNotIn(b"data: 1\n", received)


class Kept(Durable):
    MESSAGES = 10

    @asynchronous
    async def test_are_as_many_messages_as_the_topic_may_have(self):
        (node,) = self.start_all("a")
        for number in range(30):
            begun = await self.accepted(node, "orders.x", f"{number}")
        async with Session(node) as session:
            back = await session.subscribe("orders.x", {"epoch": begun["epoch"], "offset": 5})
            self.assertFalse(back["recovered"], back)
            gap = await session.next("gap", topic="orders.x")
            messages = await session.messages("orders.x", 10)
            self.assertEqual([message["text"] for message in messages], [f"{number}" for number in range(20, 30)], gap)


class KeptByBytes(Durable):
    def setUp(self):
        super().setUp()
        with open(self.flags[1], "a") as file:
            file.write('durable_bytes = "1MiB"\ndurable_age = "90m"\n')

    def stream(self):
        """What JetStream tells of the only stream."""
        client = NatsClient(self.nats)
        self.addCleanup(client.close)
        client.subscribe("_INBOX.answers")
        client.publish("$JS.API.STREAM.LIST", b"", "_INBOX.answers")
        (stream,) = json.loads(client.message()[3])["streams"]
        return stream

    @asynchronous
    async def test_are_as_many_bytes_and_as_old_as_the_topics_may_have_together(self):
        (node,) = self.start_all("a")
        text = "x" * 60_000
        for number in range(20):
            first = await self.accepted(node, "orders.x", f"{number:02}{text}")
        for number in range(15):
            await self.accepted(node, "orders.y", f"{number:02}{text}")
        async with Session(node) as session:
            back = await session.subscribe("orders.x", {"epoch": first["epoch"], "offset": 1})
            self.assertFalse(back["recovered"], back)
            gap = await session.next("gap", topic="orders.x")
            # The messages of the other topic are later, and take most of the stream.
            self.assertGreater(gap["to"], 10, gap)
            messages = await session.messages("orders.x", 20 - gap["to"])
            self.assertEqual([message["text"][:2] for message in messages], [f"{number:02}" for number in range(gap["to"], 20)])
        config = self.stream()["config"]
        self.assertEqual((config["max_age"], config["max_bytes"]), (90 * 60 * 10**9, 1 << 20))
        self.assertEqual(config["max_msgs_per_subject"], self.MESSAGES)


class UnderLoad(Durable, test_cluster.RollingUpgrade):
    """Rolling upgrades as of other topics, and nodes that are killed."""

    TOPICS = TOPICS
    # The next owner keeps few messages in memory. Subscribers of a node that lacks more come back, and get them from the stream.
    may_move = True

    async def upgrade_all(self, upgrade, flags=()):
        await super().upgrade_all(upgrade, flags=(*flags, *self.flags))

    def start(self, *names, flags=()):
        nodes = super().start(*names, flags=flags)
        # A topic without messages has no epoch that could outlive its owner.
        for topic in TOPICS:
            self.assertEqual(nodes[0].publish(topic, "first")[0], 200)
        return nodes

    def one(self, name, *flags):
        # A node that is started again has the flags of the first.
        return super().one(name, *(flags or self.flags))

    async def kill_and_start(self, name):
        node, self.nodes[name] = self.nodes[name], None
        await asyncio.to_thread(self.kill, node)
        await self.start_again(name)

    # A subscriber may have to come back to get messages from the stream.
    test_by_takeover_nobody_notices = None

    @asynchronous
    async def test_by_takeover_loses_and_doubles_nothing(self):
        await self.upgrade_all(self.take_over, flags=("--drain", "2s"))

    @asynchronous
    async def test_by_killing_each_node_loses_and_doubles_nothing(self):
        await self.upgrade_all(self.kill_and_start)


class Nothing(Durable):
    @asynchronous
    async def test_is_accepted_while_the_streams_are_away_and_nothing_is_lost_when_they_return(self):
        nodes = self.start_all("a", "b")
        async with Session(nodes[0]) as session:
            begun = await session.subscribe("orders.x")
            await self.accepted(nodes[1], "orders.x", "before")
            self.nats.stop()
            status, answer = await asyncio.to_thread(nodes[0].publish, "orders.x", "meanwhile")
            self.assertEqual(status, 503, answer)
            self.nats.start()
            answer = await self.accepted(nodes[1], "orders.x", "after")
            self.assertEqual(answer["epoch"], begun["epoch"])
            texts = [message["text"] for message in await session.messages("orders.x", answer["offset"])]
            # Whether the one in between was stored, its publisher was told that nobody knows.
            self.assertEqual([text for text in texts if text != "meanwhile"], ["before", "after"])

    def test_is_durable_without_a_cluster(self):
        run = subprocess.run(
            [BINARY, "serve", "--listen", "127.0.0.1:0", *self.flags], capture_output=True, text=True, timeout=PATIENCE_S
        )
        self.assertEqual(run.returncode, 2, run.stderr)
        self.assertIn("durable: has no effect without a cluster", run.stderr)


class Ahead(Durable):
    @asynchronous
    async def test_of_an_owner_that_was_replaced_without_hearing_of_it_nobody_is_put_back(self):
        relay = Relay("127.0.0.1", self.nats.port)
        self.addCleanup(relay.close)
        nodes = [Node(relay, "a", *self.flags), Node(self.nats, "b", *self.flags)]
        for node, other in zip(nodes, "ba"):
            self.addCleanup(node.__exit__)
            node.await_members(other)
        epochs = {topic: (await self.accepted(nodes[0], topic, "first"))["epoch"] for topic in TOPICS}
        async with Session(nodes[0]) as session:
            for topic in TOPICS:
                await session.subscribe(topic)
            with relay.cut():
                for topic in TOPICS:
                    answer = await self.accepted(nodes[1], topic, "second")
                    self.assertEqual((answer["epoch"], answer["offset"]), (epochs[topic], 2))
                asked = {}
                for topic in TOPICS:
                    await session.request("unsubscribe", topic=topic)
                    position = {"epoch": epochs[topic], "offset": 2}
                    asked[topic] = await session.request("subscribe", topic=topic, position=position)
                for topic in TOPICS:
                    event = await session.next("subscribed", "error", id=asked[topic])
                    # Of topics that it does not own, the node knows no position.
                    self.assertIn(event.get("code"), ("behind", "busy"), event)
            for topic in TOPICS:
                event = await session.subscribe(topic, {"epoch": epochs[topic], "offset": 2})
                self.assertEqual((event["recovered"], event["offset"]), (True, 2), event)
                answer = await self.accepted(nodes[1], topic, "third")
                self.assertEqual((answer["epoch"], answer["offset"]), (epochs[topic], 3))
                self.assertEqual([message["text"] for message in await session.messages(topic, 1)], ["third"])


class StreamAway(Durable):
    @asynchronous
    async def test_history_that_cannot_be_read_for_a_moment_is_no_gap(self):
        relay = Relay("127.0.0.1", self.nats.port)
        self.addCleanup(relay.close)
        node = PatientNode(relay, "a", *self.flags)
        self.addCleanup(node.__exit__)
        node.await_members()
        for number in range(30):
            begun = await self.accepted(node, "orders.x", f"{number}")
        async with Session(node) as session:
            with relay.cut():
                number = await session.request(
                    "subscribe", topic="orders.x", position={"epoch": begun["epoch"], "offset": 2}
                )
                event = await session.next("subscribed", "error", id=number)
                self.assertEqual((event["type"], event.get("code")), ("error", "behind"), event)
            back = await session.subscribe("orders.x", {"epoch": begun["epoch"], "offset": 2})
            self.assertTrue(back["recovered"], back)
            messages = await session.messages("orders.x", 28)
            self.assertEqual([message["offset"] for message in messages], list(range(3, 31)))


class Foreign(Durable):
    """Messages in a stream that no node has written."""

    def pollute(self, topic):
        client = NatsClient(self.nats)
        client.subscribe("_INBOX.names")
        client.publish("$JS.API.STREAM.NAMES", b"", "_INBOX.names")
        (stream,) = json.loads(client.message()[3])["streams"]
        subject = f"echoring.durable.{stream.rpartition('-')[2]}.{topic}"
        for payload in (b'{"topic":"x"}', b""):
            client.publish(subject, payload)
        client.send(b"PING\r\n")
        client.expect(b"PONG")
        client.close()

    @asynchronous
    async def test_are_skipped_and_end_nothing(self):
        nodes = self.start_all("a", "b")
        begun = {}
        for topic in TOPICS:
            begun[topic] = await self.accepted(nodes[0], topic, "first")
            self.pollute(topic)
            for number in range(10):
                answer = await self.accepted(nodes[number % 2], topic, f"{number}")
            self.assertEqual((answer["epoch"], answer["offset"]), (begun[topic]["epoch"], 11))
            self.pollute(topic)
        for node in nodes:
            self.kill(node)
        nodes = self.start_all("a", "b")
        async with Session(nodes[1]) as session:
            for topic in TOPICS:
                back = await session.subscribe(topic, {"epoch": begun[topic]["epoch"], "offset": 0})
                self.assertTrue(back["recovered"], back)
                messages = await session.messages(topic, 11)
                self.assertEqual([message["offset"] for message in messages], list(range(1, 12)))
                answer = await self.accepted(nodes[0], topic, "after")
                self.assertEqual((answer["epoch"], answer["offset"]), (begun[topic]["epoch"], 12))
        skipped = sum(node.status()["stream_foreign"] for node in nodes)
        self.assertGreaterEqual(skipped, 2 * len(TOPICS))
        for node in nodes:
            node.terminate()
            self.assertEqual(node.wait(), 0)
        self.assertIn("that no node wrote", "".join(line for node in nodes for line in node.log))


class WithoutStreams(InACluster):
    """Where nothing can be stored, clients and operators are told so."""

    def start_all(self):
        file = self.enterContext(text_file(CONFIG.format(messages=100)))
        return self.start("a", "b", flags=("--config", file))

    async def check(self, reason):
        nodes = self.start_all()
        # At the same time, because each is answered after seconds.
        published = (asyncio.to_thread(node.publish, topic, "text") for topic in TOPICS for node in nodes)
        for status, answer in await asyncio.gather(*published):
            self.assertEqual((status, answer["error"]["code"]), (503, "no-storage"), answer)
            self.assertIn("JetStream", answer["error"]["message"])
        for node in nodes:
            self.assertEqual(node.publish("other", "text")[0], 200)
        # One of the nodes owns the topic, and tells the other.
        for node in nodes:
            async with Session(node) as session:
                for number in [await session.request("subscribe", topic=topic) for topic in TOPICS]:
                    error = await session.next("error", id=number)
                    self.assertEqual((error["code"], "JetStream" in error["message"]), ("no-storage", True), error)
        for node in nodes:
            node.terminate()
            self.assertEqual(node.wait(), 0)
        log = "".join(line for node in nodes for line in node.log)
        self.assertIn("the stream of a durable topic cannot be used", log)
        self.assertIn(reason, log)


class WithoutJetStream(WithoutStreams):
    @asynchronous
    async def test_publications_are_refused_with_the_reason(self):
        await self.check("jetstream unavailable")


class WithoutRoom(WithoutStreams):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        config = os.path.join(folder.name, "nats.conf")
        with open(config, "w") as file:
            file.write(f'jetstream {{ store_dir: "{folder.name}", max_file_store: 1MB }}\n')
        self.nats = Nats("-c", config)
        self.addCleanup(self.nats.close)

    @asynchronous
    async def test_publications_are_refused_with_the_reason(self):
        await self.check("insufficient storage resources")


if __name__ == "__main__":
    unittest.main()
