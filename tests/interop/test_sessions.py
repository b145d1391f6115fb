"""Sessions of users that arrive at a rate, and several protocols in one run, as a user of the load generator calls them."""

import asyncio
import json
import os
import subprocess
import tempfile
import unittest

import websockets.asyncio.server
from async_server import AsyncServer
from harness import BINARY, PATIENCE_S, Server

# On a busy machine the generator may be late.
PATIENT = ("--max-lateness", "1m")
# Two requests with a pause between them.
SHOP = """
[[request]]
name = "look"
send = '{"id":{{id}},"is":"look","n":{{seq}}}'
think = "50ms"
[[request]]
name = "buy"
send = '{"id":{{id}},"is":"buy","n":{{seq}}}'
expect = { json = "/n", equals = "{{request(/n)}}" }
[[answer]]
match = { json = "/id" }
"""
CHAT = """
[session]
count = "1..3"
[[request]]
name = "say"
send = '{"id":{{id}},"is":"say"}'
[[answer]]
match = { json = "/id" }
expect = { json = "/is", equals = "say" }
"""


class Shop(AsyncServer):
    """Answers each message with itself after `delay_s`, and closes a connection instead of its answer number `closes_at`."""

    def __init__(self, delay_s=0, closes_at=None):
        super().__init__()
        self.delay_s, self.closes_at = delay_s, closes_at

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.port}/"

    async def listen(self):
        return websockets.asyncio.server.serve(self._handle, "127.0.0.1", 0, compression=None)

    async def _handle(self, socket):
        number = 0
        async for message in socket:
            if number == self.closes_at:
                await socket.close(4000)
                return
            number += 1
            await asyncio.sleep(self.delay_s)
            await socket.send(message)


class Files(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server())
        cls.directory = cls.enterClassContext(tempfile.TemporaryDirectory())
        for name, text in (("shop", SHOP), ("chat", CHAT)):
            with open(cls.file(name), "w") as out:
                out.write(text)

    @classmethod
    def file(cls, name):
        return os.path.join(cls.directory, f"{name}.toml")

    def bench(self, *flags, url=None, codes=(0,)):
        """Runs `bench` for a second. Returns its record, or stderr if there is none."""
        words = [url or self.server.url("/echo"), "-d", "1s", "--warmup", "0s", *PATIENT, "--json", "-", *flags]
        done = subprocess.run([BINARY, "bench", *words], capture_output=True, text=True, timeout=PATIENCE_S)
        self.assertIn(done.returncode, codes, done.stderr)
        return json.loads(done.stdout)["runs"][0] if done.stdout else done.stderr

    def sessions(self, *flags, protocol="shop", **options):
        return self.bench("--mode", "session", "--protocol", self.file(protocol), *flags, **options)

    def adds_up(self, sessions):
        ended = sessions["completed"] + sum(sessions["failed"].values()) + sessions["unfinished"]
        self.assertEqual(sessions["started"], ended, sessions)


class Sessions(Files):
    def test_each_session_goes_through_its_conversation(self):
        record = self.sessions("--rate", "50", "-c", "40")
        sessions = record["sessions"]
        self.adds_up(sessions)
        self.assertEqual((sessions["started"], sessions["refused"], sessions["failed"]), (50, 0, {}))
        self.assertEqual((set(record["integrity"].values()), record["errors"]), ({0}, {}))
        self.assertEqual((record["connections"]["opened"], sessions["setup_ns"]["count"]), (50, 50))
        self.assertEqual(sessions["duration_ns"]["count"], sessions["completed"])
        # The last of them arrive too late for the end of their pause.
        self.assertTrue(30 <= sessions["completed"] < 50, sessions)
        self.assertGreaterEqual(sessions["duration_ns"]["min"], 50_000_000)
        look, buy = record["protocol"]["requests"]
        self.assertEqual((look["sent"], buy["sent"]), (50, sessions["completed"]))
        # The pause is not a part of the response time.
        self.assertEqual(record["response_ns"]["count"], look["sent"] + buy["sent"])
        self.assertLess(record["service_ns"]["p50"], 50_000_000)

    def test_late_answers_delay_no_arrival(self):
        with Shop(delay_s=0.2) as slow:
            record = self.sessions("--rate", "30", "-c", "60", url=slow.url)
        self.adds_up(record["sessions"])
        self.assertEqual((record["sessions"]["started"], record["sessions"]["refused"]), (30, 0))
        # A request is due when the user has the answer before it, so no time is counted twice.
        self.assertTrue(200_000_000 <= record["response_ns"]["p50"] < 400_000_000, record["response_ns"])
        self.assertGreaterEqual(record["sessions"]["duration_ns"]["min"], 450_000_000)

    def test_arrivals_without_room_are_refused_and_told(self):
        flags = ("--rate", "30", "-c", "2", "--threads", "1")
        with Shop(delay_s=0.2) as slow:
            record = self.sessions(*flags, url=slow.url, codes=(1,))
            allowed = self.sessions(*flags, "--allow", "unsent", url=slow.url)
        for sessions in (record["sessions"], allowed["sessions"]):
            self.adds_up(sessions)
            self.assertEqual(sessions["started"] + sessions["refused"], 30)
            self.assertGreaterEqual(sessions["refused"], 20)
        self.assertEqual(record["generator"]["unsent"], record["sessions"]["refused"])

    def test_failed_sessions_have_a_cause(self):
        with Shop(closes_at=1) as closing:
            record = self.sessions("--rate", "20", url=closing.url, codes=(1,))
        sessions = record["sessions"]
        self.adds_up(sessions)
        self.assertEqual((sessions["completed"], len(sessions["failed"])), (0, 1))
        self.assertEqual(sum(sessions["failed"].values()), record["integrity"]["lost"])
        self.assertEqual(record["protocol"]["requests"][0]["answered"], 20)
        self.assertIn("20 × refused", self.sessions("--rate", "20", url="ws://127.0.0.1:1/", codes=(3,)))

    def test_lengths_and_arrivals_may_be_random(self):
        record = self.sessions("--rate", "200", "--arrivals", "poisson", "--seed", "7", protocol="chat")
        sessions = record["sessions"]
        self.adds_up(sessions)
        self.assertTrue(100 < sessions["started"] < 300, sessions)
        sent = record["protocol"]["requests"][0]["sent"]
        self.assertTrue(sessions["completed"] < sent < 3 * sessions["started"], record["protocol"])

    def test_contradictions_are_refused(self):
        shop = ("--mode", "session", "--protocol", self.file("shop"))
        for flags, told in (
            (shop, "--rate: sessions arrive at a rate"),
            (("--mode", "session", "--rate", "5"), "--protocol: sessions go through"),
            ((*shop, "--rate", "5", "--lifetime", "1s"), "--lifetime: in --mode connect and --mode session"),
            ((*shop, "--rate", "5", "--hold", "1s"), "--hold"),
            ((*shop, "--rate", "5", "--try"), "leave out --mode session"),
            (("--rate", "5", "--protocol", self.file("shop")), "need a closed loop or sessions"),
        ):
            self.assertIn(told, self.bench(*flags, codes=(2,)))


class SeveralProtocols(Files):
    def both(self, *flags, **options):
        weighted = ("--protocol", f"{self.file('shop')}=3", "--protocol", self.file("chat"))
        return self.bench(*weighted, *flags, **options)

    def test_connections_are_dealt_out_by_weight(self):
        record = self.both("-c", "8")
        self.assertEqual((set(record["integrity"].values()), record["errors"]), ({0}, {}))
        shop, chat = record["protocols"]
        self.assertEqual((shop["conversations"], chat["conversations"]), (6, 2))
        self.assertEqual((shop["weight"], chat["weight"]), (3, 1))
        self.assertEqual([request["name"] for request in record["protocol"]["requests"]], ["look", "buy", "say"])
        of_shop = [request["sent"] for request in record["protocol"]["requests"] if request["protocol"] == shop["name"]]
        self.assertEqual(sum(of_shop), shop["sent"])
        self.assertEqual(record["response_ns"]["count"], shop["response_ns"]["count"] + chat["response_ns"]["count"])
        self.assertIn("chat.toml=1", record["config"]["protocol"])

    def test_sessions_are_dealt_out_by_weight(self):
        flags = ("--mode", "session", "--rate", "100", "--threads", "1", "--seed", "7")
        record = self.both(*flags)
        self.adds_up(record["sessions"])
        self.assertEqual((set(record["integrity"].values()), record["errors"]), ({0}, {}))
        shop, chat = record["protocols"]
        self.assertEqual(shop["conversations"] + chat["conversations"], record["sessions"]["started"])
        self.assertEqual(shop["conversations"], 75)

    def test_contradictions_are_refused(self):
        for flags, told in (
            (("--mode", "broadcast"), "several are only for --mode echo"),
            (("--try",), "not for --try"),
            (("--param", "a=b"), "only for one --protocol"),
        ):
            self.assertIn(told, self.both(*flags, codes=(2,)))
        self.assertIn("weight from 1 to", self.bench("--protocol", self.file("chat") + "=0", codes=(2,)))


if __name__ == "__main__":
    unittest.main()
