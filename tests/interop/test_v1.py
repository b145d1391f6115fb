"""The subprotocol `echoring.v1.json`, with the `websockets` library and raw sockets as the clients."""

import asyncio
import base64
import contextlib
import json
import os
import socket
import struct
import tempfile
import unittest

from harness import PATIENCE_S, AsyncTest, Raw, Server, frame, noise, text_file
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

SUBPROTOCOL = "echoring.v1.json"
COMPLAINTS_MAX = 20
MESSAGE_BYTES_MAX = 64 * 1024
# Far more messages than the socket buffers and the allowed lag of a subscriber hold together.
FLOOD = 400
CONFIGURATION = """
[[topics]]
pattern = "kept.*"
history_messages = 100000
history_bytes = "64MiB"
lag_bytes = "8MiB"

[[topics]]
pattern = "short.*"
history_messages = 10

[[topics]]
pattern = "oldest.*"
slow = "drop-oldest"
lag_bytes = "64KiB"

[[topics]]
pattern = "latest.*"
slow = "conflate"
lag_bytes = "64KiB"

[[topics]]
pattern = "last.*"
snapshot = 3

[[topics]]
pattern = "crowd.*"
slow = "drop-oldest"
presence = "everybody"
lag_bytes = "64KiB"

[[topics]]
pattern = "quiet.*"
heartbeat = "1s"

[[topics]]
pattern = "who.*"
presence = "everybody"

[[topics]]
pattern = "ours.*"
publish = "operator"
history = "nobody"

[[topics]]
pattern = "wide.*"
lag_bytes = "16MiB"
"""


class Ledger:
    """A client's state of a topic, by the events that it received in order."""

    def __init__(self, subscribed):
        self.topic, self.epoch = subscribed["topic"], subscribed["epoch"]
        self.offset = subscribed["offset"]
        self.messages, self.gaps, self.skipped = [], [], 0

    @property
    def position(self):
        return {"epoch": self.epoch, "offset": self.offset}

    def note(self, notice):
        """Applies an event, which must follow the previous ones without a hole and without a repetition."""
        if notice.get("topic") != self.topic:
            return
        kind = notice["type"]
        if kind == "message":
            skipped = notice.get("skipped", 0)
            assert notice["offset"] == self.offset + 1 + skipped, (self.offset, notice)
            self.offset = notice["offset"]
            self.skipped += skipped
            self.messages.append(notice)
        elif kind == "gap":
            assert notice["from"] == self.offset + 1 and notice["to"] >= notice["from"], (self.offset, notice)
            self.offset = notice["to"]
            self.gaps.append(notice)
        elif kind == "heartbeat":
            assert notice["offset"] == self.offset, (self.offset, notice)

    def missing(self):
        return sum(gap["to"] - gap["from"] + 1 for gap in self.gaps)


class Client:
    def __init__(self, connection):
        self.connection = connection
        self.last_id = 0

    async def send(self, **request):
        self.last_id += 1
        await self.connection.send(json.dumps({**request, "id": self.last_id}))
        return self.last_id

    async def hear(self):
        return json.loads(await asyncio.wait_for(self.connection.recv(), PATIENCE_S))

    async def hear_kind(self, *kinds):
        """The next event of one of these types."""
        while True:
            notice = await self.hear()
            if notice["type"] in kinds:
                return notice

    async def answer(self, **request):
        """The answer to the request. Discards earlier events."""
        number = await self.send(**request)
        while True:
            notice = await self.hear()
            if notice.get("id") == number:
                return notice

    async def subscribe(self, topic, position=None):
        more = {} if position is None else {"position": position}
        subscribed = await self.answer(type="subscribe", topic=topic, **more)
        assert subscribed["type"] == "subscribed" and subscribed["topic"] == topic, subscribed
        return subscribed

    async def publish(self, topic, **fields):
        published = await self.answer(type="publish", topic=topic, **fields)
        assert published["type"] == "published" and published["topic"] == topic, published
        return published

    async def follow(self, ledger, until):
        """Applies events until the topic's offset is `until`."""
        while ledger.offset < until:
            ledger.note(await self.hear())


class RawClient(Raw):
    """A client that reads only on request and has a minimal receive buffer."""

    def __init__(self, server, receive_bytes=None):
        self.socket = socket.socket()
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect((server.host, server.port))
        self.buffer = bytearray()

    def open(self, subprotocol=SUBPROTOCOL):
        key = base64.b64encode(noise(16)).decode()
        self.send(
            f"GET /broadcast HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            f"Sec-WebSocket-Protocol: {subprotocol}\r\n\r\n".encode()
        )
        status, headers = self.read_head()
        assert (status, headers.get("sec-websocket-protocol")) == (101, SUBPROTOCOL), (status, headers)
        return self

    def ask(self, **request):
        self.send(frame(1, json.dumps(request).encode()))

    def hear(self):
        first, payload = self.read_frame()
        while first == 0x89:
            self.send(frame(10, payload))
            first, payload = self.read_frame()
        assert first == 0x81, (hex(first), payload)
        return json.loads(payload)

    def subscribe(self, topic):
        self.ask(type="subscribe", topic=topic)
        subscribed = self.hear()
        assert subscribed["type"] == "subscribed", subscribed
        return subscribed

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def setUpModule():
    global configuration
    directory = tempfile.TemporaryDirectory()
    unittest.addModuleCleanup(directory.cleanup)
    configuration = os.path.join(directory.name, "echoring.toml")
    with open(configuration, "w") as file:
        file.write(CONFIGURATION)


class V1:
    """Tests for every driver and number of shards."""

    shards = "1"
    denied = False
    compression = None
    compress = "off"

    @classmethod
    def setUpClass(cls):
        flags = ["--compress", cls.compress]
        cls.server = Server("--shards", cls.shards, "--config", configuration, *flags, denied=cls.denied)
        cls.addClassCleanup(cls.server.__exit__)

    async def asyncSetUp(self):
        await super().asyncSetUp()
        self.clients = contextlib.AsyncExitStack()
        await self.clients.__aenter__()
        self.addAsyncCleanup(self.clients.aclose)

    async def open(self):
        # With a bounded queue, a client whose messages are unread at the end would wait for the Close frame behind them until a timeout.
        options = {"compression": self.compression, "open_timeout": PATIENCE_S, "max_size": None, "max_queue": None}
        client = connect(self.server.url("/broadcast"), subprotocols=["other", SUBPROTOCOL], **options)
        connection = await self.clients.enter_async_context(client)
        self.assertEqual(connection.subprotocol, SUBPROTOCOL)
        return Client(connection)

    async def raw(self, path):
        return await self.clients.enter_async_context(connect(self.server.url(path), open_timeout=PATIENCE_S))

    async def receive(self, connection):
        return await asyncio.wait_for(connection.recv(), PATIENCE_S)

    async def test_the_subprotocol_must_be_offered(self):
        for subprotocols in (None, ["other"]):
            with self.assertRaises(InvalidStatus) as refused:
                await connect(self.server.url("/broadcast"), subprotocols=subprotocols, open_timeout=PATIENCE_S)
            self.assertEqual(refused.exception.response.status_code, 400)
            self.assertIn(SUBPROTOCOL.encode(), refused.exception.response.body)

    async def test_who_subscribes_gets_what_is_published_from_then_on(self):
        topic = "søk/a b"
        one, other = await self.open(), await self.open()
        subscribed = await one.subscribe(topic)
        self.assertEqual(subscribed["offset"], 0)
        self.assertRegex(subscribed["epoch"], "^[0-9a-f]{1,16}$")
        self.assertEqual(sorted(subscribed), ["epoch", "id", "offset", "topic", "type"])
        # A publisher does not have to subscribe.
        published = await other.publish(topic, data={"a": [1, None]}, key="k")
        self.assertEqual(
            published,
            {"type": "published", "id": 1, "topic": topic, "epoch": subscribed["epoch"], "offset": 1},
        )
        message = {"type": "message", "topic": topic, "offset": 1, "key": "k", "data": {"a": [1, None]}}
        self.assertEqual(await one.hear(), message)
        late = await other.subscribe(topic)
        self.assertEqual((late["epoch"], late["offset"]), (subscribed["epoch"], 1))
        # A subscriber gets its own messages, too.
        await other.send(type="publish", topic=topic, text='two\n"lines"')
        heard = [await other.hear(), await other.hear()]
        self.assertEqual({notice["type"] for notice in heard}, {"published", "message"})
        for message in (await one.hear(), next(notice for notice in heard if notice["type"] == "message")):
            expected = {"type": "message", "topic": topic, "offset": 2, "text": 'two\n"lines"'}
            self.assertEqual(message, expected)
        unsubscribed = await one.answer(type="unsubscribe", topic=topic)
        self.assertEqual(unsubscribed, {"type": "unsubscribed", "id": one.last_id, "topic": topic})
        await other.publish(topic, data=3)
        # If the server had sent the message, it would have come before this one.
        again = await one.subscribe(topic)
        self.assertEqual(again["offset"], 3)

    async def test_one_connection_watches_many_topics(self):
        client, publisher = await self.open(), await self.open()
        topics = [f"many.{number}" for number in range(100)]
        ledgers = {topic: Ledger(await client.subscribe(topic)) for topic in topics}
        for number in range(5):
            for topic in topics:
                await publisher.send(type="publish", topic=topic, data=[topic, number])
        while any(ledger.offset < 5 for ledger in ledgers.values()):
            notice = await client.hear()
            ledgers[notice["topic"]].note(notice)
        for topic, ledger in ledgers.items():
            heard = [message["data"] for message in ledger.messages]
            self.assertEqual(heard, [[topic, number] for number in range(5)])

    async def test_a_value_arrives_as_it_was_written(self):
        written = '{"n" : 1.10e+2,"big":12345678901234567890123, "s":"\\u00e9\\/"}'
        client = await self.open()
        await client.subscribe("verbatim")
        raw = await self.raw("/broadcast/verbatim")
        await client.connection.send('{"data":%s ,"topic":"verbatim","type":"publish"}' % written)
        # A publication without an id gets an answer only if it is refused.
        message = await self.receive(client.connection)
        self.assertEqual(message, f'{{"type":"message","topic":"verbatim","offset":1,"data":{written}}}')
        await client.connection.send('{"data":1,"topic":"ours.only","type":"publish"}')
        error = await client.hear()
        self.assertEqual((error["type"], error["code"], "id" in error), ("error", "forbidden", False))
        self.assertEqual(await self.receive(raw), written)

    async def test_raw_routes_and_the_subprotocol_are_one_world(self):
        client, raw = await self.open(), await self.raw("/broadcast/one%20world")
        ledger = Ledger(await client.subscribe("one world"))
        await raw.send('say "hi" ✓')
        await raw.send(b"\x00\xff")
        await raw.send(b"")
        await client.follow(ledger, 3)
        text, binary, empty = ledger.messages
        self.assertEqual((text["text"], "data" in text, "base64" in text), ('say "hi" ✓', False, False))
        self.assertEqual(base64.b64decode(binary["base64"], validate=True), b"\x00\xff")
        self.assertEqual(empty["base64"], "")
        await client.publish("one world", data={"a": 1})
        await client.publish("one world", text="plain")
        self.assertEqual([await self.receive(raw), await self.receive(raw)], ['{"a": 1}', "plain"])

    async def test_a_topics_order_is_one_for_all(self):
        publishers = [await self.open() for _ in range(4)]
        subscribers = [await self.open() for _ in range(6)]
        each = 250
        ledgers = [Ledger(await client.subscribe("wide.order")) for client in subscribers]

        async def publish(name, client):
            for number in range(each):
                await client.send(type="publish", topic="wide.order", data=[name, number])
            # The answers come in the order of the requests, with rising offsets.
            heard = [await client.hear() for _ in range(each)]
            self.assertEqual([notice["id"] for notice in heard], list(range(1, each + 1)))
            offsets = [notice["offset"] for notice in heard]
            self.assertEqual(offsets, sorted(set(offsets)))
            return offsets

        offsets, *_ = await asyncio.gather(
            asyncio.gather(*(publish(name, client) for name, client in enumerate(publishers))),
            *(client.follow(ledger, 4 * each) for client, ledger in zip(subscribers, ledgers)),
        )
        for ledger in ledgers:
            self.assertEqual((ledger.messages, ledger.gaps), (ledgers[0].messages, []))
        at = {message["offset"]: message["data"] for message in ledgers[0].messages}
        for name, own in enumerate(offsets):
            self.assertEqual([at[offset] for offset in own], [[name, number] for number in range(each)])

    async def test_recovery_loses_nothing_and_repeats_nothing_while_publishing_goes_on(self):
        topic, count = "kept.recovery", 3000
        publisher, client = await self.open(), await self.open()
        ledger = Ledger(await client.subscribe(topic))

        async def publish():
            for number in range(count):
                await publisher.send(type="publish", topic=topic, data=number)
                if number % 50 == 49:
                    while (await publisher.hear())["offset"] <= number:
                        pass

        publishing = asyncio.create_task(publish())
        lives = 1
        while ledger.offset < count:
            until = min(count, ledger.offset + 70 + 13 * (lives % 7))
            await client.follow(ledger, until)
            # Like a network failure: bytes in flight are lost.
            client.connection.transport.abort()
            lives += 1
            client = await self.open()
            subscribed = await client.subscribe(topic, ledger.position)
            self.assertEqual(subscribed["epoch"], ledger.epoch)
        await publishing
        self.assertGreater(lives, 10)
        self.assertEqual(ledger.gaps, [])
        self.assertEqual([message["data"] for message in ledger.messages], list(range(count)))

    async def test_what_is_not_kept_any_more_is_a_gap(self):
        topic = "short.history"
        client = await self.open()
        for number in range(1, 31):
            published = await client.publish(topic, data=number)
        ledger = Ledger({"topic": topic, "epoch": published["epoch"], "offset": 5})
        subscribed = await client.subscribe(topic, ledger.position)
        self.assertEqual(subscribed["epoch"], published["epoch"])
        await client.follow(ledger, 30)
        self.assertEqual([(gap["from"], gap["to"], gap["reason"]) for gap in ledger.gaps], [(6, 20, "history")])
        self.assertEqual([message["data"] for message in ledger.messages], list(range(21, 31)))
        # From the latest position there is nothing to replay, and the following messages are live.
        other = await self.open()
        ledger = Ledger({"topic": topic, "epoch": published["epoch"], "offset": 30})
        await other.subscribe(topic, ledger.position)
        await client.publish(topic, data=31)
        await other.follow(ledger, 31)
        self.assertEqual(ledger.gaps, [])

    async def test_a_subscription_from_a_position_that_is_none_of_the_topics_is_accepted_and_says_so(self):
        topic = "positions"
        client = await self.open()
        published = await client.publish(topic, data=1)
        other_epoch = f"{int(published['epoch'], 16) ^ 1:x}"
        for position in ({"epoch": other_epoch, "offset": 1}, {"epoch": published["epoch"], "offset": 2}):
            subscribed = await client.subscribe(topic, position)
            self.assertIs(subscribed["recovered"], False)
            self.assertEqual((subscribed["epoch"], subscribed["offset"]), (published["epoch"], 1))
            await client.answer(type="unsubscribe", topic=topic)
        subscribed = await client.subscribe(topic, {"epoch": published["epoch"], "offset": 1})
        self.assertIs(subscribed["recovered"], True)
        self.assertNotIn("recovered", await (await self.open()).subscribe(topic))

    async def test_however_many_topics_a_client_comes_back_to_after_a_restart_it_is_let_in(self):
        topics = [f"returning.{number}" for number in range(5 * COMPLAINTS_MAX)]
        with Server("--shards", self.shards, denied=self.denied) as server:
            options = {"subprotocols": [SUBPROTOCOL], "open_timeout": PATIENCE_S}
            async with connect(server.url("/broadcast"), **options) as connection:
                client = Client(connection)
                positions = [(await client.publish(topic, data=1)) for topic in topics]
        client = await self.open()
        for topic, position in zip(topics, positions):
            position = {"epoch": position["epoch"], "offset": position["offset"]}
            subscribed = await client.subscribe(topic, position)
            self.assertIs(subscribed["recovered"], False)
            self.assertNotEqual(subscribed["epoch"], position["epoch"])
        # It continues from the reported position, now and on its next visit.
        ledger = Ledger(subscribed)
        await client.publish(topics[-1], data=2)
        await client.follow(ledger, subscribed["offset"] + 1)
        other = await self.open()
        self.assertIs((await other.subscribe(topics[-1], ledger.position))["recovered"], True)

    async def test_a_topic_that_everybody_left_keeps_its_epoch_for_a_while(self):
        client = await self.open()
        first = await client.subscribe("left")
        await client.answer(type="unsubscribe", topic="left")
        again = await client.subscribe("left", {"epoch": first["epoch"], "offset": first["offset"]})
        self.assertEqual((again["epoch"], again["offset"], again["recovered"]), (first["epoch"], 0, True))

    async def test_the_figures_of_a_topic_do_not_fall_when_its_subscribers_leave(self):
        client = await self.open()
        publisher = await self.open()
        offered = 0
        for _ in range(3):
            ledger = Ledger(await client.subscribe("figures"))
            await publisher.publish("figures", data=1)
            await client.follow(ledger, ledger.offset + 1)
            await client.answer(type="unsubscribe", topic="figures")
            offered += 1
            status, _, body = await asyncio.to_thread(self.server.get, "/topics/figures")
            self.assertEqual((status, json.loads(body)["deliveries"]["offered"]), (200, offered))

    async def test_a_restart_is_another_epoch(self):
        with Server("--shards", self.shards, denied=self.denied) as server:
            epochs = []
            for where in (self.server, server):
                options = {"subprotocols": [SUBPROTOCOL], "open_timeout": PATIENCE_S}
                async with connect(where.url("/broadcast"), **options) as connection:
                    epochs.append((await Client(connection).subscribe("restarted"))["epoch"])
        self.assertNotEqual(*epochs)

    async def test_a_slow_subscriber_is_told_which_messages_it_missed(self):
        ledger = await asyncio.to_thread(self._flood, "oldest.flood", lambda number: {})
        self.assertEqual({gap["reason"] for gap in ledger.gaps}, {"slow"})
        self.assertEqual(len(ledger.messages) + ledger.missing(), FLOOD)
        self.assertGreater(ledger.missing(), 0)
        self.assertEqual(ledger.skipped, 0)
        self.assertEqual(ledger.messages[-1]["offset"], FLOOD, "the latest is what is kept")

    async def test_a_slow_subscriber_of_states_gets_the_latest_of_each(self):
        ledger = await asyncio.to_thread(self._flood, "latest.flood", lambda number: {"key": f"k{number % 8}"})
        self.assertEqual(ledger.gaps, [])
        self.assertGreater(ledger.skipped, 0)
        self.assertEqual(len(ledger.messages) + ledger.skipped, FLOOD)
        latest = {message["key"]: message["data"][0] for message in ledger.messages}
        self.assertEqual(latest, {f"k{number % 8}": number for number in range(FLOOD - 8, FLOOD)})
        client = await self.open()
        error = await client.answer(type="publish", topic="latest.flood", data=1)
        self.assertEqual((error["type"], error["code"], error["field"]), ("error", "no-key", "key"))

    def _flood(self, topic, more):
        """Returns the events of a subscriber that read nothing until everything was published, while another read everything."""
        with RawClient(self.server, 4096).open() as slow, RawClient(self.server).open() as quick:
            with RawClient(self.server).open() as publisher:
                ledger, healthy = Ledger(slow.subscribe(topic)), Ledger(quick.subscribe(topic))
                for number in range(FLOOD):
                    data = [number, "x" * 16_000]
                    publisher.ask(type="publish", id=number, topic=topic, data=data, **more(number))
                    self.assertEqual(publisher.hear()["offset"], number + 1)
                    healthy.note(quick.hear())
                while ledger.offset < FLOOD:
                    ledger.note(slow.hear())
        self.assertEqual((healthy.offset, len(healthy.messages)), (FLOOD, FLOOD), "nobody else misses anything")
        return ledger

    async def test_one_slow_topic_ends_its_subscription_and_no_other(self):
        await asyncio.to_thread(self._too_slow)

    def _too_slow(self):
        def dropped():
            return self.server.stats()["node"]["deliveries"]["dropped"]["disconnect"]

        before = dropped()
        with RawClient(self.server, 4096).open() as slow, RawClient(self.server).open() as publisher:
            ledger = Ledger(slow.subscribe("strict"))
            other = Ledger(slow.subscribe("beside"))
            for number in range(FLOOD):
                publisher.ask(type="publish", id=number, topic="strict", data=[number, "x" * 16_000])
                self.assertEqual(publisher.hear()["offset"], number + 1)
                if dropped() > before:
                    break
            notice = slow.hear()
            while notice["type"] != "unsubscribed":
                ledger.note(notice)
                notice = slow.hear()
            self.assertEqual(
                notice,
                {"type": "unsubscribed", "topic": "strict", **ledger.position, "reason": "slow"},
            )
            self.assertLess(len(ledger.messages), FLOOD)
            publisher.ask(type="publish", id=0, topic="beside", data=1)
            other.note(slow.hear())
            self.assertEqual(other.offset, 1, "the other subscription goes on")
            slow.ask(type="subscribe", topic="strict", position=ledger.position)
            self.assertEqual(slow.hear()["type"], "subscribed")

    async def test_presence_tells_who_comes_and_goes(self):
        topic = "who.is_there"
        first, second = await self.open(), await self.open()
        mine = await first.subscribe(topic)
        self.assertEqual(mine["count"], 1)
        self.assertRegex(mine["client"], "^[0-9a-f]+$")
        join = {"type": "presence", "topic": topic, "event": "join", "client": mine["client"], "count": 1}
        self.assertEqual(await first.hear(), join)
        for number, leave in enumerate(("unsubscribe", "close", "abort")):
            other = second if number == 0 else await self.open()
            theirs = await other.subscribe(topic)
            self.assertEqual(theirs["count"], 2)
            self.assertNotEqual(theirs["client"], mine["client"])
            join = {**join, "client": theirs["client"], "count": 2}
            self.assertEqual([await first.hear(), await other.hear()], [join, join])
            if leave == "unsubscribe":
                await other.answer(type="unsubscribe", topic=topic)
            elif leave == "close":
                await other.connection.close()
            else:
                other.connection.transport.abort()
            gone = {**join, "event": "leave", "count": 1}
            self.assertEqual(await first.hear(), gone)
        # Topics without presence send no notices.
        quiet = await second.subscribe("no presence")
        self.assertEqual(sorted(quiet), ["epoch", "id", "offset", "topic", "type"])

    async def test_the_count_of_clients_that_join_and_leave_together_is_each_ones_own(self):
        topic = "who.together"
        first, others = await self.open(), [await self.open() for _ in range(20)]
        await first.subscribe(topic)
        await first.hear_kind("presence")
        await asyncio.gather(*(other.subscribe(topic) for other in others))
        counts = [(await first.hear_kind("presence"))["count"] for _ in others]
        self.assertEqual(counts, list(range(2, 22)))
        for other in others:
            other.connection.transport.abort()
        counts = [(await first.hear_kind("presence"))["count"] for _ in others]
        self.assertEqual(counts, list(range(20, 0, -1)))

    async def test_presence_is_listed_by_pages_and_counted(self):
        topic = "who.listed"
        clients = [await self.open() for _ in range(5)]
        names = sorted([(await client.subscribe(topic))["client"] for client in clients])
        first = clients[0]
        while (await first.hear_kind("presence"))["count"] < 5:
            pass
        heard, more = [], {}
        while True:
            page = await first.answer(type="presence", topic=topic, limit=2, **more)
            self.assertEqual((page["type"], page["topic"], page["count"]), ("members", topic, 5))
            self.assertEqual(page.get("after"), more.get("after"))
            heard += page["clients"]
            if "next" not in page:
                break
            more = {"after": page["next"]}
        # As numbers, whatever the text says.
        self.assertEqual(heard, sorted(names, key=lambda name: int(name, 16)))
        counted = await first.answer(type="presence", topic=topic, limit=0)
        self.assertEqual((counted["clients"], counted["count"]), ([], 5))
        error = await first.answer(type="presence", topic="who.else")
        self.assertEqual((error["type"], error["code"]), ("error", "not-subscribed"))
        await first.subscribe("no presence")
        error = await first.answer(type="presence", topic="no presence")
        self.assertEqual((error["type"], error["code"]), ("error", "no-presence"))

    async def pages(self, client, topic, limit):
        """The answers to requests of history from the latest messages to the first that is kept."""
        answers, more = [], {}
        while True:
            answer = await client.answer(type="history", topic=topic, limit=limit, **more)
            self.assertEqual((answer["type"], answer["topic"]), ("history", topic), answer)
            answers.append(answer)
            if "next" not in answer:
                return answers
            more = {"before": answer["next"]}

    async def test_history_is_read_backwards_by_pages(self):
        client = await self.open()
        for topic, kept, limit, sizes in (("kept.pages", 30, 7, [7, 7, 7, 7, 2]), ("short.pages", 10, 7, [7, 3]), ("kept.more", 30, 256, [30])):
            with self.subTest(topic=topic):
                epoch = (await client.subscribe(topic))["epoch"]
                for number in range(30):
                    fields = {"data": [number]} if number % 2 else {"text": str(number), "key": "k"}
                    await client.publish(topic, **fields)
                answers = await self.pages(client, topic, limit)
                self.assertEqual([len(answer["messages"]) for answer in answers], sizes)
                self.assertEqual({(answer["epoch"], answer["offset"]) for answer in answers}, {(epoch, 30)})
                messages = [message for answer in reversed(answers) for message in answer["messages"]]
                self.assertEqual([message["offset"] for message in messages], list(range(31 - kept, 31)))
                expected = {"offset": 30, "data": [29]}, {"offset": 29, "key": "k", "text": "28"}
                self.assertEqual((messages[-1], messages[-2]), expected)
        none = await client.answer(type="history", topic="kept.pages", limit=0)
        self.assertEqual((none["messages"], none["offset"], none.get("next")), ([], 30, None))
        first = await client.answer(type="history", topic="kept.pages", before=1)
        self.assertEqual((first["messages"], first.get("next")), ([], None))

    async def test_long_messages_come_on_more_pages(self):
        client, topic = await self.open(), "kept.long"
        await client.subscribe(topic)
        for number in range(20):
            await client.publish(topic, text=f"{number:02}" * 15_000)
        answers = await self.pages(client, topic, 256)
        self.assertGreater(len(answers), 4)
        offsets = [message["offset"] for answer in reversed(answers) for message in answer["messages"]]
        self.assertEqual(offsets, list(range(1, 21)))
        # All that a client may ask for at once, and more: what has no room is refused, and the client is not slow for it.
        numbers = [await client.send(type="history", topic=topic) for _ in range(60)]
        answers = [await client.hear() for _ in numbers]
        self.assertEqual(sorted(answer["id"] for answer in answers), numbers)
        kinds = {answer.get("code", answer["type"]) for answer in answers}
        self.assertTrue({"history"} <= kinds <= {"history", "busy"}, kinds)
        self.assertEqual(len((await client.answer(type="history", topic=topic, limit=2))["messages"]), 2)

    async def test_history_of_states_has_the_latest_of_each_key(self):
        client, topic = await self.open(), "latest.pages"
        await client.subscribe(topic)
        for number in range(600):
            await client.publish(topic, key="rare" if number == 3 else f"k{number % 3}", data=number)
        messages = [message for answer in await self.pages(client, topic, 100) for message in reversed(answer["messages"])]
        latest = {}
        for message in messages:
            latest.setdefault(message["key"], message["data"])
        self.assertEqual(latest, {"k0": 597, "k1": 598, "k2": 599, "rare": 3})

    async def test_history_is_for_subscribers_with_the_right(self):
        client = await self.open()
        error = await client.answer(type="history", topic="kept.else")
        self.assertEqual((error["type"], error["code"]), ("error", "not-subscribed"))
        await client.subscribe("ours.secret")
        error = await client.answer(type="history", topic="ours.secret")
        self.assertEqual((error["type"], error["code"]), ("error", "forbidden"))
        self.assertEqual((await client.answer(type="history", topic="ours.secret", limit=257))["field"], "limit")

    async def test_a_slow_subscriber_is_told_that_presence_is_stale_and_who_is_there(self):
        await asyncio.to_thread(self._stale)

    def _stale(self):
        topic = "crowd.stale"
        with RawClient(self.server, 4096).open() as slow, RawClient(self.server).open() as publisher:
            ledger, there = Ledger(slow.subscribe(topic)), set()
            staying = []
            for number in range(FLOOD):
                if number % 40 == 0:
                    member = RawClient(self.server).open()
                    name = member.subscribe(topic)["client"]
                    if number % 80 == 0:
                        staying.append((member, name))
                    else:
                        member.close()
                data = [number, "x" * 16_000]
                publisher.ask(type="publish", id=number, topic=topic, data=data)
                self.assertEqual(publisher.hear()["offset"], number + 1)
            kinds, whole = [], False
            # Until it has read everything that was published, and all members. No member that left is among them.
            while ledger.offset < FLOOD or not whole or len(there) != len(staying) + 1:
                notice = slow.hear()
                ledger.note(notice)
                kinds.append((notice["type"], notice.get("event")))
                if kinds[-1] == ("presence", "stale"):
                    whole = False
                elif notice["type"] == "presence":
                    (there.add if notice["event"] == "join" else there.discard)(notice["client"])
                elif notice["type"] == "members":
                    self.assertNotIn("id", notice)
                    if "after" not in notice:
                        there.clear()
                    there.update(notice["clients"])
                    whole = "next" not in notice
            self.assertIn(("presence", "stale"), kinds)
            self.assertGreater(ledger.missing(), 0)
            self.assertTrue({name for _, name in staying} <= there, (staying, there))
            for member, _ in staying:
                member.close()

    async def test_a_publication_that_is_sent_again_is_the_same_message(self):
        subscriber, publisher = await self.open(), await self.open()
        ledger = Ledger(await subscriber.subscribe("again"))
        first = await publisher.publish("again", data=1, idempotency_key="one")
        for number in (2, 3):
            other = await self.open()
            again = await other.publish("again", data=1, idempotency_key="one")
            self.assertEqual((again["epoch"], again["offset"]), (first["epoch"], first["offset"]))
            self.assertEqual((await other.publish("again", data=number))["offset"], number)
        # This includes a publisher that subscribes and receives its own messages.
        again = await subscriber.publish("again", data=1, idempotency_key="one")
        self.assertEqual(again["offset"], first["offset"])
        error = await publisher.answer(type="publish", topic="again", data=2, idempotency_key="one")
        self.assertEqual((error["code"], error["field"]), ("idempotency-key-reused", "idempotency_key"))
        elsewhere = await publisher.publish("again elsewhere", data=2, idempotency_key="one")
        self.assertEqual(elsewhere["offset"], 1, "a key belongs to its topic")
        late = await self.open()
        ledger = Ledger(await late.subscribe("again", {"epoch": first["epoch"], "offset": 0}))
        while ledger.offset < 3:
            ledger.note(await late.hear())
        self.assertEqual([message["data"] for message in ledger.messages], [1, 2, 3])

    async def test_a_newcomer_to_states_gets_the_latest_of_each_key_first(self):
        publisher, early = await self.open(), await self.open()
        self.assertNotIn("snapshot", await early.subscribe("latest.snapshot"))
        for number in range(30):
            await publisher.publish("latest.snapshot", key=f"k{number % 4}", data=number)
        late = await self.open()
        subscribed = await late.subscribe("latest.snapshot")
        self.assertEqual((subscribed["offset"], subscribed["snapshot"]), (0, 30))
        ledger = Ledger(subscribed)
        await publisher.publish("latest.snapshot", key="k1", data=30)
        while ledger.offset < 31:
            ledger.note(await late.hear())
        told = [(message["key"], message["data"], message.get("snapshot")) for message in ledger.messages]
        self.assertEqual(told, [("k2", 26, True), ("k3", 27, True), ("k0", 28, True), ("k1", 29, True), ("k1", 30, None)])
        self.assertEqual((ledger.skipped, ledger.gaps), (26, []))

    async def test_who_returns_to_states_of_which_not_all_are_kept_gets_the_latest_of_each_key(self):
        topic = "latest.return"
        client = await self.open()
        for number in range(1, 201):
            published = await client.publish(topic, key=f"k{number % 4}", data=number)
        ledger = Ledger({"topic": topic, "epoch": published["epoch"], "offset": 5})
        subscribed = await client.subscribe(topic, ledger.position)
        self.assertEqual((subscribed["recovered"], subscribed["offset"], subscribed["snapshot"]), (True, 5, 200))
        await client.follow(ledger, 200)
        self.assertEqual([message["data"] for message in ledger.messages], [197, 198, 199, 200])
        self.assertTrue(all(message["snapshot"] for message in ledger.messages))
        self.assertEqual((ledger.skipped, ledger.gaps), (191, []))

    async def test_a_newcomer_gets_the_last_messages_where_its_topic_says_so(self):
        publisher = await self.open()
        for number in range(1, 6):
            await publisher.publish("last.one", data=number)
            client = await self.open()
            subscribed = await client.subscribe("last.one")
            first = max(0, number - 3)
            self.assertEqual((subscribed["offset"], subscribed["snapshot"]), (first, number))
            ledger = Ledger(subscribed)
            while ledger.offset < number:
                ledger.note(await client.hear())
            self.assertEqual([message["data"] for message in ledger.messages], list(range(first + 1, number + 1)))
            self.assertTrue(all(message["snapshot"] for message in ledger.messages))

    async def test_a_ping_is_answered_and_is_no_failure(self):
        client = await self.open()
        for _ in range(COMPLAINTS_MAX + 1):
            await client.connection.send("nonsense")
            self.assertEqual((await client.hear())["code"], "bad-json")
            number = await client.send(type="ping")
            self.assertEqual(await client.hear(), {"type": "pong", "id": number, "max_message": MESSAGE_BYTES_MAX})
        await client.connection.send('{"type":"ping"}')
        self.assertEqual(await client.hear(), {"type": "pong", "max_message": MESSAGE_BYTES_MAX})

    async def test_a_silent_topic_tells_its_last_offset(self):
        client, publisher = await self.open(), await self.open()
        ledger = Ledger(await client.subscribe("quiet.topic"))
        self.assertEqual(await client.hear(), {"type": "heartbeat", "topic": "quiet.topic", "offset": 0})
        for number in range(1, 3):
            await publisher.publish("quiet.topic", data=number)
            while True:
                notice = await client.hear()
                ledger.note(notice)
                if notice["type"] == "heartbeat" and ledger.offset == number:
                    break
        # Repeatedly, as long as it is silent.
        for _ in range(2):
            self.assertEqual((await client.hear())["offset"], 2)

    async def test_what_cannot_be_done_is_answered_with_the_field(self):
        client = await self.open()
        await client.subscribe("errors")
        long = "x" * 256
        for request, code, field in (
            ({"type": "shout"}, "unknown-type", "type"),
            ({}, "missing-field", "type"),
            ({"type": 7}, "bad-field", "type"),
            ({"type": "subscribe"}, "missing-field", "topic"),
            ({"type": "subscribe", "topic": ""}, "bad-field", "topic"),
            ({"type": "subscribe", "topic": long}, "bad-field", "topic"),
            ({"type": "subscribe", "topic": "a\u0000"}, "bad-field", "topic"),
            ({"type": "subscribe", "topic": "errors"}, "already-subscribed", "topic"),
            ({"type": "subscribe", "topic": "t", "position": 1}, "bad-field", "position"),
            ({"type": "subscribe", "topic": "t", "position": {"offset": 1}}, "missing-field", "position.epoch"),
            ({"type": "unsubscribe", "topic": "elsewhere"}, "not-subscribed", "topic"),
            ({"type": "publish", "topic": "t"}, "missing-field", "data"),
            ({"type": "publish", "topic": "t", "text": 1}, "bad-field", "text"),
            ({"type": "publish", "topic": "t", "text": "a", "data": 1}, "bad-field", "text"),
            ({"type": "publish", "topic": "t", "key": "", "data": 1}, "bad-field", "key"),
            ({"type": "publish", "topic": "t", "key": long, "data": 1}, "bad-field", "key"),
            ({"type": "publish", "topic": "ours.only", "data": 1}, "forbidden", "topic"),
        ):
            error = await client.answer(**request)
            self.assertEqual((error["type"], error["code"], error["field"]), ("error", code, field), error)
            self.assertTrue(error["message"])
            # A valid request between them, so that there are not too many consecutive errors.
            await client.publish("errors", data=1)
        for text, code in (("{", "bad-json"), ("[]", "bad-json"), (b"{}", "not-text"), ("[" * 60_000, "bad-json")):
            await client.connection.send(text)
            error = await client.hear_kind("error")
            self.assertEqual((error["code"], "field" in error, "id" in error), (code, False, False))
        await client.connection.send('{"type":"subscribe","topic":"t","id":1.5}')
        error = await client.hear_kind("error")
        self.assertEqual((error["code"], error["field"]), ("bad-field", "id"))

    async def test_a_connection_has_so_many_subscriptions_and_no_more(self):
        client = await self.open()
        for number in range(128):
            await client.subscribe(f"subscription.{number}")
        error = await client.answer(type="subscribe", topic="subscription.128")
        self.assertEqual((error["code"], error["field"]), ("too-many-subscriptions", "topic"))
        await client.answer(type="unsubscribe", topic="subscription.0")
        await client.subscribe("subscription.128")

    async def test_who_only_asks_for_nonsense_is_closed_with_1008(self):
        client = await self.open()
        # A valid request resets the count.
        for _ in range(2):
            for _ in range(COMPLAINTS_MAX):
                await client.connection.send("nonsense")
                self.assertEqual((await client.hear())["code"], "bad-json")
            await client.publish("sense", data=1)
        for _ in range(COMPLAINTS_MAX + 1):
            await client.connection.send("nonsense")
        with self.assertRaises(ConnectionClosed) as closed:
            while True:
                self.assertEqual((await client.hear())["code"], "bad-json")
        self.assertEqual(closed.exception.rcvd.code, 1008)

    def test_errors_between_requests_that_make_sense_are_not_in_a_row(self):
        count = 3 * COMPLAINTS_MAX
        # Some topics have another owner shard, which has not answered when all errors have been sent.
        for topic in range(8):
            for more in (lambda number: {}, lambda number: {"id": number}):
                client = RawClient(self.server).open()
                self.addCleanup(client.socket.close)
                publish = {"type": "publish", "topic": f"row.{topic}", "data": 0}
                requests = [{**publish, **more(number)} for number in range(count)]
                pairs = [frame(1, json.dumps(request).encode()) + frame(1, b"nonsense") for request in requests]
                client.send(b"".join(pairs))
                # Only this request has this id.
                client.ask(**publish, id=count)
                codes, answered = [], []
                while count not in answered or len(codes) < count:
                    notice = client.hear()
                    if notice["type"] == "error":
                        codes.append(notice["code"])
                    else:
                        answered.append(notice["id"])
                self.assertEqual(codes, ["bad-json"] * count)
                self.assertEqual(answered, [request["id"] for request in requests if "id" in request] + [count])

    async def test_whoever_is_refused_again_and_again_is_answered_each_time(self):
        for request, code in (
            # By topics of all shards.
            (lambda number: {"type": "publish", "topic": f"latest.{number % 7}", "data": number}, "no-key"),
            (lambda number: {"type": "publish", "topic": f"latest.{number % 7}", "data": number, "id": number}, "no-key"),
            (lambda number: {"type": "unsubscribe", "topic": "never"}, "not-subscribed"),
            (lambda number: {"type": "authenticate", "token": "none"}, "bad-token"),
        ):
            client = await self.open()
            for number in range(3 * COMPLAINTS_MAX):
                await client.connection.send(json.dumps(request(number)))
                self.assertEqual((await client.hear())["code"], code)
            await client.publish("sense", data=1)

    async def test_a_pong_has_the_maximum_of_a_message_also_after_a_reload(self):
        with text_file('max_message = "4KiB"') as file, Server("--config", file) as server:
            client = RawClient(server).open()
            self.addCleanup(client.socket.close)
            for expected in (4096, 1024):
                client.ask(type="ping", id=1)
                self.assertEqual(client.hear(), {"type": "pong", "id": 1, "max_message": expected})
                with open(file, "w", encoding="utf-8") as settings:
                    settings.write('max_message = "1KiB"')
                self.assertEqual(server.get("/reload", "POST")[0], 200)

    async def test_the_page_and_its_files_carry_a_strict_policy(self):
        address = (self.server.host, self.server.port)
        for path, kind in (
            ("/broadcast", "text/html"),
            ("/broadcast.js", "text/javascript"),
            ("/broadcast.css", "text/css"),
        ):
            status, headers, body = self.server.get(path, address=address)
            self.assertEqual((status, headers["Content-Type"].split(";")[0]), (200, kind))
            self.assertEqual(headers["X-Content-Type-Options"], "nosniff")
            self.assertNotIn(b"http://", body)
            self.assertNotIn(b"https://", body)
        policy = self.server.get("/broadcast", address=address)[1]["Content-Security-Policy"]
        self.assertTrue(policy.startswith("default-src 'none';"), policy)
        self.assertNotIn("unsafe", policy)


class OneShard(V1, AsyncTest):
    pass


class TwoShards(V1, AsyncTest):
    shards = "2"


class OneShardWithoutIoUring(V1, AsyncTest):
    denied = True


class TwoShardsWithoutIoUring(V1, AsyncTest):
    shards = "2"
    denied = True


class TwoShardsCompressed(V1, AsyncTest):
    shards = "2"
    compression = "deflate"
    compress = "on"


class TwoShardsWithSharedContexts(V1, AsyncTest):
    shards = "2"
    compression = "deflate"
    compress = "shared; server_max_window_bits=9"


class Accounts(unittest.TestCase):
    """The fate of every message if one of a thousand subscribers disconnects in the middle."""

    denied = False

    def test_they_add_up_at_every_moment_and_at_the_end(self):
        readers, messages, victim_reads = 1000, 60, 20
        flags = ["--shards", "2", "--config", configuration]
        with contextlib.ExitStack() as stack, Server(*flags, denied=self.denied) as server:
            clients = [stack.enter_context(RawClient(server).open()) for _ in range(readers)]
            for client in clients:
                client.subscribe("wide.thousand")
            publisher = stack.enter_context(RawClient(server).open())
            victim = clients[readers // 2]
            for number in range(messages):
                publisher.ask(type="publish", id=number, topic="wide.thousand", data=[number, "x" * 500])
                self.assertEqual(publisher.hear()["offset"], number + 1)
                if number == victim_reads:
                    victim.reset()
                self.check(server.stats())
            for client in clients:
                if client is not victim:
                    heard = [client.hear() for _ in range(messages)]
                    self.assertEqual([notice["offset"] for notice in heard], list(range(1, messages + 1)))
            stats = server.stats()
            self.check(stats)
            deliveries, publications = stats["node"]["deliveries"], stats["node"]["publications"]
            self.assertEqual((publications["published"], publications["accepted"]), (messages, messages))
            self.assertEqual(deliveries["queued"], 0)
            # The subscriber that left was offered some messages and missed the rest. All others were sent everything.
            self.assertLessEqual(deliveries["offered"], readers * messages)
            self.assertGreaterEqual(deliveries["sent"], (readers - 1) * messages)

    def check(self, stats):
        for part in [stats["node"], *stats["shards"]]:
            publications, deliveries = part["publications"], part["deliveries"]
            self.assertEqual(publications["published"], publications["accepted"] + publications["refused"])
            become = deliveries["sent"] + sum(deliveries["dropped"].values()) + deliveries["queued"] + deliveries["filtered"]
            self.assertEqual(deliveries["offered"], become, part)


class AccountsWithoutIoUring(Accounts):
    denied = True
