"""Runs all tests of this directory, or the named ones. The last line has the totals, `N passed, N failed, N skipped`, and the one before
it begins with `failed: ` and names those that failed.

    python tests/interop                     all modules, without what only a release has to pass
    python tests/interop --release           what only a release has to pass
    python tests/interop test_tls.Names      what is named, in this process
    python tests/interop --for load,proxy    the modules that a change of these folders of src, or of these paths, can break
    python tests/interop --changed           the same for the files that differ from where the branch left main
    python tests/interop --changed --list    their names only
    python tests/interop --times             the ten modules that took longest, too

Without names, each class runs in a process of its own, several at a time, because tests mostly wait: first those that took longest in the
last run, whose seconds are in `target/interop`. The short ones of a module share a process. A class may say more of itself:

    SECONDS = 45      what it takes, where no run has told; otherwise a second for each test
    HEAVY = True      it keeps the CPUs busy, as a browser does: few of these run at a time
    RELEASE = True    only a release has to pass it: it takes long, or needs large packages; a module may say so of all its classes
"""

import argparse
import collections
import concurrent.futures
import contextlib
import faulthandler
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import unittest

import parts

HERE = os.path.dirname(os.path.abspath(__file__))
# Every test takes less than a tenth of this, even on a busy machine.
HANGS_AFTER_S = 600
CPUS = os.cpu_count() or 1
# Processes that run at a time. Of those with a heavy class, as many as leave the others half of the CPUs.
AT_ONCE, HEAVY_AT_ONCE = 4 * CPUS, max(1, CPUS // 2)
# Of a class that is worth a process.
SHORT_S_MAX = 4
# What each class took when it last ran in a process of its own.
SECONDS = os.path.join("target", "interop", "seconds.json")
# How unittest names a test that failed, or a class or module that could not be set up. A test is named once for each subtest.
FAILED = re.compile(r"^(?:FAIL|ERROR): \w+ \(([\w.]+)\)", re.MULTILINE)


class Result(unittest.TextTestResult):
    """Prints failures only. Counts tests, not subtests."""

    passed = 0

    def startTest(self, test):
        super().startTest(test)
        # A test that hangs ends the process with a traceback.
        faulthandler.dump_traceback_later(HANGS_AFTER_S, exit=True)

    def stopTest(self, test):
        faulthandler.cancel_dump_traceback_later()
        super().stopTest(test)

    def addSuccess(self, test):
        super().addSuccess(test)
        self.passed += 1


def run(tests):
    """Runs tests in this process. Prints failures and totals, and returns the exit code."""
    result = unittest.TextTestRunner(stream=sys.stderr, verbosity=0, resultclass=Result).run(tests)
    failed = len(result.unexpectedSuccesses)
    failed += len({getattr(test, "test_case", test).id() for test, _ in result.failures + result.errors})
    for test, reason in result.skipped:
        print(f"skipped: {test}: {reason}")
    print(sums(result.passed, failed, len(result.skipped)))
    return 1 if failed else 0


def sums(passed, failed, skipped):
    return f"{passed} passed, {failed} failed, {skipped} skipped"


def each(tests):
    for test in tests:
        if isinstance(test, unittest.TestSuite):
            yield from each(test)
        else:
            yield test


def class_of(test):
    """The name that a process gets for this test: its class, or the module if that fails to import."""
    if isinstance(test, unittest.loader._FailedTest):
        return test.id().rpartition(".")[2]
    return f"{type(test).__module__}.{type(test).__qualname__}"


def is_for_release(test):
    """Whether its class, or the module of its class, says so."""
    return getattr(test, "RELEASE", False) or getattr(sys.modules[type(test).__module__], "RELEASE", False)


class Run:
    """Classes of a module, run in a process of their own: its output, the totals, and the seconds of the clock and of CPUs."""

    def __init__(self, names):
        self.names = names
        began = time.monotonic()
        # A file, because a process that a test leaves running could keep a pipe open.
        with tempfile.TemporaryFile("w+", errors="replace") as output:
            command = [sys.executable, HERE, *names]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            output.seek(0)
            text = output.read()
        self.seconds, self.cpu_seconds = time.monotonic() - began, used.ru_utime + used.ru_stime
        self.failed = FAILED.findall(text)
        self.said, _, last = text.rstrip().rpartition("\n")
        words = last.split()
        if words[1::2] == ["passed,", "failed,", "skipped"]:
            self.counts = [int(number) for number in words[::2]]
            if (process.returncode == 0) == (self.counts[1] == 0):
                return
        self.said = f"{text}\nFAIL: process ({', '.join(names)}): exit code {process.returncode}"
        self.counts, self.failed = [0, 1, 0], names


def run_all(tests, times=False, release=False):
    """Runs the classes of these tests, the longest first. Returns the exit code."""
    known = seconds()
    tests = [test for test in each(tests) if is_for_release(test) == release]
    counts = collections.Counter(map(class_of, tests))
    heavy = {class_of(test) for test in tests if getattr(test, "HEAVY", False)}
    guesses = {class_of(test): getattr(test, "SECONDS", counts[class_of(test)]) for test in tests}
    totals, runs = [0, 0, 0], []
    for run in run_groups(groups(counts, known, guesses), heavy):
        runs.append(run)
        totals = [total + count for total, count in zip(totals, run.counts)]
        if run.counts[1]:
            print(run.said, file=sys.stderr)
        else:
            skipped = [line for line in run.said.split("\n") if line.startswith("skipped: ")]
            print("\n".join(skipped), end="\n" if skipped else "")
    os.makedirs(os.path.dirname(SECONDS), exist_ok=True)
    with open(SECONDS, "w") as file:
        json.dump(known | {run.names[0]: round(run.seconds, 1) for run in runs if len(run.names) == 1}, file)
    if times:
        print_times(runs)
    if failed := sorted({name for run in runs for name in run.failed}):
        print("failed:", *failed)
    print(sums(*totals))
    return 1 if totals[1] else 0


def run_groups(ordered, heavy):
    """Runs each group in a process. Yields the runs as they end."""
    with (
        concurrent.futures.ThreadPoolExecutor(AT_ONCE - HEAVY_AT_ONCE) as workers,
        concurrent.futures.ThreadPoolExecutor(HEAVY_AT_ONCE) as heavy_workers,
    ):
        begun = [(workers if heavy.isdisjoint(names) else heavy_workers).submit(Run, names) for names in ordered]
        for run in concurrent.futures.as_completed(begun):
            yield run.result()


def groups(classes, known, guesses):
    """The classes that each process runs, those that take longest first."""
    together = collections.defaultdict(list)
    for name in classes:
        is_short = known.get(name, SHORT_S_MAX) < SHORT_S_MAX
        together[name.partition(".")[0] if is_short else name].append(name)
    return sorted(together.values(), key=lambda names: -sum(known.get(name, guesses[name]) for name in names))


def seconds():
    with contextlib.suppress(OSError, ValueError), open(SECONDS) as file:
        return json.load(file)
    return {}


def print_times(runs):
    """The modules that took longest. Their classes run at the same time, so that a module's seconds are those of all together."""
    modules = collections.defaultdict(lambda: [0, 0])
    for run in runs:
        figures = modules[run.names[0].partition(".")[0]]
        figures[0] += run.seconds
        figures[1] += run.cpu_seconds
    for name, (seconds, cpu_seconds) in sorted(modules.items(), key=lambda module: -module[1][0])[:10]:
        print(f"{seconds:7.1f} s, {cpu_seconds:6.1f} s of CPU: {name}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="*", help="modules, classes or tests, to run in this process")
    parser.add_argument("--for", dest="parts", metavar="PARTS", help="folders of src, or paths, separated by commas")
    parser.add_argument("--changed", action="store_true", help="only modules that a change of this branch can break")
    parser.add_argument("--release", action="store_true", help="run what only a release has to pass, and nothing else")
    parser.add_argument("--list", action="store_true", help="print the names of these modules, and run none")
    parser.add_argument("--times", action="store_true", help="print the modules that took longest")
    return parser.parse_args()


def main():
    sys.path.insert(0, HERE)
    options = arguments()
    loader = unittest.TestLoader()
    if options.tests:
        return run(loader.loadTestsFromNames(options.tests))
    if not options.parts and not options.changed:
        return run_all(loader.discover(HERE, pattern="test_*.py"), options.times, options.release)
    paths = [parts.path_of(part) for part in options.parts.split(",")] if options.parts else []
    modules = parts.broken_by(paths + (parts.changed() if options.changed else []))
    if options.list:
        print("\n".join(modules))
        return 0
    return run_all(loader.loadTestsFromNames(modules), options.times)


if __name__ == "__main__":
    sys.exit(main())
