"""A NATS server and three nodes walk through what a cluster promises, step by step, in about a minute.

A partition is a relay between one node and NATS that forwards nothing: neither side is told. Followers subscribe to every topic at every
node all the time. Each checks that offsets are contiguous in an epoch unless it is told otherwise: by another epoch, or by a gap with its
range.
"""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import sys
import tempfile
import time
import unittest

import programs
import test_centrifuge
import test_cluster
from relay import Relay

# Topics that are spread over all nodes, and one publication to each at each node in a step.
TOPICS = [f"topic-{number}" for number in range(12)]
STEP_S = 60
# The goal for the first message in a new epoch, and for members of a killed node to be gone, at default heartbeats.
NEW_EPOCH_S = MEMBERS_GONE_S = 5
# How much later than that they may come on a machine that is busy elsewhere.
SLACK_S = 10
CONFIGURATION = """
[topic_defaults]
history_messages = 100

[[topics]]
pattern = "durable.*"
durable = true
history_messages = 3

[[topics]]
pattern = "local.*"
local_epochs = true

[[topics]]
pattern = "rooms.*"
presence = "everybody"
"""


class Node(test_cluster.Node):
    """With default heartbeats."""

    def times(self):
        return ()


class Follower:
    """Follows a topic at one node, from its position, whatever happens."""

    def __init__(self, cluster, name, topic):
        self.cluster, self.name, self.topic = cluster, name, topic
        self.position, self.texts, self.told, self.fault = None, [], 0, None
        self.task = asyncio.create_task(self.run())

    async def run(self):
        while self.fault is None:
            node = self.cluster.nodes.get(self.name)
            try:
                if node is not None:
                    async with test_cluster.Session(node) as session:
                        await self.follow(session)
            except (test_cluster.ConnectionClosed, OSError, asyncio.TimeoutError):
                pass
            except AssertionError as error:
                self.fault = f"an unexpected answer: {error}"
            await asyncio.sleep(0.02)

    async def follow(self, session):
        while True:
            begun = await session.subscribe(self.topic, self.position)
            recovered = begun.get("recovered", self.position is None)
            if not recovered:
                self.told += 1
            elif self.position and begun["epoch"] != self.position["epoch"]:
                self.fault = f"recovered in another epoch: {begun}"
            self.position = {"epoch": begun["epoch"], "offset": begun["offset"]}
            while self.fault is None:
                event = await self.next(session)
                if event["type"] == "unsubscribed":
                    break
                if event["type"] == "gap":
                    self.told += 1
                    self.position["offset"] = event["to"] if "to" in event else event["offset"]
                    continue
                if event["offset"] != self.position["offset"] + 1:
                    self.fault = f"{event} after {self.position}"
                self.position["offset"] = event["offset"]
                self.texts.append(event["text"])

    async def next(self, session):
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                return await session.next("message", "gap", "unsubscribed", topic=self.topic)


class Cluster:
    """NATS behind a relay for each node, the nodes, and their followers."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.nats = test_cluster.Nats("-js", "-sd", os.path.join(self.folder.name, "streams"))
        self.configuration = os.path.join(self.folder.name, "echoring.toml")
        with open(self.configuration, "w") as file:
            file.write(CONFIGURATION)
        self.relays, self.nodes, self.followers, self.published = {}, {}, [], 0

    def start(self, name, *flags):
        if name not in self.relays:
            self.relays[name] = Relay("127.0.0.1", self.nats.port)
        flags = ("--config", self.configuration, "--drain", "2s", "--cluster-nats-clients", *flags)
        self.nodes[name] = Node(self.relays[name], name, *flags)

    async def kill(self, name):
        node = self.nodes.pop(name)
        node.terminate(signal.SIGKILL)
        await asyncio.to_thread(node.wait)

    def follow(self, name):
        self.followers += [Follower(self, name, topic) for topic in TOPICS]

    async def await_members(self, *names):
        for name in names:
            others = [other for other in names if other != name]
            await asyncio.to_thread(self.nodes[name].await_members, *others)

    def publish_one(self, name, topic, text):
        """Publishes until it is accepted, with an idempotency key. Returns the position."""
        until = time.monotonic() + STEP_S
        while True:
            status, answer = self.nodes[name].publish(topic, text, Idempotency_Key=text.replace(" ", "-"))
            if status == 200:
                return answer
            if status not in (429, 503) or time.monotonic() > until:
                raise AssertionError(f"{topic} at {name}: {status} {answer}")

    def call(self, name, method, **parameters):
        """A result of Centrifugo's HTTP API."""
        return self.nodes[name].call(method, **parameters)["result"]

    async def history(self, name, topic):
        """The history that a node has of a topic, and its position."""
        result = await asyncio.to_thread(self.call, name, "history", channel=topic, limit=-1)
        texts = [publication["data"] for publication in result["publications"]]
        return texts, {"epoch": result["epoch"], "offset": result["offset"]}

    async def publish(self, *names):
        """Publishes to each topic at each of these nodes. Returns the texts by topic."""
        texts = {}
        for topic in TOPICS:
            for name in names:
                self.published += 1
                text = f"{topic} number {self.published}"
                await asyncio.to_thread(self.publish_one, name, topic, text)
                texts.setdefault(topic, []).append(text)
        return texts

    async def received(self, texts, *names):
        """Waits until the followers at these nodes have all these texts, in this order."""
        until = time.monotonic() + STEP_S
        for follower in self.followers:
            if follower.name in names:
                wanted = texts[follower.topic]
                while (fault := follower.fault) is None and not self.has(follower, wanted):
                    if time.monotonic() > until:
                        raise AssertionError(f"{follower.topic} at {follower.name}: {follower.texts[-5:]} lacks {wanted}")
                    await asyncio.sleep(0.02)
                if fault:
                    raise AssertionError(f"{follower.topic} at {follower.name}: {fault}")

    def has(self, follower, wanted):
        among = [text for text in follower.texts if text in wanted]
        return among == wanted

    def told(self):
        return sum(follower.told for follower in self.followers)

    async def nobody_is_told(self, *names):
        """Everything published at these nodes reaches everybody in the same epoch, without a gap."""
        before = self.told()
        await self.received(await self.publish(*names), *self.nodes)
        if self.told() != before:
            raise AssertionError(f"{self.told() - before} followers were told of another epoch or a gap")

    async def settle(self, *names):
        """Publishes to each topic at the first of these nodes, and waits until the followers at all of them are behind that message: they
        have it, or were told of another epoch."""
        for topic in TOPICS:
            self.published += 1
            answer = await asyncio.to_thread(self.publish_one, names[0], topic, f"{topic} number {self.published}")
            position = {"epoch": answer["epoch"], "offset": answer["offset"]}
            followers = [follower for follower in self.followers if follower.topic == topic and follower.name in names]
            until = time.monotonic() + STEP_S
            while not all(follower.position == position for follower in followers):
                if time.monotonic() > until:
                    positions = {follower.name: (follower.position, follower.fault) for follower in followers}
                    raise AssertionError(f"{topic} is at {position}, and followers at {positions}")
                await asyncio.sleep(0.02)

    async def close(self):
        tasks = [follower.task for follower in self.followers]
        # A wait_for whose time or result comes together with a cancellation may lose the cancellation.
        while tasks:
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=0.1)
        for node in self.nodes.values():
            await asyncio.to_thread(node.__exit__)
        for relay in self.relays.values():
            relay.close()
        self.nats.close()
        self.folder.cleanup()


async def forms(cluster):
    """three nodes form a cluster"""
    for name in "abc":
        await asyncio.to_thread(cluster.start, name)
    await cluster.await_members("a", "b", "c")
    for name in "abc":
        cluster.follow(name)
    while not all(follower.position for follower in cluster.followers):
        await asyncio.sleep(0.02)
    await cluster.received(await cluster.publish("a"), *cluster.nodes)


async def one_order(cluster):
    """each topic has one order and one epoch at all nodes, wherever it is published"""
    await cluster.nobody_is_told("a", "b", "c")
    await cluster.settle("a", "b", "c")


async def joins(cluster):
    """a node joins and takes topics over in the same epochs"""
    await asyncio.to_thread(cluster.start, "d")
    await cluster.await_members("a", "b", "c", "d")
    await cluster.nobody_is_told("a", "d")


async def leaves(cluster):
    """a node that is stopped hands its topics over in the same epochs"""
    node = cluster.nodes.pop("d")
    node.terminate()
    assert await asyncio.to_thread(node.wait) == 0
    await cluster.await_members("a", "b", "c")
    await cluster.nobody_is_told("b", "c")


async def takes_over(cluster):
    """a node is replaced by --takeover: its followers recover in the same epochs"""
    old = cluster.nodes["c"]
    cluster.nodes["c"] = await asyncio.to_thread(old.successor)
    await cluster.nobody_is_told("a", "b", "c")
    assert await asyncio.to_thread(old.wait) == 0
    await cluster.await_members("a", "b", "c")


async def dies(cluster):
    """an owner is killed: its topics begin new epochs, of which everybody is told"""
    node = cluster.nodes.pop("b")
    before, epochs = cluster.told(), {f.topic: f.position["epoch"] for f in cluster.followers}
    node.terminate(signal.SIGKILL)
    began = time.monotonic()
    longest, moved = 0, 0
    for topic in TOPICS:
        answer = await asyncio.to_thread(cluster.publish_one, "a", topic, f"{topic} after {began}")
        if answer["epoch"] != epochs[topic]:
            longest, moved = max(longest, time.monotonic() - began), moved + 1
    assert moved > 0, "the node owned no topic"
    await asyncio.to_thread(cluster.start, "b")
    await cluster.await_members("a", "b", "c")
    await cluster.settle("c", "a", "b")
    await cluster.received(await cluster.publish("a", "b", "c"), "a", "b", "c")
    assert cluster.told() - before >= moved, "followers were not told"
    assert longest <= NEW_EPOCH_S + SLACK_S, f"the new epochs began after {longest:.1f} s"
    return f"{moved} of {len(TOPICS)} topics, the last after {longest:.1f} s"


async def is_cut_off(cluster):
    """a node is cut off: both sides go on, and everybody is told when they meet again"""
    before = cluster.told()
    with cluster.relays["a"].half_open():
        await asyncio.gather(cluster.await_members("a"), cluster.await_members("b", "c"))
        for side in (("a",), ("b", "c")):
            await cluster.settle(*side)
            await cluster.received(await cluster.publish(*side), *side)
    await cluster.await_members("a", "b", "c")
    await cluster.settle("a", "b", "c")
    await cluster.received(await cluster.publish("a", "b", "c"), "a", "b", "c")
    told = cluster.told() - before
    assert told >= len(TOPICS), f"only {told} followers were told"
    return f"{told} times a follower was told of another epoch or a gap"


async def loses_nats(cluster):
    """NATS is restarted: nothing is lost, and nobody is taken for dead"""
    await asyncio.to_thread(cluster.nats.stop)
    await asyncio.to_thread(cluster.nats.start)
    await cluster.await_members("a", "b", "c")
    await cluster.nobody_is_told("a", "b", "c")


async def has_nats_clients(cluster):
    """another client of NATS publishes to a topic"""
    text = f"{TOPICS[0]} of a client"
    status, answer = await asyncio.to_thread(publish_by_nats, cluster, TOPICS[0], text)
    assert status == 200, answer
    await cluster.received({topic: [text] if topic == TOPICS[0] else [] for topic in TOPICS}, "a", "b", "c")


def publish_by_nats(cluster, topic, text):
    """Publishes as a client of NATS. NATS may lose a request or its answer, so it is repeated with its idempotency key."""
    until = time.monotonic() + STEP_S
    while True:
        client = test_cluster.NatsClient(cluster.nats)
        with contextlib.closing(client):
            client.socket.settimeout(5)
            client.subscribe("_INBOX.answers")
            try:
                return client.request(f"echoring.publish.{topic}", text.encode(), Idempotency_Key=text.replace(" ", "-"))
            except TimeoutError:
                if time.monotonic() > until:
                    raise


async def reports(cluster):
    """each node reports about all"""
    for node in cluster.nodes.values():
        status, _, body = await asyncio.to_thread(node.get, "/cluster/topics")
        report = json.loads(body)
        assert (status, report["silent_nodes"], len(report["nodes"])) == (200, 0, 3), report
        assert {topic["subscribers"] for topic in report["topics"]} == {3}, report["topics"]


async def answers_the_api(cluster):
    """the HTTP API of each node has the same history of every topic"""
    for topic in TOPICS:
        answer = await asyncio.to_thread(cluster.publish_one, "b", topic, f"{topic} for the API")
        for name in cluster.nodes:
            await until_history(cluster, name, topic, answer)


async def until_history(cluster, name, topic, answer):
    """Waits until a node has this publication as the latest of a topic: one that follows the owner has it later."""
    until = time.monotonic() + STEP_S
    while (found := (await cluster.history(name, topic))[1]) != {key: answer[key] for key in ("epoch", "offset")}:
        assert time.monotonic() < until, (name, topic, found, answer)


async def keeps_durable_topics(cluster):
    """durable topics outlive the node that owned them: nothing accepted is lost, in the same epochs"""
    topics = [f"durable.{number}" for number in range(6)]
    for number in range(10):
        for topic in topics:
            await asyncio.to_thread(cluster.publish_one, "a", topic, f"{topic} {number}")
    epochs = {topic: (await cluster.history("a", topic))[1]["epoch"] for topic in topics}
    await cluster.kill("b")
    for topic in topics:
        await asyncio.to_thread(cluster.publish_one, "a", topic, f"{topic} 10")
    await asyncio.to_thread(cluster.start, "b")
    await cluster.await_members("a", "b", "c")
    for topic in topics:
        wanted = [f"{topic} {number}" for number in range(11)], {"epoch": epochs[topic], "offset": 11}
        for name in cluster.nodes:
            found = await cluster.history(name, topic)
            assert found == wanted, (name, topic, found)
    return f"{11 * len(topics)} messages, 3 of each topic in memory"


async def lists_members(cluster):
    """every node lists the same members, and those of a killed node are gone"""
    room, tasks = "rooms.1", []
    try:
        async with contextlib.AsyncExitStack() as stack:
            for name in "abc":
                session = await stack.enter_async_context(test_cluster.Session(cluster.nodes[name]))
                await session.subscribe(room)
                tasks.append(asyncio.create_task(stay(session, room)))
            await until_members(cluster, room, 3)
            began = time.monotonic()
            await cluster.kill("c")
            await until_members(cluster, room, 2)
            gone = time.monotonic() - began
    finally:
        # They end with their connections.
        await asyncio.gather(*tasks, return_exceptions=True)
        if "c" not in cluster.nodes:
            await asyncio.to_thread(cluster.start, "c")
        await cluster.await_members("a", "b", "c")
    assert gone <= MEMBERS_GONE_S + SLACK_S, f"they were gone after {gone:.1f} s"
    return f"gone after {gone:.1f} s"


async def stay(session, room):
    """Subscribes again whenever the topic has begun another epoch."""
    while True:
        with contextlib.suppress(asyncio.TimeoutError):
            await session.next("unsubscribed", topic=room)
            await session.subscribe(room)


async def until_members(cluster, room, count):
    """Waits until every node lists as many members, and all the same ones."""
    until = time.monotonic() + STEP_S
    while True:
        calls = (asyncio.to_thread(cluster.call, name, "presence", channel=room) for name in cluster.nodes)
        lists = [set(result["presence"]) for result in await asyncio.gather(*calls)]
        if all(len(members) == count and members == lists[0] for members in lists):
            return
        assert time.monotonic() < until, lists
        await asyncio.sleep(0.05)


async def has_local_epochs(cluster):
    """without NATS, nodes take messages into local epochs, and are in one epoch when it is back"""
    topics = [f"local.{number}" for number in range(6)]
    for topic in topics:
        await asyncio.to_thread(cluster.publish_one, "a", topic, "before")
    await asyncio.to_thread(cluster.nats.stop)
    epochs = []
    for name in "ab":
        for topic in topics:
            answer = await asyncio.to_thread(cluster.publish_one, name, topic, f"{topic} at {name}")
            epochs.append(int(answer["epoch"], 16))
    await asyncio.to_thread(cluster.nats.start)
    await cluster.await_members("a", "b", "c")
    local = sum(epoch % 2 == 0 for epoch in epochs)
    assert local >= len(topics), f"{local} publications were in local epochs"
    for topic in topics:
        await one_epoch(cluster, topic)
    return f"{local} of {len(epochs)} publications meanwhile"


async def one_epoch(cluster, topic):
    """Publishes until every node has the message in one epoch, which is not local. The owner begins another epoch whenever it learns of a
    local one."""
    until = time.monotonic() + STEP_S
    while time.monotonic() < until:
        cluster.published += 1
        answer = await asyncio.to_thread(cluster.publish_one, "c", topic, f"{topic} number {cluster.published}")
        wanted = {key: answer[key] for key in ("epoch", "offset")}
        await asyncio.sleep(0.1)
        found = [(await cluster.history(name, topic))[1] for name in cluster.nodes]
        if int(answer["epoch"], 16) % 2 == 1 and all(position == wanted for position in found):
            return
    raise AssertionError(f"{topic} is at {wanted}, and at {found}")


async def moves_sdk_clients(cluster):
    """an SDK of Centrifuge loses its node and recovers at another one"""
    relay = Relay(cluster.nodes["a"].host, cluster.nodes["a"].port)
    client = test_centrifuge.Client(programs.python("centrifuge_sdk.py"), relay.url(test_centrifuge.PATH), False)
    with contextlib.closing(relay), contextlib.closing(client):
        await asyncio.to_thread(client.connect)
        topics = TOPICS[:6]
        for topic in topics:
            await asyncio.to_thread(client.subscribe, topic, recoverable=True)
        with relay.cut():
            relay.server = cluster.nodes["b"].host, cluster.nodes["b"].port
            for topic in topics:
                for number in range(3):
                    await asyncio.to_thread(cluster.publish_one, "c", topic, f"{topic} while away {number}")
        for topic in topics:
            wanted = [f"{topic} while away {number}" for number in range(3)]
            events = await asyncio.to_thread(client.publications, topic, 3)
            assert [data for _, data in events] == wanted, (topic, events)


async def moves_event_streams(cluster):
    """an event stream continues at another node with Last-Event-ID"""
    topic, last = TOPICS[0], None
    for turn, name in enumerate("abc"):
        node, texts = cluster.nodes[name], []
        for number in range(2):
            texts.append(f"event {turn} {number}")
            answer = await asyncio.to_thread(cluster.publish_one, "abc"[number], topic, texts[-1])
        last = last or f"{answer['epoch']}-{answer['offset'] - 2}"
        with contextlib.closing(http.client.HTTPConnection(node.host, node.port, timeout=STEP_S)) as connection:
            await asyncio.to_thread(connection.request, "GET", f"/sse/{topic}", headers={"Last-Event-ID": last})
            found = await asyncio.to_thread(next_events, connection.getresponse(), len(texts))
        assert [text for _, text in found] == texts, (name, last, found)
        last = found[-1][0]


def next_events(response, count):
    """The ids and data of the next messages of an event stream."""
    found, fields = [], {}
    while len(found) < count:
        line = response.readline().decode()
        assert line, f"the stream ended with status {response.status} after {found}"
        line = line.rstrip("\n")
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
            continue
        if fields.get("event", "message") == "message" and "data" in fields:
            found.append((fields["id"], fields["data"]))
        fields = {}
    return found


STEPS = [
    forms, one_order, joins, leaves, takes_over, dies, is_cut_off, loses_nats, has_nats_clients, reports, answers_the_api,
    keeps_durable_topics, lists_members, has_local_epochs, moves_sdk_clients, moves_event_streams,
]  # fmt: skip


async def walk():
    """Returns the steps that failed, each of which the others go on without."""
    cluster, failed = Cluster(), []
    try:
        for step in STEPS:
            began = time.monotonic()
            try:
                said = await asyncio.wait_for(step(cluster), 2 * STEP_S)
            except Exception as error:
                said = f"FAILED with {type(error).__name__}: {error}"
                failed.append(f"{step.__doc__}: {said}")
            print(f"{time.monotonic() - began:5.1f} s  {step.__doc__}{f': {said}' if said else ''}", file=sys.stderr, flush=True)
    finally:
        await cluster.close()
    return failed


@unittest.skipIf(test_cluster.NATS is None, "nats-server is not installed")
class Steps(unittest.TestCase):
    SECONDS = 60

    def test_all_pass(self):
        self.assertEqual(asyncio.run(walk()), [])


if __name__ == "__main__":
    unittest.main()
