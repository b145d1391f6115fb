"""`echoring capacity`, as a user calls it, against servers whose capacity is known by arithmetic."""

import contextlib
import json
import os
import subprocess
import sys
import unittest

from harness import BINARY, PATIENCE_S, Server

SERVER = os.path.join(os.path.dirname(__file__), "..", "..", "scripts", "knee_server.py")


@contextlib.contextmanager
def knee_server(workers, service_ms):
    command = [sys.executable, SERVER, str(workers), str(service_ms)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server.stdout.readline().strip(), server.pid
        finally:
            server.kill()


def capacity(*flags, codes=(0,)):
    command = [BINARY, "capacity", "--threads", "1", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=5 * PATIENCE_S)
    assert done.returncode in codes, (done.returncode, done.stdout, done.stderr)
    return done


def search(done):
    [run] = json.loads(done.stdout)["runs"]
    return run["search"]


class FindsTheKnee(unittest.TestCase):
    def test_the_answer_contains_what_arithmetic_says(self):
        # Four workers of 8 ms.
        with knee_server(4, 8) as (url, pid):
            flags = ("-c", "10", "--rate", "200", "--precision", "20%", "-d", "2s", "--max-duration", "40s")
            objective = "p90<100ms, lost=0"
            flags += ("--objective", objective, "--server-pid", str(pid), "--json", "-")
            found = search(capacity(url, *flags, codes=(0, 1, 4)))
        self.assertEqual((found["axis"], found["confidence"], found["objective"]), ("rate", 0.95, objective))
        # A busy machine may leave it open, and then says so.
        if found["low"]:
            self.assertLessEqual(found["low"], 510, found)
        if found["high"]:
            self.assertGreaterEqual(found["high"], 490, found)
        self.assertTrue(found["beyond"], found)
        for step in found["steps"]:
            self.assertEqual(step["held"], step["why"] is None, step)
            self.assertGreater(step["server_cpu"], 0)
            self.assertTrue(all(0 <= cpu["busy"] <= 1 for cpu in step["cpus"]), step)

    def test_an_answer_is_a_sentence_and_its_lower_end_an_exit_code(self):
        with knee_server(2, 100) as (url, _):
            flags = ("-c", "10", "--rate", "10", "--precision", "50%", "-d", "1s", "--objective", "p50<1s", "--at-least", "40")
            done = capacity(url, *flags, "--max-duration", "1s", codes=(1,))
        self.assertTrue(done.stdout.startswith("this server holds "), done.stdout)
        self.assertIn(" messages a second at p50<1s (95 %)", done.stdout)
        self.assertIn("to know more, allow a longer --max-duration", done.stdout)
        self.assertIn("--at-least 40: only 0 is sure", done.stderr)


class VariesOthers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server())

    def test_connections_keep_their_rate_and_subscribers_that_of_their_topic(self):
        few = ("-d", "500ms", "--warmup", "100ms", "--max-duration", "3s", "--precision", "50%", "--json", "-")
        url = self.server.url("/echo")
        found = search(capacity(url, "--axis", "connections", "--rate", "200", "-c", "10", *few, codes=(0, 1, 4)))
        self.assertEqual((found["axis"], found["limited_by"]), ("connections", "time"))
        for step in found["steps"]:
            self.assertEqual(step["rate"], 20 * step["load"], step)
        url = self.server.url("")
        found = search(capacity(url, "--axis", "subscribers", "--rate", "100", "-c", "11", *few, codes=(0, 1, 4)))
        self.assertEqual(found["axis"], "subscribers")
        self.assertEqual({step["rate"] for step in found["steps"]}, {100})
        self.assertEqual(found["steps"][0]["load"], 10)


class Flags(unittest.TestCase):
    def test_what_contradicts_a_search_is_refused(self):
        url = "ws://127.0.0.1:1/"
        for flags, named in (
            (("--repeat", "3"), "--repeat"),
            (("--stage", "5s@10"), "--stage"),
            (("--until", "p99±5%"), "--until"),
            (("--objective", "p99>2ms"), "--objective"),
            (("--objective", "x"), "--objective"),
            (("--axis", "subscribers", "--mode", "echo"), "--axis"),
            (("--axis", "connections", "--mode", "connect"), "--axis"),
            (("--mode", "push"), "--mode"),
            (("--objective", "p99.9<2ms", "--rate", "50"), "--rate 84"),
        ):
            done = capacity(url, *flags, codes=(2,))
            self.assertIn(named, done.stderr, flags)
            self.assertEqual(done.stdout, "")
