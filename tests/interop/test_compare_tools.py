"""`scripts/compare-tools`: the percentiles that follow from an application's log, and the samples of CPU time."""

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import types
import unittest

from harness import BINARY

SCRIPTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts")
sys.path += [SCRIPTS, *(os.path.join(SCRIPTS, folder) for folder in ("compare_tools", "compare_peers"))]

import drivers  # noqa: E402
import probe  # noqa: E402
import truth  # noqa: E402

MS = 1_000_000
SECOND = 1_000 * MS
# Of the requests of a user, and of the application's stalls, of which the first starts in the middle of a second.
INTERVAL, PERIOD, STALL = 10 * MS, SECOND, 100 * MS
START = 1_700_000_000 * SECOND

# It tests scripts that measure, which only releases need.
RELEASE = True


def script():
    """The script as a module: its name has no ending."""
    path = os.path.join(SCRIPTS, "compare-tools")
    loader = importlib.machinery.SourceFileLoader("compare_tools_script", path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def stalls(seconds):
    return [(START + n * PERIOD + PERIOD // 2, START + n * PERIOD + PERIOD // 2 + STALL) for n in range(seconds)]


def request(user, number, sent, read, delay, written):
    return f"request,{user},{number},{sent},{read},{delay},{'' if written is None else written}"


def log_of_a_schedule(seconds, users=2):
    """The log of an application without delays, for users who ask when they should."""
    lines = [f"stall,{start},{end}" for start, end in stalls(seconds)]
    for user in range(users):
        for n in range(seconds * SECOND // INTERVAL):
            sent = START + user * INTERVAL // users + n * INTERVAL
            read = next((end for start, end in stalls(seconds) if start <= sent < end), sent)
            lines.append(request(user, n + 1, sent, read, 0, read))
    return truth.Log([*lines, "clock,0"])


class Percentiles(unittest.TestCase):
    def test_a_tenth_of_the_time_stalled_begins_at_p90(self):
        found = truth.percentiles(truth.as_sent(log_of_a_schedule(10), back_ns=0))
        self.assertEqual(found["p50"], 0)
        for name, calculated in (("p99", 90), ("p999", 99), ("max", 100)):
            self.assertAlmostEqual(found[name], calculated, delta=6, msg=name)

    def test_the_constant_of_the_way_back_is_added(self):
        log = truth.Log([request(0, 1, START, START + MS, 0, START + 2 * MS)])
        self.assertEqual(truth.as_sent(log, back_ns=30_000), [2 * MS + 30_000])

    def test_a_percentile_is_the_smallest_value_that_is_not_below_its_share(self):
        found = truth.percentiles([n * MS for n in range(1, 1_001)])
        self.assertEqual(found, {"p50": 500, "p90": 900, "p99": 990, "p999": 999, "max": 1_000})


class AsAsked(unittest.TestCase):
    def calculated(self, log, count, mean_ns=0):
        due = truth.due_times(log, INTERVAL, count)
        return due, truth.as_asked(log, due, mean_ns, there_ns=0, back_ns=0)

    def test_the_calculation_repeats_what_the_log_of_a_punctual_tool_has(self):
        log = log_of_a_schedule(5)
        _, found = self.calculated(log, 5 * SECOND // INTERVAL)
        self.assertEqual(found, {(each.user, each.id): each.written - each.sent for each in log.requests})

    def test_what_a_closed_loop_omits_is_in_it(self):
        # One request in flight: in each stall one waits, and the others of that time are never sent.
        whole = log_of_a_schedule(10, users=1)
        omitted = [f"stall,{start},{end}" for start, end in whole.stalls]
        number, free = 0, 0
        for each in whole.requests:
            if each.sent >= free:
                number += 1
                omitted.append(request(0, number, each.sent, each.read, 0, each.written))
                free = each.written
        log = truth.Log(omitted)
        self.assertLess(truth.percentiles(truth.as_sent(log, 0))["p90"], 1)
        _, found = self.calculated(log, 10 * SECOND // INTERVAL)
        found = truth.percentiles(found.values())
        self.assertEqual(found, truth.percentiles(truth.as_sent(whole, 0)))
        self.assertGreater(found["p99"], 80)

    def test_an_answer_that_is_due_in_a_stall_waits_for_its_end(self):
        (start, end), *_ = stalls(1)
        log = truth.Log([f"stall,{start},{end}", request(0, 1, start - MS, start - MS, 2 * MS, None)])
        due = truth.due_times(log, INTERVAL, 1)
        # A mean for which the delay is 2 ms.
        mean = 2 * MS * SECOND / truth.delay(0, 1, SECOND)
        found = truth.as_asked(log, due, mean, there_ns=0, back_ns=0)
        self.assertEqual(found, {(0, 1): MS + STALL})

    def test_pauses_of_the_host_count_like_stalls(self):
        log = truth.Log([f"pause,{START},{START + 7 * MS}", request(0, 1, START + MS, START + 7 * MS, 0, START + 7 * MS)])
        _, found = self.calculated(log, 1)
        self.assertEqual(found, {(0, 1): 6 * MS})

    def test_a_backlog_leaves_at_the_speed_of_the_application(self):
        # 10 requests wait; the last is read 1 ms after the stall, and no answer is due before.
        (start, end), *_ = stalls(1)
        reads = [request(0, n, start + n, end + n * 100_000, SECOND, None) for n in range(1, 11)]
        log = truth.Log([f"stall,{start},{end}", *reads])
        self.assertEqual(log.step_ns(), 100_000)

    def test_delays_are_those_of_the_application(self):
        # From a log of bench/peers/rust/src/bin/application.rs, with a mean of 8 ms.
        for user, number, delay in ((0, 1, 4_518_426), (0, 2, 214_315), (1, 1, 371_674), (9, 1, 2_456_802), (19, 245, 18_454_762)):
            self.assertAlmostEqual(truth.delay(user, number, 8 * MS), delay, delta=1)


class Counts(unittest.TestCase):
    def test_what_was_overtaken_doubled_or_not_answered(self):
        log = truth.Log(
            [
                request(0, 1, START, START, 30, START + 30),
                request(0, 2, START, START, 10, START + 10),
                request(0, 2, START, START, 40, START + 40),
                request(1, 1, START, START, 50, START + 50),
                request(1, 2, START, START, 60, None),
            ]
        )
        self.assertEqual((log.overtaken(), log.doubles()), (1, 1))
        self.assertEqual((len(log.requests), len(log.answered())), (5, 4))

    def test_the_probe_compares_its_clock_with_the_log(self):
        log = truth.Log([request(0, n, START, START + n, 0, START + 10 * n) for n in (1, 2, 3)])
        found = probe.transport(log, {n: START + 10 * n + 5 for n in (1, 2, 3)})
        self.assertEqual(found, {"there_ns": 2, "back_ns": 5})

    def test_the_processes_of_a_tool_are_those_of_its_session(self):
        own = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import sys; print(1, flush=True); sys.stdin.read()'])"
        process = subprocess.Popen(
            [sys.executable, "-c", own], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        try:
            process.stdout.readline()
            found = script().processes(process.pid)
            self.assertIn(process.pid, found)
            self.assertEqual(len(found), 2)
            self.assertNotIn(os.getpid(), found)
        finally:
            process.stdin.close()
            process.wait()
            process.stdout.close()


class Rates(unittest.TestCase):
    def test_a_run_of_bench_is_counted_by_the_server(self):
        cpus = sorted(os.sched_getaffinity(0))
        options = types.SimpleNamespace(echoring=BINARY, server_cpu=cpus[0], generator_cpu=cpus[-1], seconds=2)
        module = script()
        counted = module.Counted(options)
        try:
            found = module.measure_rate(("bench", drivers.Bench, "closed", 4), counted, options)
        finally:
            counted.stop()
        self.assertGreater(found["requests_per_s"], 0)
        for figure in ("cpu_ns_per_request", "server_cpu_ns_per_request"):
            self.assertGreater(found[figure], 0)
        for share in ("cpu_share", "server_cpu_share"):
            self.assertLess(found[share], 1.1)


if __name__ == "__main__":
    unittest.main()
