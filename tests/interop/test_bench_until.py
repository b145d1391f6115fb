"""Runs of the load generator that end when a quantile is known as exactly as asked, as a user calls them."""

import json
import os
import subprocess
import tempfile
import time
import unittest

from harness import BINARY, PATIENCE_S, Server
from test_bench_pings import PickyServer

# The first look at the results.
FIRST_LOOK_S = 60
# Other work of the host can disturb a whole run, which then says so. One of these is not disturbed.
ATTEMPTS = 3


def bench(*flags, codes=(0,)):
    """Runs `bench`. Returns the process, and the record of its first run if there is one."""
    command = [BINARY, "bench", "--allow-saturated", "--json", "-", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * PATIENCE_S)
    assert done.returncode in codes, (done.returncode, done.stderr)
    return done, json.loads(done.stdout)["runs"][0] if done.stdout else None


class Ends(unittest.TestCase):
    """The server's time is known and long, so that other work of the host changes the quantile little."""

    @classmethod
    def setUpClass(cls):
        def answer(_number, payload):
            time.sleep(0.03)
            return [payload]

        cls.server = cls.enterClassContext(PickyServer(answer))

    def test_a_run_ends_when_the_quantile_is_known(self):
        for _ in range(ATTEMPTS):
            # Half of the value: known at the first look, unless the machine stalls again and again.
            record = self.run_until("p50±50%", "--warmup", "1s", "--max-duration", "90s")
            until = record["until"]
            [goal] = until["goals"]
            self.assertEqual((goal["expression"], until["unreached"]), ("p50±50%", int(not goal["reached"])))
            self.assertEqual((record["interrupted"], record["config"]["duration_s"]), (False, 90))
            self.assertEqual(record["integrity"]["lost"], 0)
            self.assertEqual(sum(interval["messages"] for interval in record["intervals"]), record["messages"])
            # The number of messages that were due follows from the rate, rounded.
            self.assertAlmostEqual(sum(record["timeline"]["due"]), record["response_ns"]["count"], delta=1)
            if goal["reached"]:
                break
            self.assertEqual(record["duration_s"], 90)
        self.assertTrue(goal["reached"], until)
        self.assertGreaterEqual(until["at_s"], FIRST_LOOK_S)
        self.assertLess(record["duration_s"], 90)
        # The run ends after the look, with all that was in flight.
        self.assertLess(record["duration_s"] - until["at_s"], 3)
        self.assertTrue(goal["low_ns"] <= goal["value_ns"] <= goal["high_ns"], goal)
        self.assertEqual(goal["course"][-1]["low_ns"], goal["low_ns"])
        self.assertTrue(goal["low_ns"] <= record["response_ns"]["p50"] <= goal["high_ns"], record["response_ns"])

    def test_a_run_that_is_too_short_says_so(self):
        record = self.run_until("p99.99+-0.5%", "--warmup", "1s", "--max-duration", "3s")
        self.assertEqual((record["config"]["warmup_s"], record.get("warm_up")), (1, None))
        [goal] = record["until"]["goals"]
        self.assertEqual((goal["reached"], goal["value_ns"], record["until"]["unreached"]), (False, None, 1))
        self.assertEqual(record["duration_s"], 3)

    def run_until(self, goal, *flags):
        return bench(self.server.url, "--mode", "ping", "-c", "1", "--rate", "10", "--until", goal, *flags)[1]


class WarmsUp(unittest.TestCase):
    def test_a_server_that_is_slow_at_first_is_measured_when_it_is_fast(self):
        # Four seconds of the first six and a half, after which a warm-up can end: a quarter of what is observed is less.
        slow_s, slow_answers = 0.095, 42

        def answer(number, payload):
            time.sleep(slow_s if number < slow_answers else slow_s / 10)
            return [payload]

        flags = ("--mode", "ping", "-c", "1", "--depth", "1", "--warmup", "auto", "-d", "500ms")
        for _ in range(ATTEMPTS):
            with PickyServer(answer) as server:
                _, record = bench(server.url, *flags)
            warm_up = record["warm_up"]
            self.assertEqual((record["config"]["warmup_s"], warm_up["longest_s"]), (60, 60))
            if warm_up["steady"]:
                break
            self.assertEqual(warm_up["seconds"], 60)
        self.assertTrue(warm_up["steady"], warm_up)
        self.assertGreater(warm_up["seconds"], 3 * slow_answers * slow_s)


class Compares(unittest.TestCase):
    """Two servers in pairs of runs, until the verdict is known."""

    LOAD = ("-c", "4", "--rate", "200", "--warmup", "50ms", "-d", "250ms", "--threads", "1", "--allow-saturated")

    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server())

    def compare(self, delays, *flags, code=0):
        urls = [self.server.url(f"/delay?ms={delay}") for delay in delays]
        command = [BINARY, "compare", *urls, *self.LOAD, *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5 * PATIENCE_S)
        self.assertEqual(done.returncode, code, done.stderr)
        return done

    def test_a_slower_server_is_found_and_drawn(self):
        with tempfile.TemporaryDirectory() as folder:
            file, page = os.path.join(folder, "both.json"), os.path.join(folder, "both.html")
            done = self.compare((10, 50), "--until", "p50±50%", "--max-duration", "4m", "--seed", "7", "--json", file, code=1)
            subprocess.run([BINARY, "report", file, "--out", page], check=True, timeout=PATIENCE_S)
            with open(file) as json_file, open(page) as html:
                results, drawn = json.load(json_file), html.read()
        [comparison] = results["comparison"]
        [finding], until = comparison["metrics"], comparison["until"]
        self.assertEqual((finding["verdict"], until["decided"], comparison["basis"]), ("worse", True, "pairs"))
        self.assertGreater(finding["ratio_low"], 1.5)
        self.assertEqual(until["goals"][0]["known_after"], until["pairs"])
        self.assertEqual(until["goals"][0]["course"][-1]["pairs"], until["pairs"])
        # Both runs of a pair have the same payloads, and the order of pairs is drawn.
        sides = [(run["repetition"]["number"], run["config"]["seed"]) for run in results["runs"]]
        self.assertEqual(sides[::2], sides[1::2])
        self.assertEqual(len({run["repetition"]["side"] for run in results["runs"][::2]}), 2)
        self.assertIn("worse by more than 50 %, known after", done.stdout)
        self.assertIn("is worse: ", done.stderr)
        self.assertIn(f"pair {until['pairs']}: p50 B / A", done.stderr)
        shown = json.loads(drawn.split('id="report">')[1].split("</script>")[0])
        self.assertEqual(shown["comparisons"][0]["comparison"]["until"], until)
        self.assertIn("worse by more than 50 %", shown["comparisons"][0]["verdicts"][0])

    def test_equal_servers_are_the_same(self):
        results = json.loads(self.compare((20, 20), "--until", "p50±50%", "--max-duration", "4m", "--json", "-").stdout)
        [comparison] = results["comparison"]
        self.assertEqual(comparison["metrics"][0]["verdict"], "same")
        self.assertTrue(comparison["until"]["decided"])

    def test_too_short_a_time_decides_nothing(self):
        done = self.compare((10, 50), "--until", "p50+-5%", "--until", "messages_per_s+-5%", "--max-duration", "500ms")
        for metric in ("p50", "messages_per_s"):
            self.assertIn(f"{metric} of B has no interval: undecided, with a margin of 5 %, after one pair in", done.stdout)

    def test_the_flags_for_files_work_for_servers(self):
        done = self.compare((10, 50), "--metric", "p50", "--threshold=50%", "--max-duration", "4m", code=1)
        self.assertIn("worse by more than 50 %, known after", done.stdout)
        for flags, metrics in (((), ["p50", "p99", "messages_per_s"]), (("--threshold", "7%", "--metric", "p90"), ["p90"])):
            done = self.compare((10, 10), *flags, "--max-duration", "500ms")
            margin = 7 if flags else 5
            told = [f"{metric} of B has no interval: undecided, with a margin of {margin} %" for metric in metrics]
            self.assertEqual([line in done.stdout for line in told], [True] * len(told), done.stdout)
            self.assertEqual(done.stdout.count(" of B has no interval"), len(told), done.stdout)

    def test_what_cannot_be_compared_is_refused(self):
        url = self.server.url("/echo")
        for words, named in [
            ((url,), "two URLs"),
            ((url, "b.json"), "two URLs"),
            ((url, url, "--until", "lost±5%"), "a time or a rate"),
            ((url, url, "--metric", "lost"), "--metric lost: expected a time or a rate"),
            ((url, url, "--allow-different"), "--allow-different: only for files"),
            ((url, url, "--until", "p50±5%", "--threshold", "3%"), "--threshold: --until p50±5% names another difference"),
            ((url, url, "--until", "p50±5%", "--until", "p99±3%"), "one margin"),
            ((url, url, "--until", "p50±5%", "--until", "p50±5%"), "once"),
            ((url, url, "--until", "cpu_per_message±5%"), "--against-pid"),
            ((url, url, "--until", "last.p99±5%"), "no run of this mode"),
            (("a.json", "b.json", "--until", "p50±5%"), "two URLs"),
        ]:
            done = subprocess.run([BINARY, "compare", *words], capture_output=True, text=True, timeout=PATIENCE_S)
            self.assertEqual(done.returncode, 2, (words, done.stderr))
            self.assertIn(named, done.stderr, words)


class Flags(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server())

    def test_a_goal_that_is_not_reached_fails_a_run_only_if_asked(self):
        flags = ("--max-duration", "3s", "--until", "p90±10%", "--warmup", "0s", "--fail-if", "unreached>0")
        done, record = bench(self.server.url("/echo"), *flags, codes=(1,))
        self.assertIn("--fail-if unreached>0: unreached is 1", done.stderr)
        self.assertEqual(record["fail_if"][0]["seen"], {"unreached": 1.0})
        command = [BINARY, "bench", self.server.url("/echo"), *flags[:6]]
        text = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S).stdout
        self.assertIn("until      p90±10% not reached after 2 s: no confidence interval: it needs 24 slices of the measured time, and there are ", text)

    def test_what_cannot_be_known_is_refused(self):
        agents = ("--agents", "2", "--nats", "nats://127.0.0.1:1")
        for flags, named in [
            (("--until", "p99"), "such as 'p99±5%'"),
            (("--until", "lost±5%"), "a time or a rate"),
            (("--until", "max±5%"), "a quantile of the response time"),
            (("--until", "service.p99±5%"), "a quantile of the response time"),
            (("--until", "p99±0.1%"), "0.5% to 50%"),
            (("--until", "p9x±5%"), "unknown metric"),
            (("--until", "p99±5%", "-d", "10s"), "--max-duration"),
            (("--until", "p99±5%", "--rate", "100", *agents), "not with --agents"),
            (("--until", "p99±5%", "--mode", "push"), "--time-field"),
            (("--max-duration", "10s"), "only with --until"),
            (("--warmup", "auto", "--stage", "5s@100"), "not with stages"),
            (("--warmup", "auto", "--rate", "100", *agents), "not for shared loads"),
            (("--warmup", "soon"), "or auto"),
            (("--fail-if", "unreached>0"), "only runs with --until"),
        ]:
            done, _ = bench(self.server.url("/echo"), *flags, codes=(2,))
            self.assertIn(named, done.stderr, flags)


if __name__ == "__main__":
    unittest.main()
