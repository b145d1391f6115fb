"""Runs all tests of this directory, or the named ones. The last line has the totals: `N passed, N failed, N skipped`.

Without names, each class runs in a process of its own, several at a time, because tests mostly wait.
"""

import collections
import concurrent.futures
import faulthandler
import os
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
# Every test takes less than a tenth of this, even on a busy machine.
HANGS_AFTER_S = 600
AT_ONCE = 2 * (os.cpu_count() or 1)


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
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
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


def run_class(name):
    """Runs a class in a process of its own. Returns its output and the totals."""
    # A file, because a process that a test leaves running could keep a pipe open.
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        command = [sys.executable, HERE, name]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        output.seek(0)
        text = output.read()
    said, _, last = text.rstrip().rpartition("\n")
    words = last.split()
    if words[1::2] == ["passed,", "failed,", "skipped"]:
        counts = [int(number) for number in words[::2]]
        if (done.returncode == 0) == (counts[1] == 0):
            return said, counts
    return f"{text}\nFAIL: process ({name}): exit code {done.returncode}", [0, 1, 0]


def run_all(tests):
    """Runs the classes of these tests, those with the most tests first. Returns the exit code."""
    classes = collections.Counter(map(class_of, each(tests)))
    totals = [0, 0, 0]
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as workers:
        for said, counts in workers.map(run_class, [name for name, _ in classes.most_common()]):
            totals = [total + count for total, count in zip(totals, counts)]
            if counts[1]:
                print(said, file=sys.stderr)
            else:
                skipped = [line for line in said.split("\n") if line.startswith("skipped: ")]
                print("\n".join(skipped), end="\n" if skipped else "")
    print(sums(*totals))
    return 1 if totals[1] else 0


def main():
    sys.path.insert(0, HERE)
    loader = unittest.TestLoader()
    if sys.argv[1:]:
        return run(loader.loadTestsFromNames(sys.argv[1:]))
    return run_all(loader.discover(HERE, pattern="test_*.py"))


if __name__ == "__main__":
    sys.exit(main())
