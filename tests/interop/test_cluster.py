"""Several nodes on one NATS server: one order of messages wherever they are published and received, and what clients are told when
nodes come, leave and die."""

import asyncio
import concurrent.futures
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import unittest

import trustme
from harness import BINARY, PATIENCE_S, Server, refusing_port, request, suspended, text_file, wait_until
from relay import Relay
from test_tls import client, files
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

SUBPROTOCOL = "echoring.v1.json"
# Debian installs it where only root looks.
NATS = shutil.which("nats-server") or shutil.which("/usr/sbin/nats-server")
# Fast enough for tests, slow enough for a machine that is busy.
TIMES = ("--cluster-heartbeat", "200ms", "--cluster-member-timeout", "2s")
TOPICS = [f"topic-{number}" for number in range(12)]


class Nats:
    """A NATS server on a port that it keeps when it is started again."""

    def __init__(self, *flags):
        self.flags = flags
        self.folder = tempfile.TemporaryDirectory()
        self.port = None
        self.process = None
        self.reservation = contextlib.ExitStack()
        self.start()

    def start(self):
        port = str(self.port or -1)
        log = os.path.join(self.folder.name, "log")
        command = [NATS, "-a", "127.0.0.1", "-p", port, "--ports_file_dir", self.folder.name, "-l", log, *self.flags]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        file = os.path.join(self.folder.name, f"nats-server_{self.process.pid}.ports")

        def ports():
            with contextlib.suppress(OSError, ValueError), open(file) as written:
                return json.load(written)

        self.port = int(wait_until(ports, "the ports of nats-server")["nats"][0].rpartition(":")[2])
        self.reservation.close()

    def stop(self):
        self.process.kill()
        self.process.wait()
        # Nobody else gets the port meanwhile.
        self.reservation.enter_context(refusing_port(self.port))

    def close(self):
        self.stop()
        self.reservation.close()
        self.folder.cleanup()


class Node(Server):
    """A node of the cluster."""


    def __init__(self, nats, name, *flags, **addresses):
        self.nats, self.name, self.flags = nats, name, flags
        super().__init__("--shards", "2", *self.cluster(), *self.times(), *flags, **addresses)

    def cluster(self):
        return ["--cluster", f"nats://127.0.0.1:{self.nats.port}", "--node", self.name]

    def times(self):
        return TIMES

    def addresses(self):
        host, port = self.admin
        return {"listen": f"{self.host}:{self.port}", "admin": f"{host}:{port}"}

    def successor(self):
        """A node that has taken over from this one, which drains."""
        flags = [*(flag for flag in self.flags if flag != "--takeover"), "--takeover"]
        return type(self)(self.nats, self.name, *flags, **self.addresses())

    def status(self):
        code, _, body = self.get("/cluster")
        assert code == 200, (code, body)
        return json.loads(body)

    def await_members(self, *names):
        """Waits until the node may own topics together with these nodes, and no others."""

        def sees_them():
            status = self.status()
            active = sorted(member["node"] for member in status["members"] if member["phase"] == "active")
            return status["open"] and active == sorted(names)

        wait_until(sees_them, lambda: f"{self.name} sees {names}: {self.status()}")

    async def publish_text(self, topic):
        return await asyncio.to_thread(self.publish, topic, "text")

    def publish(self, topic, text, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        headers = {"Content-Type": "text/plain", **headers}
        status, _, body = request(self.admin, "POST", f"/topics/{topic}", text.encode(), headers)
        return status, json.loads(body)


class Session:
    """A session of `echoring.v1.json`."""

    def __init__(self, node, tls=None):
        self.node = node
        self.tls = tls
        self.events = []
        self.ids = 0

    async def __aenter__(self):
        # With a bounded queue, a session whose messages are unread at the end would wait for the Close frame until a timeout.
        url, options = self.node.url("/broadcast"), {"compression": None, "max_queue": None}
        if self.tls is not None:
            url, options = url.replace("ws://", "wss://"), {"ssl": self.tls, **options}
        self.socket = await connect(url, subprotocols=[SUBPROTOCOL], **options)
        return self

    async def __aexit__(self, *_):
        await self.socket.close()

    async def request(self, kind, **fields):
        self.ids += 1
        await self.socket.send(json.dumps({"type": kind, "id": self.ids, **fields}))
        return self.ids

    async def next(self, *kinds, **fields):
        """The next event of these kinds with these fields. Others are kept for later calls."""
        is_wanted = lambda event: event["type"] in kinds and fields.items() <= event.items()
        for index, event in enumerate(self.events):
            if is_wanted(event):
                return self.events.pop(index)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                event = json.loads(await self.socket.recv())
                if is_wanted(event):
                    return event
                self.events.append(event)

    async def subscribe(self, topic, position=None):
        """Subscribes, as soon as the topic has an owner."""
        fields = {"position": position} if position else {}
        began = time.monotonic()
        while True:
            number = await self.request("subscribe", topic=topic, **fields)
            event = await self.next("subscribed", "error", id=number)
            if event["type"] == "subscribed":
                return event
            assert event["code"] in ("busy", "behind") and time.monotonic() < began + PATIENCE_S, event

    async def publish(self, topic, text, **fields):
        number = await self.request("publish", topic=topic, text=text, **fields)
        return await self.next("published", "error", id=number)

    async def messages(self, topic, count):
        return [await self.next("message", topic=topic) for _ in range(count)]


def asynchronous(test):
    def run(self):
        return asyncio.run(test(self))

    run.__name__ = test.__name__
    return run


@unittest.skipIf(NATS is None, "nats-server is not installed")
class InACluster(unittest.TestCase):
    NATS_FLAGS = ()

    def setUp(self):
        self.nats = Nats(*self.NATS_FLAGS)
        self.addCleanup(self.nats.close)

    def start(self, *names, flags=()):
        nodes = [self.one(name, *flags) for name in names]
        for node in nodes:
            node.await_members(*(other for other in names if other != node.name))
        return nodes

    def one(self, name, *flags):
        node = Node(self.nats, name, *flags)
        self.addCleanup(node.__exit__)
        return node

    def tls(self):
        """The flags of a node whose connections cannot move, as they speak TLS, and the context of its clients."""
        authority = trustme.CA()
        folder = self.enterContext(files())
        return folder.certificate("node", authority.issue_cert("127.0.0.1")), client(authority)

    def write(self, text, suffix):
        file = tempfile.NamedTemporaryFile("w", suffix=suffix)
        self.addCleanup(file.close)
        file.write(text)
        file.flush()
        return file


class OneOrder(InACluster):
    @asynchronous
    async def test_of_each_topic_wherever_it_is_published_and_received(self):
        nodes = self.start("a", "b", "c")
        async with Session(nodes[0]) as one, Session(nodes[1]) as two, Session(nodes[2]) as three:
            sessions = [one, two, three]
            for topic in TOPICS:
                begun = [await session.subscribe(topic) for session in sessions]
                self.assertEqual(len({event["epoch"] for event in begun}), 1, begun)
            published = {}
            for round in range(20):
                for topic in TOPICS:
                    publisher = sessions[round % 3]
                    answer = await publisher.publish(topic, f"{topic} {round}")
                    self.assertEqual(answer["type"], "published", answer)
                    published.setdefault(topic, []).append(answer["offset"])
            for topic in TOPICS:
                self.assertEqual(published[topic], list(range(1, 21)))
                for session in sessions:
                    messages = await session.messages(topic, 20)
                    self.assertEqual([message["offset"] for message in messages], published[topic])
                    self.assertEqual([message["text"] for message in messages], [f"{topic} {n}" for n in range(20)])

    @asynchronous
    async def test_of_many_publications_at_once(self):
        nodes = self.start("a", "b")
        async with Session(nodes[0]) as one, Session(nodes[1]) as two:
            await one.subscribe("t")
            await two.subscribe("t")
            for number in range(500):
                for session in (one, two):
                    await session.request("publish", topic="t", text=str(number))
            seen = []
            for session in (one, two):
                messages = await session.messages("t", 1000)
                self.assertEqual([message["offset"] for message in messages], list(range(1, 1001)))
                seen.append([message["text"] for message in messages])
            self.assertEqual(seen[0], seen[1])
            for session in (one, two):
                for _ in range(500):
                    self.assertEqual((await session.next("published", "error"))["type"], "published")

    @asynchronous
    async def test_of_raw_routes_whose_publishers_do_not_get_their_own_messages(self):
        nodes = self.start("a", "b")
        for topic in TOPICS:
            async with (
                connect(nodes[0].url(f"/broadcast/{topic}")) as one,
                connect(nodes[1].url(f"/broadcast/{topic}")) as two,
                connect(nodes[1].url(f"/broadcast/{topic}?echo=self")) as three,
            ):
                await one.send("from one")
                self.assertEqual(await asyncio.wait_for(two.recv(), PATIENCE_S), "from one")
                self.assertEqual(await asyncio.wait_for(three.recv(), PATIENCE_S), "from one")
                await two.send("from two")
                self.assertEqual(await asyncio.wait_for(one.recv(), PATIENCE_S), "from two")
                self.assertEqual(await asyncio.wait_for(three.recv(), PATIENCE_S), "from two")
                await one.send("last")
                # Behind its own message, of which it got nothing.
                self.assertEqual(await asyncio.wait_for(two.recv(), PATIENCE_S), "last")

    @asynchronous
    async def test_of_the_operator_who_publishes_at_any_node(self):
        nodes = self.start("a", "b")
        async with Session(nodes[0]) as session:
            for topic in TOPICS:
                epoch = (await session.subscribe(topic))["epoch"]
                for offset, node in enumerate(nodes * 2, 1):
                    status, answer = node.publish(topic, f"at {node.name}")
                    self.assertEqual((status, answer["offset"], answer["epoch"]), (200, offset, epoch), answer)
                texts = [message["text"] for message in await session.messages(topic, 4)]
                self.assertEqual(texts, ["at a", "at b"] * 2)

    @asynchronous
    async def test_of_publications_that_are_retried_at_another_node(self):
        nodes = self.start("a", "b")
        async with Session(nodes[0]) as one, Session(nodes[1]) as two:
            for topic in TOPICS:
                first = await one.publish(topic, "once", idempotency_key="k")
                again = await two.publish(topic, "once", idempotency_key="k")
                self.assertEqual((first["epoch"], first["offset"]), (again["epoch"], again["offset"]))
                other = await two.publish(topic, "another", idempotency_key="k")
                self.assertEqual(other["code"], "idempotency-key-reused")


class OwnMessages(InACluster):
    @asynchronous
    async def test_do_not_wait_behind_the_results_of_their_publications(self):
        """A connection with a result in its outbox takes no messages. One that nothing wakes again is looked at once a second."""
        nodes, began = self.start("a", "b"), time.monotonic()
        for node in nodes:
            for topic in TOPICS:
                async with Session(node) as session:
                    await session.subscribe(topic)
                    for _ in range(5):
                        self.assertEqual((await session.publish(topic, "mine"))["type"], "published")
                        await session.messages(topic, 1)
        self.assertLess(time.monotonic() - began, 12, "120 messages; many of them came late")


class Returning(InACluster):
    @asynchronous
    async def test_a_client_recovers_at_another_node(self):
        nodes = self.start("a", "b")
        for topic in TOPICS:
            async with Session(nodes[0]) as session:
                begun = await session.subscribe(topic)
                nodes[0].publish(topic, "first")
                await session.messages(topic, 1)
            for text in ("second", "third"):
                self.assertEqual(nodes[1].publish(topic, text)[0], 200)
            async with Session(nodes[1]) as session:
                back = await session.subscribe(topic, {"epoch": begun["epoch"], "offset": 1})
                self.assertEqual((back["recovered"], back["epoch"]), (True, begun["epoch"]), back)
                texts = [message["text"] for message in await session.messages(topic, 2)]
                self.assertEqual(texts, ["second", "third"])

    @asynchronous
    async def test_a_newcomer_gets_the_latest_message_of_each_key_at_any_node(self):
        with text_file('[topic_defaults]\nslow = "conflate"\n') as file:
            nodes = self.start("a", "b", flags=("--config", file))
            async with Session(nodes[0]) as session:
                for topic in TOPICS:
                    for number in range(6):
                        answer = await session.publish(topic, f"state {number}", key=f"k{number % 3}")
                        self.assertEqual(answer["type"], "published", answer)
            third = self.one("c", "--config", file)
            third.await_members("a", "b")
            for node in (*nodes, third):
                async with Session(node) as session:
                    for topic in TOPICS:
                        await session.subscribe(topic)
                        messages = await session.messages(topic, 3)
                        self.assertEqual([message["text"] for message in messages], ["state 3", "state 4", "state 5"])

    @asynchronous
    async def test_a_node_that_stops_hands_its_topics_over_and_nobody_misses_anything(self):
        nodes = self.start("a", "b", "c")
        async with Session(nodes[0]) as session:
            epochs = {}
            for topic in TOPICS:
                epochs[topic] = (await session.subscribe(topic))["epoch"]
                self.assertEqual(nodes[1].publish(topic, "before")[0], 200)
            for stopping, others in ((nodes[1], ["c"]), (nodes[2], [])):
                stopping.terminate()
                self.assertEqual(stopping.wait(), 0)
                nodes[0].await_members(*others)
                for topic in TOPICS:
                    status, answer = nodes[0].publish(topic, f"without {stopping.name}")
                    self.assertEqual((status, answer["epoch"]), (200, epochs[topic]), answer)
            for topic in TOPICS:
                messages = await session.messages(topic, 3)
                self.assertEqual([message["offset"] for message in messages], [1, 2, 3])
                self.assertEqual([message["text"] for message in messages], ["before", "without b", "without c"])

    @asynchronous
    async def test_a_node_that_joins_takes_topics_over_and_nobody_misses_anything(self):
        (first,) = self.start("a")
        async with Session(first) as session:
            epochs = {}
            for topic in TOPICS:
                epochs[topic] = (await session.subscribe(topic))["epoch"]
                self.assertEqual(first.publish(topic, "before")[0], 200)
            second = self.one("b")
            second.await_members("a")
            first.await_members("b")
            for topic in TOPICS:
                for node in (first, second):
                    status, answer = node.publish(topic, f"at {node.name}")
                    self.assertEqual((status, answer["epoch"]), (200, epochs[topic]), answer)
                messages = await session.messages(topic, 3)
                self.assertEqual([message["text"] for message in messages], ["before", "at a", "at b"])


class PatientNode(Node):
    """Takes nobody for dead who is silent for some seconds."""

    def times(self):
        return ("--cluster-heartbeat", "200ms", "--cluster-member-timeout", "20s")


class Behind(InACluster):
    """A client returns to a node that has not yet received what another node has sent to the client."""

    @asynchronous
    async def test_it_waits_for_that_and_recovers(self):
        slow = Relay("127.0.0.1", self.nats.port)
        self.addCleanup(slow.close)
        nodes = [PatientNode(self.nats, "a"), PatientNode(slow, "b")]
        for node, other in zip(nodes, "ba"):
            self.addCleanup(node.__exit__)
            node.await_members(other)
        async with Session(nodes[0]) as first, Session(nodes[1]) as other, Session(nodes[1]) as back:
            begun = {}
            for topic in TOPICS:
                begun[topic] = await first.subscribe(topic)
                # The node follows the topic.
                await other.subscribe(topic)
            with slow.held():
                for topic in TOPICS:
                    await first.request("publish", topic=topic, text="on its way")
                # Of a topic that the first node owns.
                topic = (await first.next("message"))["topic"]
                position = {"epoch": begun[topic]["epoch"], "offset": 1}
                number = await back.request("subscribe", topic=topic, position=position)
                await (await back.socket.ping())
            event = await back.next("subscribed", "error", id=number)
            self.assertEqual((event["type"], event.get("recovered"), event["offset"]), ("subscribed", True, 1), event)
            status, answer = await asyncio.to_thread(nodes[1].publish, topic, "after")
            self.assertEqual((status, answer["offset"]), (200, 2), answer)
            message = await back.next("message", "gap", "unsubscribed", topic=topic)
            self.assertEqual((message["type"], message["offset"], message["text"]), ("message", 2, "after"), message)

    @asynchronous
    async def test_it_is_told_to_try_again_and_never_put_back(self):
        slow = Relay("127.0.0.1", self.nats.port)
        self.addCleanup(slow.close)
        nodes = [PatientNode(self.nats, "a"), PatientNode(slow, "b")]
        for node, other in zip(nodes, "ba"):
            self.addCleanup(node.__exit__)
            node.await_members(other)
        async with Session(nodes[0]) as first, Session(nodes[1]) as other, Session(nodes[1]) as back:
            epochs = {}
            for topic in TOPICS:
                epochs[topic] = (await first.subscribe(topic))["epoch"]
                await other.subscribe(topic)
            with slow.held():
                for topic in TOPICS:
                    await first.request("publish", topic=topic, text="on its way")
                topic = (await first.next("message"))["topic"]
                position = {"epoch": epochs[topic], "offset": 1}
                number = await back.request("subscribe", topic=topic, position=position)
                event = await back.next("subscribed", "error", id=number)
                self.assertEqual((event["type"], event.get("code")), ("error", "behind"), event)
                self.assertIn("another node", event["message"])
            # The error was a temporary one.
            event = await back.subscribe(topic, position)
            self.assertEqual((event["recovered"], event["offset"]), (True, 1), event)

    @asynchronous
    async def test_a_position_that_no_node_has_ends_a_subscription_at_the_owner_only(self):
        nodes = self.start("a", "b")
        answers = []
        for node in nodes:
            async with Session(node) as session:
                epoch = (await session.subscribe(TOPICS[0]))["epoch"]
                await session.next("unsubscribed", id=await session.request("unsubscribe", topic=TOPICS[0]))
                number = await session.request("subscribe", topic=TOPICS[0], position={"epoch": epoch, "offset": 99})
                back = await session.next("subscribed", "error", id=number)
                answers.append(back.get("code", back.get("recovered")))
        self.assertCountEqual(answers, ["behind", False])


class SilentOwner(InACluster):
    @asynchronous
    async def test_clients_of_centrifuges_protocol_are_answered_before_their_sdks_give_up(self):
        """Which do that after 5 s, however long a handshake may take."""
        nodes = [PatientNode(self.nats, name, "--handshake-timeout", "60s") for name in "ab"]
        for node, other in zip(nodes, "ba"):
            self.addCleanup(node.__exit__)
            node.await_members(other)
        with suspended(nodes[1].process):
            async with connect(nodes[0].url("/connection/websocket"), close_timeout=1) as client:
                commands = [{"id": 1, "connect": {}}]
                commands += [{"id": id, "subscribe": {"channel": topic}} for id, topic in enumerate(TOPICS, 2)]
                await client.send("\n".join(json.dumps(command) for command in commands))
                answers = {}
                async with asyncio.timeout(PATIENCE_S):
                    while len(answers) < len(commands):
                        for line in (await client.recv()).split("\n"):
                            reply = json.loads(line)
                            answers.update({reply["id"]: reply} if "id" in reply else {})
        errors = [answer["error"] for answer in answers.values() if "error" in answer]
        self.assertTrue(0 < len(errors) < len(TOPICS), answers)
        self.assertEqual({(error["code"], error["temporary"]) for error in errors}, {(100, True)})


class LocalEpochs(InACluster):
    @asynchronous
    async def test_begin_while_the_backbone_is_away_and_end_with_that(self):
        with text_file('[[topics]]\npattern = "topic-*"\nlocal_epochs = true\n') as file:
            nodes = self.start("a", "b", flags=("--config", file))
            async with Session(nodes[0]) as one, Session(nodes[1]) as two:
                sessions = {"a": one, "b": two}
                before = {}
                for topic in TOPICS:
                    for session in sessions.values():
                        before[topic] = (await session.subscribe(topic))["epoch"]
                    self.assertEqual(int(before[topic], 16) % 2, 1)
                self.nats.stop()
                kept = {"a": 0, "b": 0}
                for node in nodes:
                    session = sessions[node.name]
                    for topic in TOPICS:
                        answer = {"code": "unreachable"}
                        async with asyncio.timeout(PATIENCE_S):
                            while answer.get("code") in ("unreachable", "uncertain"):
                                answer = await session.publish(topic, f"at {node.name}")
                        self.assertEqual(answer["type"], "published", answer)
                        if answer["epoch"] == before[topic]:
                            kept[node.name] += 1
                        else:
                            self.assertEqual(int(answer["epoch"], 16) % 2, 0, "a local epoch is even")
                            await session.next("unsubscribed", topic=topic, reason="moved")
                            back = await session.subscribe(topic)
                            self.assertEqual(back["epoch"], answer["epoch"])
                self.assertEqual(kept["a"] + kept["b"], len(TOPICS), "each topic goes on at its owner, in its epoch")
                self.nats.start()
                for node, other in ((nodes[0], "b"), (nodes[1], "a")):
                    node.await_members(other)
                for topic in TOPICS:
                    epochs = set()
                    for node in nodes:
                        await sessions[node.name].next("unsubscribed", topic=topic, reason="moved")
                        back = await sessions[node.name].subscribe(topic)
                        epochs.add(back["epoch"])
                    self.assertEqual(len(epochs), 1, "all are in one epoch again")
                    self.assertEqual({int(epoch, 16) % 2 for epoch in epochs}, {1})
                    status, answer = nodes[0].publish(topic, "after")
                    self.assertEqual((status, answer["epoch"]), (200, *epochs), answer)


class RollingUpgrade(InACluster):
    """Every node is stopped and started again, one after the other, under load."""

    NAMES = ("a", "b", "c")
    TOPICS = TOPICS[:6]
    # Whether subscribers may be told to come back from their position.
    may_move = False
    # Whether connections may be closed, to be opened again elsewhere.
    may_close = True

    def up(self):
        return [node for node in self.nodes.values() if node is not None]

    async def follow(self, topic, first):
        """Follows a topic, from its position, wherever there is a node. Returns the texts, in order."""
        texts, position, number = [], None, first
        while True:
            number += 1
            nodes = self.up()
            try:
                async with Session(nodes[number % len(nodes)]) as session:
                    begun = await session.subscribe(topic, position)
                    if position is None:
                        self.subscribed.release()
                    else:
                        self.assertEqual((begun["recovered"], begun["epoch"]), (True, position["epoch"]), (begun, position))
                    position = {"epoch": begun["epoch"], "offset": begun["offset"]}
                    while True:
                        event = await session.next("message", "gap", "unsubscribed", topic=topic)
                        if self.may_move and event["type"] == "unsubscribed":
                            break
                        self.assertEqual((event["type"], event["offset"]), ("message", position["offset"] + 1), event)
                        position["offset"] = event["offset"]
                        if event["text"] == "the end":
                            return texts
                        texts.append(event["text"])
            except (ConnectionClosed, OSError):
                self.assertTrue(self.may_close)
                # The node stops. Close frames of a drain come behind everything that was published before.
                await asyncio.sleep(0.01)

    async def publish(self, topic, publisher):
        """Publishes until it is told to stop, each message until it is acknowledged. Returns the texts, in order."""
        texts, number = [], publisher
        while not self.stopping:
            nodes = self.up()
            number += 1
            try:
                async with Session(nodes[number % len(nodes)]) as session:
                    while not self.stopping:
                        text = f"{topic} {publisher} {len(texts)}"
                        answer = await session.publish(topic, text, idempotency_key=text)
                        if answer["type"] == "published":
                            texts.append(text)
                        else:
                            self.assertIn(answer["code"], ("draining", "busy", "unreachable", "uncertain"), answer)
                            break
                        await asyncio.sleep(0.005)
            except (ConnectionClosed, OSError):
                self.assertTrue(self.may_close)
                await asyncio.sleep(0.01)
        return texts

    async def hear(self, topic, node):
        """Follows a topic as a raw subscriber. Returns the texts, in order."""
        texts = []
        async with connect(node.url(f"/broadcast/{topic}"), compression=None, max_queue=None) as socket:
            self.subscribed.release()
            async for text in socket:
                if text == "the end":
                    return texts
                texts.append(text)
        self.fail("it was closed")

    async def stop_and_start(self, name):
        node, self.nodes[name] = self.nodes[name], None
        await asyncio.to_thread(node.terminate)
        self.assertEqual(await asyncio.to_thread(node.wait), 0)
        await self.start_again(name)

    async def start_again(self, name):
        node = await asyncio.to_thread(self.one, name)
        for seeing in [node, *self.up()]:
            await asyncio.to_thread(seeing.await_members, *(o for o in self.NAMES if o != seeing.name))
        self.nodes[name] = node

    async def take_over(self, name):
        node = self.nodes[name]
        self.nodes[name] = await asyncio.to_thread(node.successor)
        self.addCleanup(self.nodes[name].__exit__)
        self.assertEqual(await asyncio.to_thread(node.wait), 0)
        for seeing in self.up():
            await asyncio.to_thread(seeing.await_members, *(o for o in self.NAMES if o != seeing.name))

    @asynchronous
    async def test_by_stop_and_start_loses_and_doubles_nothing(self):
        await self.upgrade_all(self.stop_and_start)

    @asynchronous
    async def test_by_takeover_nobody_notices(self):
        self.may_close = False
        # Without a history: messages of the time of a move are kept for those that move. The old processes end because no connection
        # stays there.
        config = self.write("[topic_defaults]\nhistory_messages = 0\n", ".toml")
        await self.upgrade_all(self.take_over, flags=("--drain", "1h", "--config", config.name))

    async def upgrade_all(self, upgrade, flags=()):
        self.nodes = dict(zip(self.NAMES, self.start(*self.NAMES, flags=flags)))
        self.stopping = False
        self.subscribed = asyncio.Semaphore(0)
        subscribers = {
            topic: [asyncio.create_task(self.follow(topic, first)) for first in range(3)] for topic in self.TOPICS
        }
        if not self.may_close:
            for topic in self.TOPICS:
                subscribers[topic] += [asyncio.create_task(self.hear(topic, node)) for node in self.up()]
        for _ in range(sum(map(len, subscribers.values()))):
            await asyncio.wait_for(self.subscribed.acquire(), PATIENCE_S)
        publishers = {
            topic: [asyncio.create_task(self.publish(topic, number)) for number in range(2)] for topic in self.TOPICS
        }
        for name in self.NAMES:
            await upgrade(name)
        self.stopping = True
        published = {topic: [await task for task in tasks] for topic, tasks in publishers.items()}
        for topic in self.TOPICS:
            status, answer = await asyncio.to_thread(self.nodes["a"].publish, topic, "the end")
            self.assertEqual(status, 200, answer)
        for topic, tasks in subscribers.items():
            received = [await asyncio.wait_for(task, PATIENCE_S) for task in tasks]
            for texts in received:
                self.assertEqual(texts, received[0], "one order")
                for publisher, own in enumerate(published[topic]):
                    prefix = f"{topic} {publisher} "
                    self.assertEqual([text for text in texts if text.startswith(prefix)], own)


class Reports(InACluster):
    def get(self, node, path, method="GET", code=200):
        status, _, body = node.get(path, method)
        self.assertEqual(status, code, body)
        return json.loads(body) if body.startswith(b"{") else body.decode()

    @asynchronous
    async def test_of_all_nodes_are_given_by_each(self):
        nodes = self.start("a", "b", "c")
        async with Session(nodes[0]) as one, Session(nodes[1]) as two, Session(nodes[1]) as third:
            for topic in TOPICS:
                for session in (one, two, third):
                    await session.subscribe(topic)
                await one.publish(topic, "text")
                for session in (one, two, third):
                    await session.next("message", topic=topic)
            for node in nodes:
                report = await asyncio.to_thread(self.get, node, "/cluster/topics")
                self.assertEqual((report["schema"], report["silent_nodes"]), ("echoring.cluster.reports/1", 0))
                self.assertEqual(sorted(of_node["node"] for of_node in report["nodes"]), ["a", "b", "c"])
                topics = {topic["topic"]: (topic["subscribers"], topic["position"]["offset"]) for topic in report["topics"]}
                self.assertEqual(topics, {topic: (3, 1) for topic in TOPICS})
            connections = await asyncio.to_thread(self.get, nodes[2], "/cluster/connections?topic=topic-1")
            counts = {of_node["node"]: len(of_node["report"]["connections"]) for of_node in connections["nodes"]}
            self.assertEqual(counts, {"a": 1, "b": 2, "c": 0})
            only = await asyncio.to_thread(self.get, nodes[2], "/cluster/stats?node=b")
            self.assertEqual([of_node["report"]["pid"] for of_node in only["nodes"]], [nodes[1].pid])
            # Errors are those of the nodes.
            wrong = await asyncio.to_thread(self.get, nodes[0], "/cluster/topics?limit=x")
            self.assertEqual({of_node["status"] for of_node in wrong["nodes"]}, {400})
            await asyncio.to_thread(self.get, nodes[0], "/cluster/topics?node=nobody", code=400)
            await asyncio.to_thread(self.get, nodes[0], "/cluster/nothing", code=404)
            # The operator closes connections wherever they are.
            closed = await asyncio.to_thread(self.get, nodes[2], "/cluster/connections?topic=topic-1", "DELETE")
            counts = {of_node["node"]: of_node["report"]["closed"] for of_node in closed["nodes"]}
            self.assertEqual(counts, {"a": 1, "b": 2, "c": 0})
            for session in (one, two, third):
                with self.assertRaises(ConnectionClosed) as ended:
                    await session.next("nothing")
                self.assertEqual(ended.exception.rcvd.code, 4010)

    @asynchronous
    async def test_have_the_connections_of_a_node_that_was_taken_over(self):
        flags, tls = self.tls()
        first, other = self.start("a", "b", flags=("--drain", "24h", *flags))
        async with Session(first, tls) as session, Session(first, tls) as second, Session(other, tls) as elsewhere:
            for each in (session, second, elsewhere):
                await each.subscribe("topic-1")
            successor = await asyncio.to_thread(first.successor)
            self.addCleanup(successor.__exit__)
            async with Session(successor, tls) as later:
                await later.subscribe("topic-1")
                listed = await asyncio.to_thread(self.get, successor, "/connections?topic=topic-1")
                processes = sorted(one.get("process", "own") for one in listed["connections"])
                self.assertEqual(processes, ["own", "predecessor", "predecessor"])
                everywhere = await asyncio.to_thread(self.get, other, "/cluster/connections?topic=topic-1")
                # The old process answers no other node any more: its successor does.
                answers = [node["report"] for node in everywhere["nodes"] if node["status"] == 200]
                self.assertEqual(sum(len(answer["connections"]) for answer in answers), 4, everywhere)
                closed = next(one["id"] for one in listed["connections"] if "process" in one)
                answer = await asyncio.to_thread(self.get, successor, f"/connections/{closed}", "DELETE")
                self.assertEqual(answer["closed"], 1)
                answer = await asyncio.to_thread(self.get, successor, "/connections?topic=topic-1", "DELETE")
                self.assertIn(answer["closed"], (2, 3))
                for each in (session, second, later):
                    with self.assertRaises(ConnectionClosed) as ended:
                        await each.next("nothing")
                    self.assertEqual(ended.exception.rcvd.code, 4010)
            # The old process has nothing left to wait for.
            self.assertEqual(await asyncio.to_thread(first.wait), 0)
            listed = await asyncio.to_thread(self.get, successor, "/connections")
            self.assertEqual((listed["connections"], listed.get("predecessor")), ([], None))

    def test_are_long_and_name_nodes_that_do_not_answer(self):
        nodes = self.start("a", "b")
        # More than one message of NATS.
        names = [f"{'x' * 200}-{number}" for number in range(1500)]
        for number, name in enumerate(names):
            self.assertEqual(nodes[number % 2].publish(name, "text")[0], 200)
        report = self.get(nodes[0], "/cluster/topics?limit=10000")
        self.assertEqual(report["silent_nodes"], 0)
        self.assertEqual([topic["topic"] for topic in report["topics"]], sorted(names))
        with suspended(nodes[1].process):
            report = self.get(nodes[0], "/cluster/topics?limit=1")
        self.assertEqual(report["silent_nodes"], 1)
        self.assertEqual({of_node["node"]: "error" in of_node for of_node in report["nodes"]}, {"a": False, "b": True})


class Different(InACluster):
    """Nodes that should have something in common, and have not."""

    def rewrite(self, file, text):
        file.seek(0)
        file.truncate()
        file.write(text)
        file.flush()

    def until(self, node, field, expected):
        """Waits until the node sees the other one so."""
        seen = lambda: [member[field] for member in node.status()["members"]]  # noqa: E731
        wait_until(lambda: seen() == [expected], lambda: f"{node.name} sees {field} as {expected}: {seen()}")

    def shown(self, node):
        """What `cluster status` and the metrics say."""
        status = subprocess.run(
            [BINARY, "cluster", "status", "--admin", f"{node.admin[0]}:{node.admin[1]}"], capture_output=True, text=True
        ).stdout
        metrics = node.get("/metrics")[2].decode()
        return status, [line for line in metrics.splitlines() if "_differ" in line and not line.startswith("#")]

    def test_settings_of_topics_are_shown_and_a_reload_ends_that(self):
        durable = '[[topics]]\npattern = "orders.*"\ndurable = true\n'
        files = [self.write(text, ".toml") for text in (durable, "")]
        one, two = (self.one(name, "--config", file.name) for name, file in zip("ab", files))
        for node, other in ((one, two), (two, one)):
            node.await_members(other.name)
            self.until(node, "settings_differ", True)
            status, metrics = self.shown(node)
            self.assertIn("different topic settings", status)
            self.assertIn(f'echoring_cluster_settings_differ{{peer="{other.name}"}} 1', metrics)
            self.assertIn(f'echoring_cluster_key_differs{{peer="{other.name}"}} 0', metrics)
        self.rewrite(files[1], durable)
        code, _, report = two.get("/reload", "POST")
        self.assertEqual(code, 200, report)
        for node in (one, two):
            self.until(node, "settings_differ", False)
            self.assertNotIn("different topic settings", self.shown(node)[0])

    def test_another_key_is_told_at_once(self):
        keys = [self.write(letter * 20 + "\n", ".key") for letter in "xy"]
        nodes = [self.one(name, "--cluster-key-file", key.name) for name, key in zip("ab", keys)]
        for node in nodes:
            self.until(node, "key_differs", True)
            self.assertIn("different key_file", self.shown(node)[0])
        for node in nodes:
            node.terminate()
            self.assertEqual(node.wait(), 0)
            self.assertEqual("".join(node.log).count("has a different key"), 1, node.log)


class NatsClient:
    """A client of NATS, by its protocol."""

    def __init__(self, nats, **credentials):
        self.socket = socket.create_connection(("127.0.0.1", nats.port), PATIENCE_S)
        self.stream = self.socket.makefile("rwb")
        self.stream.readline()
        options = {"verbose": False, "headers": True, "no_responders": True, **credentials}
        self.send(b"CONNECT %s\r\nPING\r\n" % json.dumps(options).encode())
        self.subscriptions = 0
        self.expect(b"PONG")

    def send(self, data):
        self.stream.write(data)
        self.stream.flush()

    def expect(self, line):
        while (read := self.stream.readline().strip()) != line:
            assert read == b"PING" or read.startswith(b"INFO"), read

    def subscribe(self, subject):
        self.subscriptions += 1
        self.send(b"SUB %s %d\r\nPING\r\n" % (subject.encode(), self.subscriptions))
        self.expect(b"PONG")

    def publish(self, subject, payload, reply="", **headers):
        fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        head = f"NATS/1.0\r\n{fields}\r\n".encode()
        line = f"HPUB {subject} {reply} {len(head)} {len(head) + len(payload)}\r\n".encode()
        self.send(line + head + payload + b"\r\n")

    def message(self):
        """The next message: its subject, its status line and header fields, and its payload."""
        while True:
            verb, *words = self.stream.readline().decode().split()
            if verb in ("MSG", "HMSG"):
                break
            if verb == "PING":
                self.send(b"PONG\r\n")
        head = int(words[-2]) if verb == "HMSG" else 0
        data = self.stream.read(int(words[-1]))
        self.stream.read(2)
        status, *lines = data[:head].decode().strip().split("\r\n")
        fields = dict(line.split(": ", 1) if ": " in line else line.split(":", 1) for line in lines)
        return words[0], status, fields, data[head:]

    def request(self, subject, payload, **headers):
        """Publishes, and waits for the answer: the status of HTTP, and the JSON."""
        self.publish(subject, payload, "_INBOX.answers", **headers)
        subject, status, fields, body = self.message()
        assert subject == "_INBOX.answers", subject
        return int(fields["Echoring-Status"]), json.loads(body)

    def publish_to(self, topic, payload, **headers):
        """Publishes as soon as a node takes publications. `_INBOX.answers` is subscribed."""

        def answer():
            self.publish(f"echoring.publish.{topic}", payload, "_INBOX.answers", **headers)
            _, status, fields, body = self.message()
            return status.strip() != "NATS/1.0 503" and (int(fields["Echoring-Status"]), json.loads(body))

        return wait_until(answer, "a node that takes publications")

    def close(self):
        self.stream.close()
        self.socket.close()


class NatsClients(InACluster):
    RULES = """
[[topics]]
pattern = "raw.*"
nats = "raw"
[[topics]]
pattern = "*"
nats = "json"
"""

    def setUp(self):
        super().setUp()
        self.flags = ("--config", self.enterContext(text_file(self.RULES)), "--cluster-nats-clients")
        self.client = NatsClient(self.nats)
        self.addCleanup(self.client.close)

    def publish(self, topic, payload, **headers):
        return self.client.publish_to(topic, payload, **headers)

    @asynchronous
    async def test_publish_to_topics_in_their_order(self):
        nodes = self.start("a", "b", flags=self.flags)
        self.client.subscribe("_INBOX.answers")
        async with Session(nodes[0]) as one, Session(nodes[1]) as two:
            for topic in TOPICS:
                for session in (one, two):
                    await session.subscribe(topic)
                for number in range(10):
                    status, answer = await asyncio.to_thread(self.publish, topic, b"text %d" % number)
                    self.assertEqual((status, answer["topic"], answer["offset"]), (200, topic, number + 1))
                for session in (one, two):
                    texts = [event["text"] for event in await session.messages(topic, 10)]
                    self.assertEqual(texts, [f"text {number}" for number in range(10)])
            # As POST /topics: types, keys, idempotency keys, batches, and errors.
            await one.subscribe("a b/ä")
            fields = {"Content_Type": "application/json", "Echoring_Key": "k", "Idempotency_Key": "once"}
            for _ in range(2):
                status, answer = await asyncio.to_thread(self.publish, "a%20b/%C3%A4", b'{"n":1}', **fields)
                self.assertEqual((status, answer["offset"]), (200, 1), answer)
            event = await one.next("message", topic="a b/ä")
            self.assertEqual((event["key"], event["data"]), ("k", {"n": 1}))
            batch = b'{"text":"one"}\n{"text":"two"}\n'
            status, answer = await asyncio.to_thread(self.publish, "t", batch, Content_Type="application/x-ndjson")
            self.assertEqual((status, [result["offset"] for result in answer["results"]]), (200, [1, 2]))
            status, answer = await asyncio.to_thread(self.publish, "t", b"{", Content_Type="application/json")
            self.assertEqual((status, answer["error"]["code"]), (400, "bad-json"))
            status, answer = await asyncio.to_thread(self.publish, "%zz", b"x")
            self.assertEqual((status, answer["error"]["field"]), (400, "topic"))
            # Bytes that are no text.
            await one.subscribe("bytes")
            self.assertEqual((await asyncio.to_thread(self.publish, "bytes", b"\xff\x00"))[0], 200)
            self.assertEqual((await one.next("message", topic="bytes"))["base64"], "/wA=")

    def test_are_answered_while_processes_are_replaced(self):
        (node,) = self.start("a", flags=self.flags)
        self.client.subscribe("_INBOX.answers")
        answers, over = [], threading.Event()

        def publish():
            while not over.is_set():
                answers.append(self.publish("t", b"text"))
                # More than wait in a lane, and nobody else takes them.
                for _ in range(10):
                    self.client.publish("echoring.publish.many", b"text", "_INBOX.answers")
                for _ in range(10):
                    _, status, fields, body = self.client.message()
                    if status.strip() != "NATS/1.0 503":
                        answers.append((int(fields["Echoring-Status"]), json.loads(body)))

        with concurrent.futures.ThreadPoolExecutor() as pool:
            publishing = pool.submit(publish)
            try:
                for _ in range(5):
                    wait_until(lambda count=len(answers): len(answers) > count, "an answer")
                    old, node = node, node.successor()
                    self.addCleanup(node.__exit__)
                    self.assertEqual(old.wait(), 0)
            finally:
                over.set()
            publishing.result()
        for topic in ("t", "many"):
            offsets = [(status, answer.get("offset")) for status, answer in answers if answer.get("topic", topic) == topic]
            if topic == "many":
                # They are not waited for, and two processes answer over connections of their own.
                offsets.sort()
            self.assertEqual(offsets, [(200, number) for number in range(1, len(offsets) + 1)])

    @asynchronous
    async def test_are_told_of_header_fields_that_http_cannot_have(self):
        self.start("a", flags=self.flags)
        self.client.subscribe("_INBOX.answers")
        for field, value in (
            ("Content-Type", "text/\x01"),
            ("Idempotency-Key", "schlüssel"),
            ("traceparent", "\x7f"),
            # Of a key, it is the length.
            ("Echoring-Key", "k" * 70_000),
        ):
            status, answer = await asyncio.to_thread(self.publish, "t", b"text", **{field.replace("-", "_"): value})
            self.assertEqual((status, answer["error"]["code"], answer["error"]["field"]), (400, "bad-field", field))
        status, answer = await asyncio.to_thread(self.publish, "t", b"text")
        self.assertEqual((status, answer["offset"]), (200, 1), "nothing was published before")

    @asynchronous
    async def test_are_answered_at_inboxes_only_and_operators_see_the_others(self):
        (node,) = self.start("a", flags=self.flags)
        self.client.subscribe("_INBOX.answers")
        # NATS says that there is no node yet only while nobody else is subscribed.
        self.assertEqual((await asyncio.to_thread(self.publish, "t", b"text"))[0], 200)
        watcher = NatsClient(self.nats)
        self.addCleanup(watcher.close)
        watcher.subscribe("_INBOX.>")
        watcher.subscribe("echoring.publish.>")
        watcher.subscribe("$JS.API.>")
        for reply in ("$JS.API.STREAM.PURGE.s", "echoring.publish.other", "echoring.node.0000000000000001", "answers"):
            self.client.publish("echoring.publish.t", b"text", reply)
        status, answer = await asyncio.to_thread(self.publish, "t", b"last")
        self.assertEqual((status, answer["offset"]), (200, 6), "they are published")
        seen = []
        while not seen or b'"offset":6' not in seen[-1][2]:
            subject, _, fields, payload = await asyncio.to_thread(watcher.message)
            seen.append((fields.get("Echoring-Status"), subject, payload))
        answered = {subject for status, subject, _ in seen if status}
        self.assertEqual(answered, {"_INBOX.answers"}, seen)
        self.assertEqual(node.status()["replies_refused"], 4)
        self.assertIn("its reply subject is not an inbox", "".join(node.log))
        self.assertEqual(node.get("/topics/other")[0], 404)

    @asynchronous
    async def test_receive_every_message_once_wherever_it_is_published(self):
        nodes = self.start("a", "b", flags=self.flags)
        self.client.subscribe("echoring.messages.>")
        async with Session(nodes[0]) as one, Session(nodes[1]) as two:
            for session, text in ((one, "first"), (two, "second")):
                for topic in TOPICS:
                    answer = await session.publish(topic, text)
                    self.assertEqual(answer["type"], "published", answer)
            received = {}
            for _ in range(2 * len(TOPICS)):
                subject, _, fields, payload = await asyncio.to_thread(self.client.message)
                event = json.loads(payload)
                self.assertEqual(subject, f"echoring.messages.{event['topic']}")
                self.assertEqual(fields["content-type"], "application/json")
                self.assertEqual((fields["echoring-epoch"], fields["echoring-offset"]), (event["epoch"], str(event["offset"])))
                received.setdefault(event["topic"], []).append((event["type"], event["offset"], event["text"]))
            expected = [("message", 1, "first"), ("message", 2, "second")]
            self.assertEqual(received, {topic: expected for topic in TOPICS})
            await one.publish("raw.bytes", "a \u00e4", key="k")
            subject, _, fields, payload = await asyncio.to_thread(self.client.message)
            self.assertEqual((subject, payload.decode()), ("echoring.messages.raw.bytes", "a ä"))
            self.assertEqual((fields["echoring-offset"], fields["echoring-key"], fields["content-type"]), ("1", "k", "text/plain"))

    @asynchronous
    async def test_find_another_node_when_one_leaves(self):
        nodes = self.start("a", "b", flags=self.flags)
        self.client.subscribe("_INBOX.answers")
        self.assertEqual((await asyncio.to_thread(self.publish, "t", b"one"))[1]["offset"], 1)
        await asyncio.to_thread(nodes[0].terminate)
        self.assertEqual(await asyncio.to_thread(nodes[0].wait), 0)
        for offset in (2, 3, 4):
            self.assertEqual((await asyncio.to_thread(self.publish, "t", b"more"))[1]["offset"], offset)

    def test_are_off_unless_they_are_wanted(self):
        for flags, words in (
            (self.flags[:2], "topics.nats: has no effect without cluster.nats_clients"),
            (("--cluster-nats-clients", "--admin", "off"), "needs --admin"),
        ):
            cluster = ["--cluster", f"nats://127.0.0.1:{self.nats.port}", "--node", "a"]
            command = [BINARY, "serve", "--listen", "127.0.0.1:0", *cluster, *flags]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S)
            self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
            self.assertIn(words, done.stderr)


class Takeover(InACluster):
    @asynchronous
    async def test_of_the_only_node_keeps_every_epoch(self):
        flags, tls = self.tls()
        [old] = self.start("a", flags=("--drain", "20s", *flags))
        run = old.status()["id"]
        async with Session(old, tls) as session:
            begun = {topic: await session.subscribe(topic) for topic in TOPICS}
            for topic in TOPICS:
                self.assertEqual((await session.publish(topic, "before"))["offset"], 1)
            new = await asyncio.to_thread(old.successor)
            self.addCleanup(new.__exit__)
            self.assertEqual(new.stats()["pid"], new.pid)
            self.assertEqual((new.status()["id"], new.status()["members"]), (run, []), "the same node, and the only one")
            for topic in TOPICS:
                status, answer = await asyncio.to_thread(new.publish, topic, "after")
                self.assertEqual((status, answer["offset"]), (200, 2), answer)
                # One that cannot move goes on in the old process.
                self.assertEqual((await session.publish(topic, "last"))["offset"], 3)
            # It gets everything until it is closed.
            with self.assertRaises(ConnectionClosed) as closed:
                while True:
                    await session.next("nothing")
            self.assertEqual(closed.exception.rcvd.code, 1012)
            for topic in TOPICS:
                texts = [event["text"] for event in session.events if event["type"] == "message" and event["topic"] == topic]
                self.assertEqual(texts, ["before", "after", "last"])
            self.assertEqual(await asyncio.to_thread(old.wait), 0)
        async with Session(new, tls) as session:
            for topic in TOPICS:
                position = {"epoch": begun[topic]["epoch"], "offset": 1}
                again = await session.subscribe(topic, position)
                self.assertEqual((again["recovered"], again["epoch"]), (True, position["epoch"]), again)
                self.assertEqual([event["text"] for event in await session.messages(topic, 2)], ["after", "last"])
        new.await_members()

    @asynchronous
    async def test_that_is_given_up_changes_nothing(self):
        nodes = self.start("a", "b")
        async with Session(nodes[0]) as session:
            begun = {topic: await session.subscribe(topic) for topic in TOPICS}
            for offset, last in enumerate(("begin", "imported"), 1):
                with socket.socket(socket.AF_UNIX) as successor:
                    successor.settimeout(PATIENCE_S)
                    successor.connect(f"\0echoring/takeover/{nodes[0].host}:{nodes[0].port}")
                    stream = successor.makefile("rwb")
                    stream.write(b"echoring takeover 7\n")
                    # Two shards, 64 KiB, and room for no connections.
                    stream.write(frame(1, struct.pack("<HQI", 2, 65_536, 0)))
                    stream.flush()
                    self.assertEqual(stream.readline(), b"ok\n")
                    self.assertEqual(kind_of_frame(stream), 3)
                    # A byte comes with the listeners.
                    stream.read(1)
                    # It has no back ends.
                    stream.write(frame(4, bytes(4)))
                    stream.flush()
                    # The topics of both shards, the node, and their end.
                    kinds = []
                    while not kinds or kinds[-1] != 6:
                        kinds.append(kind_of_frame(stream))
                    self.assertEqual(set(kinds[:-1]), {5, 17})
                    # It is silent: its clients wait, and so does the other node.
                    waiting = [asyncio.create_task(nodes[0].publish_text(topic)) for topic in TOPICS]
                    if last == "imported":
                        stream.write(frame(7, b""))
                        stream.flush()
                        self.assertEqual(kind_of_frame(stream), 8)
                    self.assertEqual([task.done() for task in waiting], [False] * len(waiting))
                    stream.close()
                for task in waiting:
                    status, answer = await task
                    self.assertEqual((status, answer["offset"]), (200, 2 * offset - 1), answer)
                self.assertEqual([node.status()["phase"] for node in nodes], ["active", "active"])
                for topic in TOPICS:
                    self.assertEqual((await session.publish(topic, "afterwards"))["offset"], 2 * offset)
                    for expected in (2 * offset - 1, 2 * offset):
                        message = await session.next("message", "gap", "unsubscribed", topic=topic)
                        self.assertEqual((message["type"], message["offset"]), ("message", expected))
        async with Session(nodes[0]) as session:
            for topic in TOPICS:
                self.assertEqual((await session.subscribe(topic))["epoch"], begun[topic]["epoch"])

    def test_is_refused_between_clusters_and_without_one(self):
        [node] = self.start("a")
        for flags, words in (
            ((), "is a node of a cluster, and this server is not"),
            ((*node.cluster(), "--cluster-prefix", "another"), "is a node of another cluster"),
        ):
            addresses = [item for name, value in node.addresses().items() for item in (f"--{name}", value)]
            command = [BINARY, "serve", "--shards", "2", "--takeover", *addresses, *flags]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S)
            self.assertEqual((done.returncode, done.stdout), (3, ""), done.stderr)
            self.assertIn(words, done.stderr)
        self.assertEqual(node.publish("t", "still here")[0], 200)


def frame(kind, body):
    return struct.pack("<IB", len(body) + 1, kind) + body


def kind_of_frame(stream):
    length, kind = struct.unpack("<IB", stream.read(5))
    stream.read(length - 1)
    return kind


class Failing(InACluster):
    @asynchronous
    async def test_subscribers_of_a_node_that_is_killed_are_told_of_another_epoch(self):
        nodes = self.start("a", "b")
        async with Session(nodes[0]) as session:
            begun = {}
            for topic in TOPICS:
                begun[topic] = await session.subscribe(topic)
                self.assertEqual(nodes[1].publish(topic, "before")[0], 200)
                await session.messages(topic, 1)
            nodes[1].terminate(signal.SIGKILL)
            nodes[0].await_members()
            moved = 0
            for topic in TOPICS:
                status, answer = nodes[0].publish(topic, "after")
                while status in (429, 503) and answer["error"]["code"] in ("busy", "unreachable", "uncertain"):
                    status, answer = nodes[0].publish(topic, "after")
                self.assertEqual(status, 200, answer)
                if answer["epoch"] == begun[topic]["epoch"]:
                    self.assertEqual(answer["offset"], 2)
                    await session.messages(topic, 1)
                    continue
                moved += 1
                end = await session.next("unsubscribed", topic=topic)
                self.assertEqual((end["reason"], end["epoch"], end["offset"]), ("moved", begun[topic]["epoch"], 1))
                back = await session.subscribe(topic, {"epoch": end["epoch"], "offset": end["offset"]})
                self.assertEqual((back["recovered"], back["epoch"]), (False, answer["epoch"]))
            # Both nodes had owned some of them.
            self.assertTrue(0 < moved < len(TOPICS), moved)

    @asynchronous
    async def test_without_the_backbone_own_topics_go_on_and_others_are_refused_until_it_is_back(self):
        nodes = self.start("a", "b")
        async with Session(nodes[0]) as session:
            for topic in TOPICS:
                await session.subscribe(topic)
            self.nats.stop()
            outcomes = await asyncio.gather(
                *(asyncio.to_thread(nodes[0].publish, topic, "without") for topic in TOPICS)
            )
            refused = [topic for topic, (status, _) in zip(TOPICS, outcomes) if status != 200]
            self.assertTrue(0 < len(refused) < len(TOPICS), refused)
            for status, answer in outcomes:
                if status != 200:
                    self.assertIn(answer["error"]["code"], ("unreachable", "uncertain"), answer)
            for topic in TOPICS:
                if topic not in refused:
                    await session.messages(topic, 1)
            self.assertEqual(nodes[0].get("/readyz", address=(nodes[0].host, nodes[0].port))[0], 503)
            self.nats.start()
            for topic in TOPICS:
                status, answer = nodes[1].publish(topic, "with")
                while status in (429, 503) and answer["error"]["code"] in ("busy", "unreachable", "uncertain"):
                    status, answer = nodes[1].publish(topic, "with")
                self.assertEqual(status, 200, answer)
                while (await session.next("message", topic=topic))["text"] != "with":
                    pass

    def test_what_operators_see(self):
        first, second = self.start("a", "b")
        run = lambda *words: subprocess.run([BINARY, *words], capture_output=True, text=True)
        admin = "{}:{}".format(*first.admin)
        told = run("cluster", "status", "--admin", admin)
        lines = [line.split() for line in told.stdout.splitlines()]
        self.assertEqual((told.returncode, lines[0][:2], lines[1][:2]), (0, ["a", "active"], ["b", "active"]), told)
        self.assertEqual(json.loads(run("cluster", "status", "--json", "--admin", admin).stdout)["node"], "a")
        self.assertEqual(run("health", "--ready", "--admin", admin).returncode, 0)
        metrics = first.get("/metrics")[2].decode()
        for sample in (
            "echoring_cluster_connected 1",
            "echoring_cluster_open 1",
            'echoring_cluster_members{phase="active"} 1',
            "echoring_cluster_connects_total 1",
            "echoring_cluster_packets_dropped_total 0",
            'echoring_cluster_link_full{peer="b"} 0',
            'echoring_cluster_link_staged_bytes{peer="b"} 0',
        ):
            self.assertIn(sample, metrics)
        for name in ("packets", "bytes"):
            for direction in ("in", "out"):
                value = re.search(rf'echoring_cluster_{name}_total{{direction="{direction}"}} (\d+)', metrics)
                self.assertGreater(int(value[1]), 0)
        self.nats.stop()
        second.wait_for_log("the connection to the cluster's backbone is lost")
        wait_until(lambda: run("cluster", "status", "--admin", admin).returncode == 1, "a node that is not ready")
        self.assertEqual(run("health", "--ready", "--admin", admin).returncode, 1)
        with Server() as alone:
            told = run("cluster", "status", "--admin", "{}:{}".format(*alone.admin))
            self.assertEqual((told.returncode, "belongs to no cluster" in told.stderr), (3, True), told)

    def test_a_backbone_that_cannot_be_reached_is_logged_once(self):
        self.nats.stop()
        node = self.one("a")
        node.wait_for_log("cannot connect to NATS")
        with socket.create_server(("127.0.0.1", self.nats.port)) as other:
            for _ in range(4):
                other.accept()[0].close()
        self.nats.start()
        node.await_members()
        lines = [line for line in node.log if "NATS" in line or "nats" in line]
        # Once for each reason.
        self.assertLessEqual(len([line for line in lines if "cannot connect" in line]), 3, lines)
        self.assertEqual([line for line in lines if "async_nats" in line], [])

    def test_a_node_that_is_not_to_wait_for_the_backbone_does_not_start_without(self):
        self.nats.stop()
        command = [BINARY, "serve", "--listen", "127.0.0.1:0", "--admin", "off", "--no-cluster-wait"]
        command += ["--cluster", f"nats://127.0.0.1:{self.nats.port}", "--node", "a"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        self.assertEqual((done.returncode, done.stdout), (3, ""), done)
        self.assertIn("cannot join its cluster", done.stderr)

    @asynchronous
    async def test_clients_of_a_node_that_drains_get_every_message_until_they_are_closed(self):
        nodes = self.start("a", "b", flags=("--drain", "20s"))
        async with Session(nodes[0]) as session:
            for topic in TOPICS:
                await session.subscribe(topic)
            nodes[0].terminate()
            nodes[1].await_members()
            for topic in TOPICS:
                self.assertEqual(nodes[1].publish(topic, "in the drain")[0], 200)
                self.assertEqual((await session.messages(topic, 1))[0]["text"], "in the drain")

    def test_a_second_node_of_the_same_name_ends_the_first(self):
        (first,) = self.start("a")
        second = self.one("a")
        self.assertEqual(first.wait(), 3)
        second.await_members()


if __name__ == "__main__":
    unittest.main()
