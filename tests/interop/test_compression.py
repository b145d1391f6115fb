"""permessage-deflate (RFC 7692) with foreign clients: `websockets`, Chromium, and raw frames with zlib."""

import asyncio
import contextlib
import functools
import json
import socket
import tempfile
import zlib

from harness import PATIENCE_S, AsyncTest, Raw, Server, frame, noise
from test_browser import OPEN, InFrontOfAPage
from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

THRESHOLD_BYTES = 128
# Maximum number of messages that are published to a peer that does not read.
FLOOD_MAX = 1_000


def record(number):
    """JSON of about 1 KiB that resembles the previous message, but differs."""
    rows = [{"id": number * 20 + i, "symbol": "ECHO", "bid": 100 + i / 8, "ask": 101 + i / 8} for i in range(20)]
    return json.dumps(rows)


def offer(**parameters):
    """Options of a client that offers compression with these parameters."""
    factory = ClientPerMessageDeflateFactory(**{"client_max_window_bits": True} | parameters)
    return {"compression": None, "extensions": [factory]}


def quote(number):
    """A short message that has much in common with the others."""
    return json.dumps({"n": number, "symbol": "ECHO", "bid": 100 + number * 7919 % 1000 / 8, "venue": "XETR", "state": "open"}, separators=(",", ":"))


PLAIN = {"compression": None}
# The offer of a client, and the maximum window bits of the server that it implies (15 by default).
OFFERS = [
    (PLAIN, None),
    ({"compression": "deflate"}, 15),
    (offer(), 15),
    (offer(server_no_context_takeover=True, client_no_context_takeover=True), 15),
    (offer(server_max_window_bits=12), 12),
    (offer(server_max_window_bits=9, client_max_window_bits=9), 9),
    (offer(server_max_window_bits=9, server_no_context_takeover=True), 9),
]
# The server's setting, its maximum window bits, and whether it uses context takeover.
SETTINGS = [
    ("on", 15, False),
    ("server_max_window_bits=15; client_max_window_bits=15", 15, True),
    ("server_max_window_bits=12; client_max_window_bits=12; client_no_context_takeover", 12, True),
    ("server_max_window_bits=9; client_max_window_bits=9; level=9", 9, True),
    ("shared", 15, True),
    ("shared; server_max_window_bits=9", 9, True),
]
MESSAGES = ["", "short", b"\x00\xff", *map(record, range(20)), noise(5_000), "ü" * 30_000, record(3).encode()]


class Compression(AsyncTest):
    denied = False

    def serve(self, *flags):
        server = Server(*flags, denied=self.denied)
        self.addCleanup(server.__exit__)
        return server

    async def join(self, clients, server, path, options):
        client = connect(server.url(path), open_timeout=PATIENCE_S, max_size=None, **options)
        return await clients.enter_async_context(client)

    async def receive(self, client):
        return await asyncio.wait_for(client.recv(), PATIENCE_S)

    def check_agreement(self, client, bits, most_bits, kept):
        """Checks that the connection is compressed if the client offered it, and within the requested windows."""
        if bits is None:
            self.assertEqual(client.protocol.extensions, [])
            return
        [extension] = client.protocol.extensions
        # A server may use a smaller window without announcing it if the client did not request one.
        self.assertEqual(extension.remote_max_window_bits, 15 if bits == 15 else min(bits, most_bits))
        if not kept:
            self.assertTrue(extension.remote_no_context_takeover)
            self.assertTrue(extension.local_no_context_takeover)

    async def test_every_offer_echoes_in_every_setting(self):
        for flag, most_bits, kept in SETTINGS:
            server = self.serve("--compress", flag)
            for options, bits in OFFERS:
                async with contextlib.AsyncExitStack() as clients:
                    before = server.stats()["node"]["compression"]
                    client = await self.join(clients, server, "/echo", options)
                    self.check_agreement(client, bits, most_bits, kept)
                    for message in MESSAGES:
                        await client.send(message)
                    for message in MESSAGES:
                        self.assertEqual(await self.receive(client), message)
                    after = server.stats()["node"]["compression"]
                    inflated = after["messages_in"] - before["messages_in"]
                    deflated = after["messages_out"] - before["messages_out"]
                    if bits is None:
                        self.assertEqual((inflated, deflated), (0, 0))
                    else:
                        self.assertEqual(inflated, len(MESSAGES), "this client compresses everything")
                        self.assertGreaterEqual(deflated, 22, "all that becomes shorter")
                        plain = after["bytes_out_plain"] - before["bytes_out_plain"]
                        self.assertLess((after["bytes_out"] - before["bytes_out"]) * 2, plain)

    async def test_a_topic_is_one_for_all_who_take_it_plain_or_compressed(self):
        for flag, most_bits, kept in SETTINGS:
            server = self.serve("--compress", flag, "--shards", "2")
            async with contextlib.AsyncExitStack() as clients:
                members = []
                for options, bits in [*OFFERS, *OFFERS]:
                    member = await self.join(clients, server, "/broadcast/mixed", options)
                    self.check_agreement(member, bits, most_bits, kept)
                    members.append(member)
                # One publishes plain and one compressed.
                for publisher in members[:2]:
                    for message in MESSAGES:
                        await publisher.send(message)
                heard = [[await self.receive(member) for _ in range(2 * len(MESSAGES))] for member in members[2:]]
                for messages in heard:
                    self.assertEqual(messages, heard[0])
                    # Together they are the messages of both publishers.
                    self.assertEqual(sorted(map(repr, messages)), sorted(map(repr, MESSAGES * 2)))
                for publisher in members[:2]:
                    self.assertEqual([await self.receive(publisher) for _ in MESSAGES], MESSAGES)

    async def test_a_message_is_compressed_once_for_each_window_however_many_take_it(self):
        server = self.serve("--shards", "1", "--compress", "server_max_window_bits=15")
        done = lambda: server.stats()["node"]["compression"]["messages_out"]
        nine, fifteen = offer(server_max_window_bits=9), offer()
        for topic, windows, subscribers in [
            ("none", 0, [PLAIN] * 3),
            ("one", 1, [nine]),
            ("many", 1, [fifteen] * 12),
            ("two", 2, [nine, fifteen] * 6 + [PLAIN] * 3),
        ]:
            async with contextlib.AsyncExitStack() as clients:
                join = functools.partial(self.join, clients, server, f"/broadcast/{topic}")
                members = [await join(options) for options in subscribers]
                publisher = await join(PLAIN)
                for number in range(5):
                    before = done()
                    await publisher.send(record(number))
                    for member in members:
                        self.assertEqual(await self.receive(member), record(number))
                    self.assertEqual(done() - before, windows, topic)

    async def test_what_compression_does_not_shorten_goes_plain_to_all(self):
        server = self.serve("--shards", "1", "--compress", "on")
        async with contextlib.AsyncExitStack() as clients:
            join = functools.partial(self.join, clients, server, "/broadcast/noise")
            members = [await join(options) for options in (offer(), PLAIN, offer(server_max_window_bits=9))]
            publisher = await join(PLAIN)
            messages = [b"a" * (THRESHOLD_BYTES - 1), noise(40_000), ""]
            for message in messages:
                await publisher.send(message)
            for member in members:
                self.assertEqual([await self.receive(member) for _ in messages], messages)
            self.assertEqual(server.stats()["node"]["compression"]["messages_out"], 0)

    def test_the_frames_of_a_broadcast_are_the_same_for_all_and_stand_alone(self):
        server = self.serve("--compress", "server_max_window_bits=15", "--shards", "2")
        # What clients offer, and the smaller window of the server.
        windows = [(9, 9), (9, 9), (10, 9), (11, 9), (15, 15), (12, 12), (13, 12), (14, 12), (15, 15)]
        with contextlib.ExitStack() as sockets:
            subscribers = []
            for offered, bits in windows:
                subscriber = sockets.enter_context(Raw(server))
                extension = "permessage-deflate; server_max_window_bits="
                status, headers = subscriber.upgrade("/broadcast/raw", extensions=f"{extension}{offered}")
                self.assertEqual(status, 101)
                # Context takeover may be negotiated, but frames for all subscribers must not rely on it.
                self.assertEqual(headers["sec-websocket-extensions"], f"{extension}{bits}")
                subscribers.append(subscriber)
            plain = sockets.enter_context(Raw(server)).open("/broadcast/raw")
            publisher = sockets.enter_context(Raw(server)).open("/broadcast/raw")
            for number in range(10):
                message = record(number).encode()
                publisher.send(frame(1, message))
                self.assertEqual(plain.read_frame(), (0x81, message))
                frames = {}
                for (_, bits), subscriber in zip(windows, subscribers):
                    first, payload = subscriber.read_frame()
                    self.assertEqual(first, 0xC1, "text, whole and compressed")
                    self.assertLess(len(payload), len(message) // 2)
                    self.assertEqual(frames.setdefault(bits, payload), payload)
                    self.assertEqual(zlib.decompressobj(-bits).decompress(payload + b"\0\0\xff\xff"), message)

    async def test_a_topic_has_one_context_for_all_its_subscribers(self):
        server = self.serve("--shards", "1", "--compress", "shared; server_max_window_bits=10")
        done = lambda: server.stats()["node"]["compression"]
        async with contextlib.AsyncExitStack() as clients:
            publisher = await self.join(clients, server, "/broadcast/quotes", PLAIN)
            members, expected = [], []
            for number in range(600):
                # Newcomers are sent messages that refer to none until they have the whole window.
                if number % 40 == 0 or number < 4:
                    members.append(await self.join(clients, server, "/broadcast/quotes", offer()))
                    expected.append([])
                await publisher.send(quote(number))
                for messages in expected:
                    messages.append(quote(number))
            for member, messages in zip(members, expected):
                self.assertEqual([await self.receive(member) for _ in messages], messages)
            # A newcomer has the whole window after at most two of them, which are sent in as many ticks as there are messages here.
            for number in range(600, 800):
                if number == 700:
                    before = done()
                await publisher.send(quote(number))
                for member in members:
                    self.assertEqual(await self.receive(member), quote(number))
            after = done()
            self.assertEqual(after["messages_out"] - before["messages_out"], 100, "once for all")
            plain = after["bytes_out_plain"] - before["bytes_out_plain"]
            self.assertLess((after["bytes_out"] - before["bytes_out"]) * 2, plain)
            self.assertIn(b"\nechoring_topic_compression_contexts 1\n", server.get("/metrics")[2])

    async def test_a_topic_may_have_no_context(self):
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write('[[topics]]\npattern = "secret.*"\ncompression_context = false\n')
            file.flush()
            server = self.serve("--shards", "1", "--compress", "shared", "--config", file.name)
        async with contextlib.AsyncExitStack() as clients:
            publisher = await self.join(clients, server, "/broadcast/secret.a", PLAIN)
            members = [await self.join(clients, server, "/broadcast/secret.a", offer()) for _ in range(8)]
            for number in range(30):
                await publisher.send(quote(number) * 2)
            for member in members:
                self.assertEqual([await self.receive(member) for _ in range(30)], [quote(number) * 2 for number in range(30)])
            self.assertIn(b"\nechoring_topic_compression_contexts 0\n", server.get("/metrics")[2])

    async def test_a_publisher_that_is_not_sent_its_own_messages_can_read_the_others(self):
        server = self.serve("--shards", "2", "--compress", "shared; server_max_window_bits=9")
        async with contextlib.AsyncExitStack() as clients:
            members = [await self.join(clients, server, "/broadcast/talk", offer()) for _ in range(12)]
            for round_ in range(30):
                for number, member in enumerate(members):
                    if (round_ + number) % 5 == 0:
                        await member.send(quote(1_000 * round_ + number))
            said = {
                number: {quote(1_000 * round_ + number) for round_ in range(30) if (round_ + number) % 5 == 0}
                for number in range(12)
            }
            for number, member in enumerate(members):
                others = set().union(*(quotes for other, quotes in said.items() if other != number))
                self.assertEqual({await self.receive(member) for _ in others}, others)

    async def test_a_session_of_two_topics_reads_both_with_one_window(self):
        server = self.serve("--shards", "2", "--compress", "shared; server_max_window_bits=9")
        async with contextlib.AsyncExitStack() as clients:
            sessions = []
            for _ in range(10):
                options = {"subprotocols": ["echoring.v1.json"]} | offer()
                sessions.append(await self.join(clients, server, "/broadcast", options))
            publisher = await self.join(clients, server, "/broadcast", {"subprotocols": ["echoring.v1.json"]} | PLAIN)

            async def ask(session, **request):
                await session.send(json.dumps({"id": 1} | request))
                heard = []
                while True:
                    event = json.loads(await self.receive(session))
                    if event.get("id") == 1:
                        self.assertNotEqual(event["type"], "error", event)
                        return heard
                    heard.append(event)

            heard, topics = [[] for _ in sessions], [set() for _ in sessions]
            published = 0
            # Subscriptions come and go, and so does the topic that has the window.
            for step in range(60):
                for number, session in enumerate(sessions):
                    # a from 0 to 12, and b from 6 to 18 of 20.
                    topic = {0: "a", 6: "b", 12: "a", 18: "b"}.get((step + 3 * number) % 20)
                    if topic:
                        change = "unsubscribe" if topic in topics[number] else "subscribe"
                        topics[number] ^= {topic}
                        heard[number] += await ask(session, type=change, topic=topic)
                for topic in "ab":
                    for _ in range(5):
                        published += 1
                        await publisher.send(json.dumps({"type": "publish", "topic": topic, "text": quote(published)}))
            for number in range(len(sessions)):
                offsets = {"a": 0, "b": 0}
                for event in heard[number]:
                    self.assertEqual(event["type"], "message", event)
                    self.assertGreater(event["offset"], offsets[event["topic"]])
                    offsets[event["topic"]] = event["offset"]
                    self.assertIn('"symbol":"ECHO"', event["text"])
                self.assertGreater(len(heard[number]), 50)

    def test_who_is_too_slow_for_plain_messages_is_disconnected_and_who_takes_them_compressed_is_not(self):
        server = self.serve("--compress", "on")
        message = b"x" * 60_000
        with contextlib.ExitStack() as sockets:
            slow, publisher, idle, quick = (sockets.enter_context(Raw(server)) for _ in range(4))
            # It lags soon, and reads the backlog before the closing handshake times out.
            slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
            slow.open("/broadcast/slow")
            publisher.open("/broadcast/slow")
            for compressed in (idle, quick):
                status, _ = compressed.upgrade("/broadcast/slow", extensions="permessage-deflate")
                self.assertEqual(status, 101)
            # The kernel sizes the socket buffers; compressed messages take very little of them.
            payloads = []
            published = frame(2, message)
            while server.stats()["node"]["deliveries"]["dropped"]["disconnect"] == 0:
                self.assertLess(len(payloads), FLOOD_MAX, "all of them were sent to a peer that does not read")
                publisher.send(published)
                first, payload = quick.read_frame()
                self.assertEqual(first, 0xC2)
                payloads.append(payload)
            self.assertEqual([idle.read_frame()[1] for _ in payloads], payloads)
            first, payload = slow.read_frame()
            while first == 0x82:
                self.assertEqual(payload, message)
                first, payload = slow.read_frame()
            self.assertEqual((first, payload[:2]), (0x88, (4008).to_bytes(2, "big")))

    async def test_who_was_too_slow_for_a_handler_is_written_to_again_behind_what_had_to_wait(self):
        server = self.serve("--compress", "on", "--shards", "1", "--queue-bytes", "16384")
        message = noise(5_000)
        async with connect(server.url("/push?ms=10"), max_size=None, max_queue=1, ping_interval=None) as client:
            sent = 0
            # It does not read, so its messages wait once their echoes wait.
            while server.stats()["node"]["pauses"] == 0:
                await client.send(message)
                sent += 1
            sender = asyncio.create_task(self.send_again(client, message, 100))
            # Until a heartbeat has to wait too, by the server's clock.
            async with connect(server.url("/delay?ms=100")) as clock:
                await clock.send("tick")
                await asyncio.wait_for(clock.recv(), PATIENCE_S)
            echoes = 0
            while echoes < sent + 100:
                echoes += await asyncio.wait_for(client.recv(), PATIENCE_S) == message
            await sender
            for _ in range(3):
                self.assertEqual(await asyncio.wait_for(client.recv(), PATIENCE_S), "heart beat")
            # The Close frame would wait behind heartbeats that nobody reads, until a timeout.
            client.transport.abort()

    async def send_again(self, client, message, times):
        for _ in range(times):
            await client.send(message)


class CompressionWithoutIoUring(Compression):
    denied = True


class InTheBrowser(InFrontOfAPage):
    def serve(self, compress):
        server = Server("--allow-origin", self.origin, "--shards", "1", "--compress", compress)
        self.addCleanup(server.__exit__)
        return server

    def open(self, server, path):
        """Connects the page, and checks that the browser negotiated compression."""
        self.browser.open(f"{self.origin}/")
        self.assertEqual(self.browser.run(OPEN, server.url(path)), "open")
        self.assertIn("permessage-deflate", self.browser.run("return socket.extensions"))

    def test_a_page_gets_its_messages_back_with_and_without_windows_kept(self):
        for flag, bits, kept in SETTINGS:
            server = self.serve(flag)
            self.open(server, "/echo")
            extensions = self.browser.run("return socket.extensions")
            self.assertEqual("server_no_context_takeover" in extensions, not kept, extensions)
            echoed = self.browser.run(
                """
                const results = [];
                for (const text of args[0]) {
                    socket.send(text);
                    results.push(await next() === text);
                }
                const bytes = crypto.getRandomValues(new Uint8Array(30000)).fill(7, 10000);
                socket.send(bytes);
                const got = new Uint8Array(await next());
                results.push(got.length === bytes.length && got.every((byte, i) => byte === bytes[i]));
                return results;
                """,
                [message for message in MESSAGES if isinstance(message, str)],
            )
            self.assertEqual(set(echoed), {True})
            self.assertGreaterEqual(server.stats()["node"]["compression"]["messages_out"], 22)

    def test_two_pages_in_a_topic_get_the_same_compressed_message(self):
        for flag, _, _ in SETTINGS:
            server = self.serve(flag)
            self.open(server, "/broadcast/pages")
            first = self.browser.tab()
            second = self.browser.new_tab()
            self.open(server, "/broadcast/pages")
            with Raw(server).open("/broadcast/pages") as publisher:
                for number in range(5):
                    publisher.send(frame(1, record(number).encode()))
            for tab in (first, second):
                self.browser.switch(tab)
                heard = self.browser.run("return await Promise.all([1, 2, 3, 4, 5].map(() => next()))")
                self.assertEqual(heard, [record(number) for number in range(5)])
            self.assertEqual(server.stats()["node"]["compression"]["messages_out"], 5)
