"""`scripts/compare-peers`: the check of peers before measuring, the summary of rounds, and records that runs add to."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import types
import unittest

from harness import BINARY, Server, masked

SCRIPTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts")
sys.path += [SCRIPTS, os.path.join(SCRIPTS, "compare_peers")]

import chart  # noqa: E402
import conformance  # noqa: E402
import judge  # noqa: E402
import machine  # noqa: E402
import pairs  # noqa: E402
import readme  # noqa: E402
import records  # noqa: E402
import rounds  # noqa: E402
import samples  # noqa: E402
import workloads  # noqa: E402
from catalogue import AGAIN, BROADCAST, COMPRESSED, ECHO, FLOOR, OURS, RAWS  # noqa: E402

# Without it, the scripts would build one.
pairs.binary = lambda: BINARY
ROW = workloads.of_names(["echo-16x100"], False)[0]

# It tests scripts that measure, which only releases need.
RELEASE = True


class Damaging:
    """An echo server that changes the last byte of messages above a length."""

    UPGRADE = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"

    def __init__(self, limit):
        self.limit = limit
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.origin = f"ws://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        connection, _ = self.listener.accept()
        with connection, connection.makefile("rb") as stream:
            while stream.readline() != b"\r\n":
                pass
            connection.sendall(self.UPGRADE)
            while head := stream.read(2):
                length = head[1] & 0x7F
                sizes = {126: 2, 127: 8}
                extended = stream.read(sizes[length]) if length in sizes else b""
                key, payload = stream.read(4), stream.read(int.from_bytes(extended, "big") if extended else length)
                plain = bytearray(masked(payload, key))
                if len(plain) > self.limit:
                    plain[-1] ^= 1
                connection.sendall(bytes([head[0], length]) + extended + plain)


class Fitness(unittest.TestCase):
    def test_the_server_is_fit_in_every_role(self):
        with Server("--compress", "on", "--max-message", "1MiB") as server:
            target = types.SimpleNamespace(origin=f"ws://127.0.0.1:{server.port}", side=OURS)
            for role in (ECHO, BROADCAST, COMPRESSED):
                conformance.check(target, role, ROW, False)

    def test_an_echo_that_damages_long_messages_is_not(self):
        with self.assertRaisesRegex(pairs.Failed, "126 bytes came back changed"):
            conformance.check(Damaging(125), ECHO, ROW, False)

    def test_one_that_does_not_compress_is_not_measured_compressed(self):
        with Server() as server, self.assertRaisesRegex(pairs.Failed, "not negotiated"):
            target = types.SimpleNamespace(origin=f"ws://127.0.0.1:{server.port}", side=OURS)
            conformance.check(target, COMPRESSED, ROW, False)


def rounds_of(costs):
    """Rounds in which the machine's speed, and therefore each side's cost, changes by a third."""
    return [
        {side: {workloads.COST: cost * speed * (1 + 0.001 * (number % 3))} for side, cost in costs.items()}
        for number, speed in enumerate([1.0, 1.35] * 15)
    ]


class Judgement(unittest.TestCase):
    def verdicts(self, costs):
        result = judge.summary(ROW, rounds_of(costs), RAWS)
        return result, {told["to"]: told["verdict"] for told in result["ratios"]}

    def test_ratios_within_rounds_do_not_see_the_machines_speed(self):
        result, verdicts = self.verdicts({OURS: 4.0, AGAIN: 4.0, FLOOR: 3.95, "uws": 4.4, "bun": 3.0})
        self.assertEqual(verdicts, {AGAIN: None, FLOOR: "met", "uws": "met", "bun": "missed"})
        self.assertLess(result["noise"], 0.001)

    def test_what_reaches_over_the_target_is_undecided(self):
        rounds = rounds_of({OURS: 4.0, "uws": 4.0})
        for number, found in enumerate(rounds):
            found["uws"][workloads.COST] *= 0.9 if number % 2 else 1.1
        result = judge.summary(ROW, rounds, RAWS)
        self.assertEqual(result["ratios"][0]["verdict"], "undecided")

    def test_few_rounds_decide_nothing(self):
        result = judge.summary(ROW, rounds_of({OURS: 4.0, "uws": 8.0})[:5], RAWS)
        self.assertEqual(result["ratios"][0]["verdict"], "undecided")

    def test_some_rounds_decide_by_all_that_they_have_in_common(self):
        rounds = rounds_of({OURS: 4.0, "uws": 8.0, "bun": 8.0})[:6]
        rounds[3]["bun"][workloads.COST] /= 4
        verdicts = {told["to"]: told["verdict"] for told in judge.summary(ROW, rounds, RAWS)["ratios"]}
        self.assertEqual(verdicts, {"uws": "met", "bun": "undecided"})

    def test_rounds_that_a_side_is_missing_from_count_for_the_others(self):
        rounds = rounds_of({OURS: 4.0, "uws": 4.4, "bun": 5.0})
        for found in rounds[:10]:
            del found["bun"]
        result = judge.summary(ROW, rounds, RAWS)
        self.assertEqual({told["to"]: told["rounds"] for told in result["ratios"]}, {"uws": 30, "bun": 20})

    def test_of_several_machines_the_one_tells_a_ratio_that_knows_it_best(self):
        steady, noisy = rounds_of({OURS: 4.0, AGAIN: 4.0, "uws": 5.0}), rounds_of({OURS: 4.0, AGAIN: 4.0, "uws": 4.0, "bun": 8.0})
        for number, found in enumerate(noisy):
            found[OURS][workloads.COST] *= 0.7 if number % 2 else 1.3
        results = [judge.summary(ROW, rounds, RAWS) for rounds in (noisy, steady, rounds_of({OURS: 4.0, "ws": 8.0})[:3])]
        joined = judge.joined(ROW, [results])
        self.assertEqual({told["to"]: round(told["median"], 1) for told in joined["ratios"]}, {AGAIN: 1.0, "uws": 0.8, "bun": 0.5})
        self.assertLess(joined["noise"], 0.001)
        self.assertIsNone(judge.joined(ROW, [results[2:]]))

    def test_a_later_day_tells_the_ratios_that_it_has(self):
        full, part = rounds_of({OURS: 4.0, AGAIN: 4.0, "uws": 5.0, "bun": 8.0}), rounds_of({OURS: 6.0, AGAIN: 6.0, "uws": 10.0})
        days = [[judge.summary(ROW, rounds, RAWS)] for rounds in (full, part, rounds_of({OURS: 4.0, "uws": 8.0})[:3])]
        joined = judge.joined(ROW, days)
        self.assertEqual({told["to"]: round(told["median"], 1) for told in joined["ratios"]}, {AGAIN: 1.0, "uws": 0.6, "bun": 0.5})

    def test_what_is_told_beside_has_no_verdict_and_is_of_a_machine_that_has_it(self):
        row = workloads.of_names(["echo-1MiBx4"], False)[0]
        alone, both = rounds_of({OURS: 4.0, AGAIN: 4.0, "yawc": 4.5}), rounds_of({OURS: 4.0, AGAIN: 4.1, "yawc": 3.8})
        for found in both:
            for sample in found.values():
                sample[workloads.TOGETHER_COST] = 2 * sample[workloads.COST]
        results = [judge.summary(row, rounds, RAWS) for rounds in (alone, both)]
        verdicts = {(told["to"], told["value"]): told["verdict"] for told in results[1]["ratios"]}
        self.assertEqual((verdicts["yawc", workloads.COST], verdicts["yawc", workloads.TOGETHER_COST]), ("missed", None))
        figures = judge.joined(row, [results])["sides"][OURS]
        self.assertEqual(figures[workloads.COST], results[0]["sides"][OURS][workloads.COST])
        self.assertEqual(figures[workloads.TOGETHER_COST], results[1]["sides"][OURS][workloads.TOGETHER_COST])


class Samples(unittest.TestCase):
    def test_the_highest_rate_that_kept_its_bound_counts(self):
        runs = [
            {"messages_per_s": rate, "response_ns": {"p99": p99_ms * 1_000_000}}
            for rate, p99_ms in ((250_000, 12), (500_000, 8), (1_000_000, 9), (2_000_000, 40), (200_000, 0))
        ]
        self.assertEqual(samples.nanos_each(runs, 10_000_000), 1_000)
        self.assertEqual(samples.nanos_each(runs, 50_000_000), 500)
        self.assertIsNone(samples.nanos_each(runs, 5_000_000))

    def test_a_server_that_has_done_less_than_half_is_asked_for_no_more(self):
        steps = samples.climbed((250, 500, 1_000, 2_000), 1_000, lambda rate: {"messages_per_s": min(rate * 1_000, 400_000)})
        self.assertEqual(list(steps), [250, 500, 1_000])

    def test_what_cpus_did_for_nobody_is_told_all_the_same(self):
        accounts = [object.__new__(samples.Accounts) for _ in range(2)]
        for account, seconds in zip(accounts, (0, 2)):
            account.user, account.system = (round(seconds * share * samples.TICKS_PER_S) for share in (0.1, 0.3))
            account.soft, account.busy = (round(seconds * share * samples.TICKS_PER_S) for share in (0.1, 0.4))
            account.idle, account.now = round(seconds * 1.0 * samples.TICKS_PER_S), float(seconds)
        told = accounts[1].since(accounts[0])
        self.assertEqual((told["user_share"], told["soft_share"], told["together_by_process"]), (0.25, 0.25, 2.5))
        self.assertEqual(set(accounts[1].since(accounts[1]).values()), {None})


class Turns(unittest.TestCase):
    def test_a_server_that_goes_on_working_is_not_at_rest(self):
        busy, idle = "while True: pass", "import signal; signal.pause()"
        for program, expected in ((busy, False), (idle, True)):
            with subprocess.Popen([sys.executable, "-c", program]) as process:
                try:
                    self.assertEqual(rounds.at_rest(process.pid), expected)
                finally:
                    process.kill()


class Records(unittest.TestCase):
    ABOUT = {
        "commit": "c0ffee", "load": "--depth 1", "seconds": 1.0, "warmup_seconds": 0.3,
        "commands": {OURS: "serve"},
        "environment": {"cpu": "fast", "kernel": "7.0"},
    }

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.folder = directory.name

    def add(self, about, value, again=False):
        """Loads a record, adds a run, and saves it."""
        record = records.Record(self.folder)
        row = record.begin("row", about, again)
        records.add(row, {OURS: {workloads.COST: value}})
        record.save()
        return [found[OURS][workloads.COST] for found in records.rounds_of(records.Record(self.folder).rows["row"])]

    def test_a_row_goes_on_where_it_was_stopped(self):
        self.assertEqual(self.add(self.ABOUT, 1.5), [1.5])
        self.assertEqual(self.add(self.ABOUT, 2.5), [1.5, 2.5])

    def test_a_row_of_another_commit_or_command_begins_anew(self):
        self.add(self.ABOUT, 1.5)
        self.assertEqual(self.add({**self.ABOUT, "commit": "decade"}, 2.5), [2.5])
        self.assertEqual(self.add({**self.ABOUT, "commit": "decade", "commands": {OURS: "other"}}, 3.5), [3.5])

    def test_a_row_of_another_warm_up_begins_anew(self):
        self.add(self.ABOUT, 1.5)
        self.assertEqual(self.add({**self.ABOUT, "warmup_seconds": 0.2}, 2.5), [2.5])

    def test_a_row_of_another_machine_begins_anew(self):
        self.add(self.ABOUT, 1.5)
        self.assertEqual(self.add({**self.ABOUT, "environment": {"cpu": "fast", "kernel": "7.1"}}, 2.5), [2.5])

    def test_a_row_is_not_over_before_every_peer_has_had_its_rounds(self):
        row = {"columns": [], "rounds": [], "failed": {"ws": "it does not listen"}}
        for found in ({OURS: {}}, {OURS: {}, "uws": {}}, {OURS: {}, "uws": {}}):
            records.add(row, found)
        self.assertEqual(records.rounds_of_all(row, [OURS]), 3)
        self.assertEqual(records.rounds_of_all(row, [OURS, "uws", "ws"]), 2)
        self.assertEqual(records.rounds_of_all(row, [OURS, "bun"]), 0)

    def test_a_row_that_is_wanted_again_begins_anew(self):
        self.add(self.ABOUT, 1.5)
        self.assertEqual(self.add(self.ABOUT, 2.5, again=True), [2.5])

    def test_what_a_later_round_tells_besides_does_not_disturb_earlier_ones(self):
        row = {"columns": [], "rounds": []}
        records.add(row, {OURS: {"a": 1.0}})
        records.add(row, {OURS: {"b": 2.0, "a": 3.0}})
        self.assertEqual(records.rounds_of(row), [{OURS: {"a": 1.0}}, {OURS: {"a": 3.0, "b": 2.0}}])

    def test_lines_are_json(self):
        content = {"a": {"b": [1, 2.5, None], "c": "x" * 200, "d": {}}, "e": [{"f": 1}, []]}
        self.assertEqual(json.loads(records.lines(content)), content)


class Documents(unittest.TestCase):
    BEGIN, END = readme.marks("chart")

    def test_only_the_part_between_its_marks_changes(self):
        text = f"head\n{self.BEGIN}\nold\n{self.END}\ntail\n"
        made = readme.marked(text, "chart", readme.README, "new")
        self.assertEqual(made, f"head\n{self.BEGIN}\nnew\n{self.END}\ntail\n")
        self.assertEqual(readme.marked(made, "chart", readme.README, "new"), made)

    def test_a_document_without_its_marks_is_an_error(self):
        with self.assertRaisesRegex(SystemExit, "README.md lacks the lines"):
            readme.marked(f"{self.BEGIN}\nold\n", "chart", readme.README, "new")

    def test_the_cheapest_other_peer_is_neither_raw_nor_echoring(self):
        result = judge.summary(ROW, rounds_of({OURS: 4.0, AGAIN: 4.0, "raw-epoll": 2.0, "aio": 3.0, "uws": 4.4, "ws": 8.0, "yawc": 5.0}), RAWS)
        self.assertEqual(readme.best(result, workloads.COST, readme.figure), "0.80 yawc")

    def test_a_comparison_of_another_program_is_told_of_and_refused_for_a_release(self):
        self.assertIsNone(readme.too_old(readme.COMMITS_MAX))
        self.assertIn("301 commits old", readme.too_old(301))
        self.assertIn("not known", readme.too_old(None))
        self.assertEqual(machine.commits_since("HEAD"), 0)
        self.assertIsNone(machine.commits_since("0" * 40))
        old = readme.too_old(readme.age())
        for flags, code in ((["--check"], 0), (["--check", "--release"], 1 if old else 0)):
            run = subprocess.run([os.path.join(SCRIPTS, "compare-peers"), *flags], capture_output=True, text=True, check=False)
            self.assertEqual((run.returncode, old is None or old in run.stdout + run.stderr), (code, True), run)

    def test_a_chart_names_every_bar_and_escapes_its_text(self):
        image = chart.bars("a & b", "c", "µs", [("one", 1.0, True), ("two", 2.0, False)], "{:.1f}".format, "dark")
        for part in ("a &amp; b", ">one</text>", ">2.0</text>", chart.SCHEMES["dark"][3]):
            self.assertIn(part, image)


if __name__ == "__main__":
    unittest.main()
