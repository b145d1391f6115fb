"""Protocol files of the load generator against echoring's own endpoints: mixes, pauses, captures, heartbeats, pushes, and what is wrong."""

import json
import os
import subprocess
import tempfile
import unittest

import programs
from fault_proxy import FaultProxy
from harness import BINARY, PATIENCE_S, Server

ECHO = """
[[request]]
name = "echo"
send = '{"id":{{id}},"text":"{{payload|json}}"}'
[[answer]]
when = { json = "/id" }
match = { json = "/id" }
payload = { json = "/text" }
"""


class ProtocolFiles(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server())
        cls.directory = cls.enterClassContext(tempfile.TemporaryDirectory())

    def bench(self, text, *flags, path="/echo", url=None, codes=(0,)):
        """Runs `bench` with a protocol for a short time. Returns its record, or stderr if there is none."""
        file = os.path.join(self.directory, "protocol.toml")
        with open(file, "w") as out:
            out.write(text)
        words = [url or self.server.url(path), "--protocol", file, "-d", "400ms", "--warmup", "0s", "--json", "-", *flags]
        done = subprocess.run([BINARY, "bench", *words], capture_output=True, text=True, timeout=PATIENCE_S)
        self.assertIn(done.returncode, codes, done.stderr)
        return json.loads(done.stdout)["runs"][0] if done.stdout else done.stderr

    def clean(self, record):
        self.assertEqual((set(record["integrity"].values()), record["errors"]), ({0}, {}))

    def test_requests_are_a_mix(self):
        mix = "".join(
            f"[[request]]\nname = '{name}'\nweight = {weight}\nsend = '{{\"id\":{{{{id}}}},\"is\":\"{name}\"}}'\n"
            for name, weight in (("read", 3), ("write", 1))
        )
        text = mix + '[[answer]]\nmatch = { json = "/id" }\nexpect = { json = "/is", one_of = ["read", "write"] }\n'
        record = self.bench(text, "-c", "4", "--rate", "2000", codes=(0, 4))
        self.clean(record)
        reads, writes = record["protocol"]["requests"]
        self.assertEqual(reads["sent"] + writes["sent"], 800)
        self.assertTrue(2 * writes["sent"] < reads["sent"] < 5 * writes["sent"], record["protocol"])
        for request in (reads, writes):
            self.assertEqual(request["sent"], request["answered"])
            self.assertEqual(request["response_ns"]["count"], request["sent"])

    def test_connections_think_between_requests(self):
        text = ECHO.replace("send = ", "think = '90ms..110ms'\nsend = ", 1)
        record = self.bench(text, "-c", "5")
        self.clean(record)
        # The first request of a connection does not wait. A slow machine makes pauses longer, never shorter.
        self.assertLessEqual(record["messages"], 5 * 5)
        self.assertGreaterEqual(record["messages"], 5 * 2)
        self.assertIn("closed loop", self.bench(text, "--rate", "5", codes=(2,)))

    def test_values_of_earlier_messages_are_used(self):
        text = (
            """
            [[open]]
            send = '{"type":"welcome","session":"s-{{connection}}","n":[{{connection}}]}'
            await = [{ json = "/type", equals = "welcome" }]
            capture = { session = { json = "/session" }, n = { json = "/n/0" } }
            [[open]]
            send = '{"type":"login","session":"{{capture.session}}","token":"{{data.token|json}}"}'
            await = [{ json = "/type", equals = "login" }, { json = "/session", equals = "s-{{capture.n}}" }]
            """
            + ECHO.replace('"text":', '"session":"{{capture.session}}","text":', 1)
            + 'expect = [{ json = "/session", equals = "{{capture.session}}" }]\n'
        )
        data = os.path.join(self.directory, "tokens.csv")
        with open(data, "w") as file:
            file.write('token\n"a ""quoted"" one"\nplain\n')
        record = self.bench(text, "-c", "6", "--data", data)
        self.clean(record)
        self.assertEqual(record["protocol"]["opening_ns"]["count"], 6)
        self.assertEqual(record["config"]["data"], data)

    def test_heartbeats_are_sent_and_answered(self):
        text = (
            ECHO
            + """
            [heartbeat]
            every = "50ms"
            send = '{"type":"ping"}'
            [[reply]]
            when = { json = "/type", equals = "ping" }
            send = '{"type":"pong"}'
            [[ignore]]
            when = { json = "/type", equals = "pong" }
            """
        )
        record = self.bench(text, "-c", "3", "--rate", "100", codes=(0, 4))
        self.clean(record)
        found = record["protocol"]
        self.assertGreaterEqual(found["heartbeats_sent"], 3 * 4)
        # Each comes back as an echo.
        self.assertAlmostEqual(found["heartbeats_sent"], found["heartbeats_answered"], delta=3)

    def test_pushes_are_timed(self):
        text = '[push]\nwhen = { json = "/data" }\ntime = { json = "/data/sent" }\nunit = "ns"\n'
        with programs.Peer(programs.python("websockets_server.py")) as peer:
            url = peer.url + "/push?ms=20"
            record = self.bench(text, "-c", "3", "--mode", "push", url=url)
            self.assertEqual(record["errors"], {})
            self.assertGreater(record["response_ns"]["count"], 20)
            self.assertEqual(record["push"]["untimed"], 0)
            record = self.bench(text.replace("sent", "other"), "-c", "3", "--mode", "push", url=url)
            self.assertGreater(record["push"]["untimed"], 20)

    def test_answers_in_order_may_not_be_swapped(self):
        with FaultProxy(self.server.url("/echo"), rb'"id":', swapped=7) as proxy:
            ordered = self.bench('order = "sent"' + ECHO, "-c", "2", "--depth", "4", url=proxy.url, codes=(1,))
            self.assertEqual(ordered["integrity"]["reordered"], proxy.planted["swapped"])
        # Without ids, the contents tell them apart.
        text = "[[request]]\nname = 'r'\nsend = 'n {{seq}}'\n[[answer]]\nsame = true\n"
        with FaultProxy(self.server.url("/echo"), rb"^n ", swapped=7) as proxy:
            found = self.bench(text, "-c", "2", "--depth", "4", url=proxy.url, codes=(1,))
            self.assertEqual(found["integrity"]["reordered"], proxy.planted["swapped"])
            self.assertEqual((found["integrity"]["lost"], found["integrity"]["corrupted"]), (0, 0))

    def test_short_ids_repeat(self):
        text = "id = { first = 3, count = 4 }" + ECHO
        record = self.bench(text, "-c", "2", "--depth", "16")
        self.clean(record)
        self.assertGreater(record["messages"], 100)

    def test_several_messages_come_in_one(self):
        text = 'split = "\\n"\n' + ECHO.replace("\"}'", "\"}\n{\"type\":\"more\"}\n'''", 1).replace("send = '", "send = '''", 1)
        text += '[[ignore]]\nwhen = { json = "/type", equals = "more" }\n'
        record = self.bench(text, "-c", "2")
        self.clean(record)
        self.assertGreater(record["messages"], 20)

    def test_what_goes_wrong_is_an_error_with_its_name(self):
        step = '[[open]]\nsend = "hello"\nawait = { json = "/type", equals = "welcome" }\ntimeout = "100ms"\n'
        told = self.bench(step + ECHO, "-c", "3", codes=(1, 3))
        errors = told["errors"]
        self.assertEqual(errors, {"open[1]: no message with /type = welcome within 100ms": 3, "unexpected message": 3})
        closed = self.bench(step + ECHO, "-c", "2", path="/close?code=4001", codes=(1, 3))
        self.assertIn("open[1]", closed if isinstance(closed, str) else str(closed["errors"]))
        record = self.bench(ECHO.replace('"/id" }\nmatch', '"/nothing" }\nmatch', 1), "-c", "2", "--drain", "100ms", codes=(1,))
        self.assertEqual(set(record["errors"]), {"unexpected message"})
        self.assertEqual(record["protocol"]["unexpected"], record["errors"]["unexpected message"])
        record = self.bench(ECHO + 'expect = { json = "/id", equals = "no" }\n', "-c", "2", codes=(1,))
        self.assertEqual(record["integrity"]["corrupted"], record["protocol"]["requests"][0]["answered"])
        self.assertIn("protocol.toml: line 1", self.bench("open = [", codes=(2,)))

    def test_a_failed_conversation_is_shown(self):
        step = '[[open]]\nsend = "hello"\nawait = { json = "/type", equals = "welcome" }\ntimeout = "100ms"\n'
        file = os.path.join(self.directory, "wrong.toml")
        with open(file, "w") as out:
            out.write(step + ECHO)
        words = [BINARY, "bench", self.server.url("/echo"), "--protocol", file, "--try"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S)
        self.assertEqual(done.returncode, 1, done.stderr)
        lines = [line.split(None, 3) for line in done.stdout.splitlines()]
        self.assertIn(["0", "open[1]", "sent", "hello"], lines)
        self.assertIn(["0", "open[1]", "expected", "/type = welcome"], lines)
        self.assertIn("no rule", done.stdout)
        self.assertIn("failed", done.stdout)


if __name__ == "__main__":
    unittest.main()
