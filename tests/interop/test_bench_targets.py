"""The load generator with foreign servers, and with targets that are not WebSocket servers."""

import contextlib
import json
import os
import socket
import subprocess
import threading
import unittest

import programs
from harness import BINARY, PATIENCE_S, refusing_port

QUANTILES = ("p50", "p90", "p99", "p999", "p9999", "max")
# Lines of text in eleven scripts, and emoji.
WIDE_TEXT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support", "wide-text.txt")
# The messages, as flags of `bench`.
MESSAGES = (
    ("--kind", "text", "--message-bytes", "16"),
    ("--kind", "text", "--payload-file", WIDE_TEXT),
    ("--kind", "binary", "--message-bytes", "12..70000"),
    ("--kind", "json", "--message-bytes", "1KiB"),
)
# Slow enough for a server in Python on a busy machine.
PACES = (("--depth", "4"), ("--rate", "200"))


def bench(url, *flags):
    """Runs `bench`. Returns the exit code, the record or None, and stderr."""
    # A closed loop has no messages while a machine is busy elsewhere, and a schedule has all of its messages.
    duration = "400ms" if "--rate" in flags else "2s"
    command = [BINARY, "bench", url, "-c", "5", "-d", duration, "--warmup", "100ms", "--json", "-", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    record = json.loads(done.stdout)["runs"][0] if done.stdout else None
    return done.returncode, record, done.stderr


class EchoServers:
    """Checks that hold for the figures of any server."""

    # The name in `programs.missing()`.
    name = ""

    @classmethod
    def setUpClass(cls):
        programs.require(cls.name)

    def check(self, flags, code, record, errors):
        # Exit code 4: the generator was late on a busy machine. A closed loop has no schedule and cannot be late.
        self.assertIn(code, (0, 4) if "--rate" in flags else (0,), errors)
        self.assertEqual(set(record["integrity"].values()), {0}, record["integrity"])
        self.assertEqual((record["errors"], record["closes"]), ({}, {"1000": 5}))
        self.assertGreater(record["response_ns"]["count"], 20)
        for times in (record["response_ns"], record["service_ns"]):
            values = [times[quantile] for quantile in QUANTILES]
            self.assertEqual(values, sorted(values))
            self.assertGreater(times["p50"], 1_000)
            self.assertLessEqual(times["mean"], times["max"])
        if "--rate" in flags:
            # All due messages were sent and came back.
            self.assertEqual(record["response_ns"]["count"], 80)
            # Response time counts from the due time, so it is never below service time.
            for quantile in QUANTILES:
                self.assertGreaterEqual(record["response_ns"][quantile] * 1.01, record["service_ns"][quantile])

    def test_plain(self):
        with programs.Peer(self.command()) as peer:
            for messages in MESSAGES:
                for pace in PACES:
                    flags = (*messages, *pace)
                    with self.subTest(" ".join(flags)):
                        code, record, errors = bench(peer.url + "/echo", *flags)
                        self.check(flags, code, record, errors)
                        self.assertIsNone(record["compression"])
                        self.assertGreater(record["wire"]["bytes_in"], record["bytes_per_s"] * record["duration_s"])

    def test_compressed(self):
        with programs.Peer(self.command(), "--compress") as peer:
            for words in ("on", "server_max_window_bits=12; level=6"):
                for pace in PACES:
                    flags = ("--kind", "json", "--message-bytes", "300..3000", "--compress", words, *pace)
                    with self.subTest(" ".join(flags)):
                        code, record, errors = bench(peer.url + "/echo", *flags)
                        self.check(flags, code, record, errors)
                        done = record["compression"]
                        self.assertEqual(done["agreed"], 5)
                        self.assertGreater(done["messages_out"], 20)
                        self.assertLess(done["bytes_out"], done["bytes_out_plain"])
                        self.assertTrue(done["bytes_out"] < record["wire"]["bytes_out"] < done["bytes_out_plain"], record)

    def test_not_agreed(self):
        with programs.Peer(self.command()) as peer:
            flags = ("--kind", "json", "--compress", "on", "--depth", "1")
            code, record, errors = bench(peer.url + "/echo", *flags)
            self.check(flags, code, record, errors)
            self.assertEqual(record["compression"]["agreed"], 0)
            self.assertIn("NOTHING WAS COMPRESSED", errors)

    def test_refused(self):
        with programs.Peer(self.command()) as peer:
            code, record, errors = bench(peer.url + "/reject?status=503")
            self.assertEqual((code, record), (3, None), errors)
            self.assertIn("status 503", errors)

    def test_closed_by_the_server(self):
        with programs.Peer(self.command()) as peer:
            code, record, errors = bench(peer.url + "/close?code=4002", "--depth", "1")
            self.assertEqual(code, 1, errors)
            self.assertEqual((record["closes"], record["connections"]["ended_early"]), ({"4002": 5}, 5))


class OfWebsockets(EchoServers, unittest.TestCase):
    command = staticmethod(lambda: programs.python("websockets_server.py"))


class Listening(unittest.TestCase):
    """The messages that a Python server pushes."""

    def test_push(self):
        with programs.Peer(programs.python("websockets_server.py")) as peer:
            flags = ("--mode", "push", "--time-field", "data.sent", "--time-unit", "ns")
            code, record, errors = bench(peer.url + "/push?ms=20", *flags)
        self.assertEqual(code, 0, errors)
        # Five connections, one message per 20 ms each for 2 s; fewer on a busy machine.
        self.assertTrue(50 <= record["messages"] <= 550, record["messages"])
        self.assertGreaterEqual(record["push"]["gap_ns"]["p90"], 19_000_000)
        self.assertEqual(record["push"]["untimed"], 0)
        self.assertEqual(record["handshake"]["first_message_ns"]["count"], 5)
        self.assertGreater(record["response_ns"]["count"], 20)
        # Both ends read the same clock of the same host.
        self.assertLess(record["response_ns"]["p50"], 2_000_000_000)
        self.assertEqual((record["errors"], record["config"]["verify"]), ({}, False))

    def test_connections(self):
        with programs.Peer(programs.python("websockets_server.py")) as peer:
            flags = ("--mode", "connect", "--rate", "50", "-c", "50")
            command = [BINARY, "bench", peer.url + "/echo", "-d", "1s", "--warmup", "0s", "--json", "-", *flags]
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        record = json.loads(done.stdout)["runs"][0]
        self.assertIn(done.returncode, (0, 4), done.stderr)
        self.assertEqual(record["connections"], {"opened": 50, "ended_early": 0, "dialled": 50})
        self.assertEqual((record["response_ns"]["count"], record["handshake"]["count"]), (50, 50))
        self.assertEqual((record["errors"], record["closes"]), ({}, {"1000": 50}))


class OfWs(EchoServers, unittest.TestCase):
    name = "ws"
    command = staticmethod(lambda: programs.node("ws_server.mjs"))


@contextlib.contextmanager
def target(answer):
    """The URL of a TCP server that reads each connection's request, sends `answer`, and closes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                request = b""
                while b"\r\n\r\n" not in request:
                    received = connection.recv(65536)
                    if not received:
                        break
                    request += received
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        # shutdown wakes a thread that waits in accept; close does not.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(PATIENCE_S)


class NoWebSocketServers(unittest.TestCase):
    """Expects exit code 3, nothing on stdout, and one line with the cause, because nothing can be measured."""

    def check(self, url, *causes):
        code, record, errors = bench(url)
        self.assertEqual((code, record), (3, None), errors)
        last = errors.splitlines()[-1]
        self.assertTrue(last.startswith("error: no connection to ws://"), last)
        self.assertTrue(any(cause in last for cause in causes), last)

    def test_a_web_page(self):
        page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi"
        with target(page) as url:
            self.check(url, "status 200")

    def test_a_redirect(self):
        with target(b"HTTP/1.1 301 Moved Permanently\r\nLocation: /\r\nContent-Length: 0\r\n\r\n") as url:
            self.check(url, "status 301")

    def test_something_that_is_not_http(self):
        with target(b"220 mail.example.com ESMTP ready\r\n\r\n") as url:
            self.check(url, "handshake:")

    def test_an_answer_to_another_key(self):
        head = (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        )
        with target(head) as url:
            self.check(url, "handshake:")

    def test_a_connection_that_ends(self):
        with target(b"") as url:
            self.check(url, "ended in the handshake", "reset")

    def test_nobody(self):
        with refusing_port() as port:
            self.check(f"ws://127.0.0.1:{port}/", "refused")


if __name__ == "__main__":
    unittest.main()
