"""Echo, with the `websockets` library as the client."""

import asyncio
import threading

from harness import PATIENCE_S, AsyncTest, Raw, Server, frame, noise
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError


class Echo(AsyncTest):
    denied = False
    flags = ()

    @classmethod
    def setUpClass(cls):
        cls.server = Server(*cls.flags, denied=cls.denied)
        cls.addClassCleanup(cls.server.__exit__)

    def connect(self, path="/echo", **options):
        options = {"compression": None, "open_timeout": PATIENCE_S, "max_size": None} | options
        return connect(self.server.url(path), **options)

    async def test_the_driver_is_what_the_host_allows(self):
        self.assertEqual(self.server.driver, "epoll" if self.denied else "uring")

    async def test_text_and_binary_come_back_as_what_they_were(self):
        async with self.connect() as client:
            await client.send("smørrebrød 🥪")
            self.assertEqual(await client.recv(), "smørrebrød 🥪")
            await client.send(b"\x00\xff\xfe")
            self.assertEqual(await client.recv(), b"\x00\xff\xfe")

    async def test_an_upgrade_on_the_root_echoes_too(self):
        async with self.connect("/") as client:
            await client.send("root")
            self.assertEqual(await client.recv(), "root")

    async def test_every_length_at_a_border_comes_back_whole(self):
        async with self.connect() as client:
            borders = (0, 125, 127, 1 << 10, 1 << 14, 1 << 15, (1 << 16) - 1)
            for length in sorted({max(0, border + d) for border in borders for d in (-1, 0, 1)}):
                message = noise(length)
                await client.send(message)
                self.assertEqual(await client.recv(), message, f"{length} bytes")

    async def test_a_thousand_messages_in_flight_come_back_in_order(self):
        async with self.connect() as client:
            messages = [f"{i}:" + "x" * (i % 200) for i in range(1000)]

            async def send():
                for message in messages:
                    await client.send(message)

            sender = asyncio.create_task(send())
            received = [await client.recv() for _ in messages]
            await sender
            self.assertEqual(received, messages)

    async def test_fragments_come_back_as_one_message(self):
        async with self.connect() as client:
            await client.send(["one ", "", "two ", "thr€€"])
            self.assertEqual(await client.recv(), "one two thr€€")
            await client.send([b"\x01" * 40000, b"\x02" * 20000])
            self.assertEqual(await client.recv(), b"\x01" * 40000 + b"\x02" * 20000)

    async def test_pings_are_answered_with_their_payload(self):
        async with self.connect() as client:
            for payload in (b"", b"here?", b"p" * 125):
                pong = await client.ping(payload)
                await asyncio.wait_for(pong, PATIENCE_S)

    async def test_the_clients_close_code_is_answered(self):
        for code in (1000, 1001, 3000, 4999):
            async with self.connect() as client:
                await client.close(code, "bye")
                self.assertEqual(client.close_code, code)

    async def test_a_message_of_the_limit_passes_and_one_byte_more_ends_with_1009(self):
        async with self.connect() as client:
            await client.send(b"x" * 65536)
            self.assertEqual(len(await client.recv()), 65536)
            await client.send(b"x" * 65537)
            with self.assertRaises(ConnectionClosedError) as closed:
                await client.recv()
            self.assertEqual(closed.exception.rcvd.code, 1009)

    async def test_a_client_that_sends_without_reading_is_slowed_down_and_loses_nothing(self):
        await asyncio.to_thread(self._send_without_reading)

    def _send_without_reading(self):
        message = bytes(range(256)) * 128
        with Raw(self.server).open() as client:
            # The server stops reading long before all of this is sent, so a separate thread sends it.
            count = 400
            sender = threading.Thread(target=lambda: [client.send(frame(2, message)) for _ in range(count)])
            sender.start()
            sender.join(2)
            self.assertTrue(sender.is_alive(), "13 MB were taken from a client that does not read")
            received = bytearray()
            while len(received) < count * len(message):
                _, payload = client.read_frame()
                received += payload
            sender.join(PATIENCE_S)
            self.assertEqual(bytes(received), message * count)

    async def test_many_clients_are_served_at_once(self):
        async def one(i):
            async with self.connect() as client:
                for j in range(20):
                    await client.send(f"{i}/{j}")
                    self.assertEqual(await client.recv(), f"{i}/{j}")

        await asyncio.gather(*(one(i) for i in range(100)))

    async def test_stats_count_what_happened(self):
        before = self.server.stats()["node"]
        async with self.connect() as client:
            for _ in range(7):
                await client.send("1234567890")
                await client.recv()
            during = self.server.stats()["node"]
        self.assertEqual(during["connections"], before["connections"] + 1)
        self.assertEqual(during["messages_in"] - before["messages_in"], 7)
        self.assertEqual(during["messages_out"] - before["messages_out"], 7)
        self.assertGreater(during["bytes_in"] - before["bytes_in"], 7 * 10)


class EchoWithoutIoUring(Echo):
    denied = True

    async def test_the_fallback_is_said_loudly(self):
        loud = [line for line in self.server.log if "WARN" in line and "io_uring" in line]
        self.assertTrue(loud, "".join(self.server.log))


class LargeMessages(AsyncTest):
    denied = False

    async def test_a_message_of_1_mib_comes_back_when_it_is_allowed(self):
        with Server("--max-message", "1MiB", denied=self.denied) as server:
            async with connect(server.url("/echo"), compression=None, max_size=None) as client:
                for message in ("ü" * (1 << 19), noise(1 << 20)):
                    await client.send(message)
                    self.assertEqual(await client.recv(), message)


class LargeMessagesWithoutIoUring(LargeMessages):
    denied = True
