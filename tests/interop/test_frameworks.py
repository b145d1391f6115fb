"""The programs of examples/frameworks: connections of this library inside servers of actix-web and warp.

`scripts/test` builds them, apart from the workspace; ECHORING_FRAMEWORKS is the folder with the programs.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import unittest

from harness import PATIENCE_S, first_line, request
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

PROGRAMS = os.environ.get("ECHORING_FRAMEWORKS", "")
MISSING = "no ECHORING_FRAMEWORKS: cargo build --manifest-path examples/frameworks/Cargo.toml --target-dir target/frameworks"


@contextlib.contextmanager
def listening(name):
    """Runs the program on a port that the kernel chooses. Yields the port."""
    command = [os.path.join(PROGRAMS, name), "127.0.0.1:0"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        line = first_line(process)
        yield int(re.fullmatch(r"listening on ws://127\.0\.0\.1:(\d+)/ws\n", line)[1])
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_S)
        process.stdout.close()


@unittest.skipUnless(PROGRAMS, MISSING)
class Frameworks(unittest.TestCase):
    def each(self):
        for name in ("actix", "warp"):
            with self.subTest(name=name), listening(name) as port:
                yield port

    def test_messages_are_echoed_and_the_close_is_answered(self):
        for port in self.each():
            with connect(f"ws://127.0.0.1:{port}/ws?room=7", max_size=None) as ws:
                for message in ("hello", b"\xff", "a" * 60_000, ""):
                    ws.send(message)
                    self.assertEqual(ws.recv(PATIENCE_S), message)
                # Many messages before the first answer is read.
                for n in range(500):
                    ws.send(str(n))
                self.assertEqual([ws.recv(PATIENCE_S) for _ in range(500)], [str(n) for n in range(500)])
                self.assertTrue(ws.ping().wait(PATIENCE_S))
                ws.close(4001, "done")
                self.assertEqual(ws.close_code, 4001)

    def test_a_violation_is_answered_with_its_code(self):
        for port in self.each():
            # A message of 64 KiB is the longest.
            with connect(f"ws://127.0.0.1:{port}/ws") as ws:
                with self.assertRaises(ConnectionClosed) as ended:
                    ws.send("a" * 70_000)
                    ws.recv(PATIENCE_S)
                self.assertEqual(ended.exception.rcvd.code, 1009)

    def test_the_framework_serves_the_rest_and_foreign_pages_are_refused(self):
        for port in self.each():
            for path, status in (("/", 200), ("/ws", 426), ("/other", 404)):
                self.assertEqual(request(("127.0.0.1", port), "GET", path)[0], status, path)
            with self.assertRaises(InvalidStatus) as refused:
                connect(f"ws://127.0.0.1:{port}/ws", origin="https://other.example")
            self.assertEqual(refused.exception.response.status_code, 403)

    def test_a_client_that_vanishes_leaves_the_server_working(self):
        for port in self.each():
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as client:
                    client.sendall(
                        b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                    )
                    self.assertIn(b"101", client.recv(64))
            with connect(f"ws://127.0.0.1:{port}/ws") as ws:
                ws.send("still there?")
                self.assertEqual(ws.recv(PATIENCE_S), "still there?")


class Guide(unittest.TestCase):
    def test_it_shows_what_the_programs_contain(self):
        root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
        with open(os.path.join(root, "docs", "guide", "frameworks.md"), encoding="utf-8") as file:
            shown = re.findall(r"<!-- from (\S+) -->\n```rs\n(.*?)\n```", file.read(), re.DOTALL)
        self.assertEqual(len(shown), 2)
        for path, code in shown:
            with open(os.path.join(root, path), encoding="utf-8") as program:
                self.assertIn(code, program.read(), path)


if __name__ == "__main__":
    unittest.main()
