"""A cluster whose nodes reach NATS through relays that plant faults, under load that never pauses, and how long it takes to be whole."""

import asyncio
import contextlib
import json
import os
import tempfile
import time

import test_cluster
from relay import Relay
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

CONFIGURATION = """
[topic_defaults]
history_messages = 10000

[[topics]]
pattern = "durable.*"
durable = true
"""
# Of a relay, with the arguments of the block.
FAULTS = {
    "cut": ("cut",),
    "reset": ("reset",),
    "half-open": ("half_open",),
    "delay": ("delayed", 0.2),
    "rate": ("limited", 20_000),
}


class Subscriber:
    """Follows a topic from its position, wherever it is."""

    def __init__(self, cluster, topic, names, roam_s):
        self.cluster, self.topic, self.names, self.roam_s = cluster, topic, names, roam_s
        self.position, self.found = None, []
        # How often it was told of a gap or of another epoch, and was given an earlier position of its epoch.
        self.told = self.went_back = 0
        self.task = asyncio.create_task(self.run())

    async def run(self):
        turn = 0
        while True:
            node = self.cluster.nodes[self.names[turn % len(self.names)]]
            turn += 1
            with contextlib.suppress(ConnectionClosed, OSError, TimeoutError):
                async with asyncio.timeout(self.roam_s), test_cluster.Session(node) as session:
                    await self.follow(session)
            await asyncio.sleep(0.01)

    async def follow(self, session):
        while True:
            begun = await session.subscribe(self.topic, self.position)
            position = (begun["epoch"], begun["offset"])
            before = self.position and (self.position["epoch"], self.position["offset"])
            if before and not begun["recovered"]:
                self.told += 1
                if position[0] == before[0] and position[1] < before[1]:
                    self.went_back += 1
            self.position = {"epoch": begun["epoch"], "offset": begun["offset"]}
            while (event := await session.next("message", "gap", "unsubscribed", topic=self.topic))["type"] != "unsubscribed":
                if event["type"] == "gap":
                    self.told += 1
                    self.position["offset"] = event.get("to", event["offset"])
                    continue
                if event["offset"] != self.position["offset"] + 1:
                    self.found.append(f"{self.topic}: {event} after {self.position}")
                self.position["offset"] = event["offset"]

    def has_reached(self, position):
        own = self.position
        return own is not None and own["epoch"] == position["epoch"] and own["offset"] >= position["offset"]


class Publisher:
    """Publishes at one node to all topics in turn, at a fixed rate, whatever the answers are."""

    def __init__(self, cluster, name, rate):
        self.cluster, self.name, self.rate = cluster, name, rate
        self.sent, self.outcomes, self.asked = 0, {}, {}
        # The first position of each topic that was accepted of what was published since `mark`.
        self.marked_at, self.accepted = float("inf"), {}
        self.task = asyncio.create_task(self.run())

    def mark(self):
        self.marked_at, self.accepted = time.monotonic(), {}

    async def run(self):
        while True:
            with contextlib.suppress(ConnectionClosed, OSError):
                url = self.cluster.nodes[self.name].url("/broadcast")
                async with connect(url, subprotocols=[test_cluster.SUBPROTOCOL], compression=None) as socket:
                    async with asyncio.TaskGroup() as both:
                        both.create_task(self.send(socket))
                        both.create_task(self.receive(socket))
            await asyncio.sleep(0.01)

    async def send(self, socket):
        due = time.monotonic()
        while True:
            self.sent += 1
            topic = self.cluster.topics[self.sent % len(self.cluster.topics)]
            self.asked[self.sent] = (topic, time.monotonic())
            await socket.send(json.dumps({"type": "publish", "id": self.sent, "topic": topic, "text": f"{self.name} {self.sent}"}))
            due += 1 / self.rate
            await asyncio.sleep(max(0, due - time.monotonic()))

    async def receive(self, socket):
        async for text in socket:
            event = json.loads(text)
            topic, asked_at = self.asked.pop(event.get("id"), (None, 0))
            outcome = event.get("code", event["type"])
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
            if event["type"] == "published" and asked_at >= self.marked_at:
                self.accepted.setdefault(topic, {"epoch": event["epoch"], "offset": event["offset"]})


class FaultyCluster:
    """Nodes, each behind a relay of its own, with publishers at all and subscribers that roam."""

    def __init__(self, topics, durable=0, names="abc", times=()):
        self.topics = [f"durable.{number}" for number in range(durable)]
        self.topics += [f"topic-{number}" for number in range(topics - durable)]
        self.folder = tempfile.TemporaryDirectory()
        self.nats = test_cluster.Nats("-js", "-sd", os.path.join(self.folder.name, "streams"))
        configuration = os.path.join(self.folder.name, "echoring.toml")
        with open(configuration, "w") as file:
            file.write(CONFIGURATION)
        self.relays, self.nodes, self.subscribers, self.publishers = {}, {}, [], []
        for name in names:
            self.relays[name] = Relay("127.0.0.1", self.nats.port)
            self.nodes[name] = Node(self.relays[name], name, times, "--config", configuration)
        for name, node in self.nodes.items():
            node.await_members(*(other for other in names if other != name))

    async def load(self, publications_per_s, subscribers, roam_s):
        """Begins the load, and waits until every topic has been followed and published to at every node."""
        names = list(self.nodes)
        for number in range(subscribers):
            turn = number // len(self.topics) % len(names)
            self.subscribers.append(Subscriber(self, self.topics[number % len(self.topics)], names[turn:] + names[:turn], roam_s))
        self.publishers = [Publisher(self, name, publications_per_s / len(names)) for name in names]
        await self.whole(60)

    async def plant(self, fault, name, time_s):
        """A fault at one node for a time. Returns when it ended."""
        if fault == "restart":
            await asyncio.to_thread(self.nats.stop)
            await asyncio.sleep(time_s)
            await asyncio.to_thread(self.nats.start)
        else:
            method, *arguments = FAULTS[fault]
            with getattr(self.relays[name], method)(*arguments):
                await asyncio.sleep(time_s)
        return time.monotonic()

    async def whole(self, within_s):
        """Waits until publications of now to every topic at every node are accepted, and have reached all subscribers. Returns the seconds
        that it took, or what is missing."""
        began = time.monotonic()
        for publisher in self.publishers:
            publisher.mark()
        while missing := self.missing():
            if time.monotonic() > began + within_s:
                return missing
            await asyncio.sleep(0.02)
        return time.monotonic() - began

    def missing(self):
        late = [f"{topic} at {publisher.name}" for publisher in self.publishers for topic in self.topics if topic not in publisher.accepted]
        if late:
            return f"no publication to {', '.join(late[:5])} and others, {len(late)} in all, was accepted"
        first = None
        for publisher in self.publishers:
            for subscriber in self.subscribers:
                position = publisher.accepted.get(subscriber.topic)
                if position is None or subscriber.has_reached(position):
                    continue
                first = first or f"a subscriber of {subscriber.topic} is at {subscriber.position}, and {publisher.name} was told {position}"
                if subscriber.position and subscriber.position["epoch"] != position["epoch"]:
                    # One of them was told of an epoch that has ended: the next publication decides.
                    del publisher.accepted[subscriber.topic]
        return first

    def links(self):
        """What each node says of its links to others."""
        return {name: node.status()["members"] for name, node in self.nodes.items()}

    def found(self):
        return [fault for subscriber in self.subscribers for fault in subscriber.found]

    async def close(self):
        tasks = [each.task for each in [*self.subscribers, *self.publishers]]
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


class Node(test_cluster.Node):
    """With heartbeats of its own."""

    def __init__(self, nats, name, times, *flags):
        self.own_times = times
        super().__init__(nats, name, *flags)

    def times(self):
        return self.own_times
