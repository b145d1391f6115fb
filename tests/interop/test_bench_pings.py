"""Pings of the load generator, as the load and beside it, against servers that answer all, some or none."""

import asyncio
import base64
import contextlib
import hashlib
import json
import subprocess
import unittest

from async_server import AsyncServer
from harness import BINARY, PATIENCE_S, Server, masked

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
PING, PONG, CLOSE, TEXT = 9, 10, 8, 1


def bench(url, *flags, codes=(0,), duration="400ms"):
    """Runs `bench` for a short time. Returns its record."""
    command = [BINARY, "bench", url, "-d", duration, "--warmup", "0s", "--json", "-", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode in codes, (done.returncode, done.stderr)
    return json.loads(done.stdout)["runs"][0]


class PickyServer(AsyncServer):
    """Answers each ping with `pongs(number, payload)`, a list of payloads, and echoes messages, within the block."""

    def __init__(self, pongs):
        super().__init__()
        self.pongs = pongs

    async def listen(self):
        return await asyncio.start_server(self._handle, "127.0.0.1", 0)

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.port}/"

    async def _handle(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            key = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:"))
            accept = base64.b64encode(hashlib.sha1(key.split(b":")[1].strip() + GUID).digest())
            writer.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
            )
            number = 0
            while True:
                first, length = await reader.readexactly(2)
                mask = await reader.readexactly(4)
                payload = masked(await reader.readexactly(length & 0x7F), mask)
                opcode = first & 15
                if opcode == PING:
                    for pong in self.pongs(number, payload):
                        writer.write(bytes([0x80 | PONG, len(pong)]) + pong)
                    number += 1
                else:
                    writer.write(bytes([0x80 | opcode, len(payload)]) + payload)
                    if opcode == CLOSE:
                        break
                await writer.drain()
        writer.close()


class PingsAsTheLoad(unittest.TestCase):
    def test_every_ping_is_answered(self):
        with Server() as server:
            for path in ("/echo", "/broadcast/pings"):
                for pace in ((), ("--rate", "400")):
                    with self.subTest(path=path, pace=pace):
                        record = bench(server.url(path), "--mode", "ping", "-c", "5", *pace, codes=(0, 4))
                        self.assertEqual((set(record["integrity"].values()), record["errors"]), ({0}, {}))
                        self.assertEqual(record["ping"]["skipped"], 0)
                        self.assertGreater(record["response_ns"]["p50"], 1_000)
                        self.assertEqual(record["response_ns"]["count"], 160 if pace else 20)

    def test_a_closed_loop_is_as_fast_as_the_server(self):
        with PickyServer(lambda number, payload: [payload]) as server:
            record = bench(server.url, "--mode", "ping", "-c", "2", "--depth", "1", duration="2s")
            self.assertEqual(set(record["integrity"].values()), {0})
            # Many times what a schedule without a rate comes to, even on a machine that is busy elsewhere.
            self.assertGreater(record["messages"], 200)

    def test_a_server_may_answer_the_latest_ping_only(self):
        with PickyServer(lambda number, payload: [payload] if number % 3 == 2 else []) as server:
            record = bench(server.url, "--mode", "ping", "-c", "2", "--rate", "600", "--drain", "3s", codes=(0, 1, 4))
            # The last of a connection may stay unanswered.
            self.assertLessEqual(record["integrity"]["lost"], 4)
            self.assertAlmostEqual(record["ping"]["skipped"], 2 * record["response_ns"]["count"], delta=6)

    def test_lost_and_strange_pongs_are_counted(self):
        answers = {3: lambda payload: [payload, payload], 5: lambda payload: [b"unasked", payload, b""], 7: lambda payload: [(10**6).to_bytes(8), payload]}
        with PickyServer(lambda number, payload: answers.get(number, lambda it: [it])(payload)) as server:
            record = bench(server.url, "--mode", "ping", "-c", "2", "--rate", "200", codes=(1,))
            found = record["integrity"]
            self.assertEqual((found["lost"], found["duplicated"], found["corrupted"]), (0, 2, 2))
        with PickyServer(lambda number, payload: []) as server:
            record = bench(server.url, "--mode", "ping", "-c", "2", "--rate", "100", "--drain", "100ms", codes=(1,))
            self.assertEqual(record["integrity"]["lost"], 40)

    def test_messages_cannot_be_chosen(self):
        command = [BINARY, "bench", "ws://127.0.0.1:1", "--mode", "ping", "--message-bytes", "5"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        self.assertEqual(done.returncode, 2)
        self.assertIn("--message-bytes: not in --mode ping", done.stderr)


class PingsBesideTheLoad(unittest.TestCase):
    def check(self, record, connections):
        self.assertEqual((set(record["integrity"].values()), record["errors"]), ({0}, {}))
        found = record["ping"]
        # Each connection has one every 40 ms. A machine that is busy elsewhere leaves some out, and the last ones of each connection may be
        # under way at the end.
        self.assertGreaterEqual(found["sent"], 5 * connections)
        self.assertLessEqual(found["answered"], found["sent"])
        self.assertGreater(2 * found["answered"], found["sent"])
        self.assertGreater(found["rtt_ns"]["p50"], 1_000)
        self.assertEqual(record["config"]["ping_every_s"], 0.04)

    def test_they_go_with_every_load(self):
        with Server() as server:
            for url, flags in (
                (server.url("/echo"), ("--rate", "300")),
                (server.url("/echo"), ("--depth", "2")),
                (server.url("/broadcast"), ("--protocol", "echoring.v1")),
                (server.url("/broadcast/{topic}"), ("--mode", "broadcast", "--rate", "50")),
                (server.url("/push?ms=20"), ("--mode", "push")),
            ):
                with self.subTest(flags):
                    record = bench(url, "-c", "4", "--ping-every", "40ms", *flags, codes=(0, 4), duration="1s")
                    self.check(record, 4)

    def test_pings_that_are_not_answered_are_no_loss(self):
        with PickyServer(lambda number, payload: [payload] if number % 2 else []) as server:
            record = bench(server.url, "-c", "2", "--ping-every", "40ms", "--message-bytes", "20")
            self.assertEqual(set(record["integrity"].values()), {0})
            self.assertGreater(record["ping"]["sent"], record["ping"]["answered"])

    def test_a_slow_application_is_told_from_the_network(self):
        with Server() as server:
            record = bench(server.url("/delay?ms=30"), "-c", "2", "--ping-every", "40ms", codes=(0, 1, 3, 4), duration="2s")
            self.assertLess(record["ping"]["rtt_ns"]["p50"], record["response_ns"]["p50"])


if __name__ == "__main__":
    unittest.main()
