"""scripts/cluster: what a cluster promises, step by step, with a partition."""

import os
import subprocess
import sys
import unittest

import test_cluster
from harness import BINARY

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts", "cluster")
# Ten times what it takes on a quiet machine.
TIMEOUT_S = 300


@unittest.skipIf(test_cluster.NATS is None, "nats-server is not installed")
class Steps(unittest.TestCase):
    SECONDS = 60

    def test_all_pass(self):
        command = [sys.executable, SCRIPT, "--binary", os.path.abspath(BINARY), "--slack", "10"]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired as late:
            self.fail(f"{late}\n{(late.stdout or b'').decode()}{(late.stderr or b'').decode()}")
        lines = done.stdout.splitlines()
        self.assertEqual((done.returncode, lines[-1:]), (0, ["16 of 16 steps passed"]), done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main()
