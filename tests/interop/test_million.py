"""`scripts/million`: what a number of connections needs by the limits of a machine, and a small run of everything."""

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import unittest

from harness import BINARY

SCRIPTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts")
PATH = os.path.join(SCRIPTS, "million")
CANNOT = 3
RUN_S_MAX = 300

# It tests scripts that measure, which only releases need.
RELEASE = True


def script():
    """The script as a module: its name has no ending."""
    sys.path.append(SCRIPTS)
    loader = importlib.machinery.SourceFileLoader("million_script", PATH)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


class Arithmetic(unittest.TestCase):
    def test_the_limit_of_descriptors_holds_for_each_ring(self):
        for limit, shards, threads in ((20_000, 58, 13), (1 << 20, max(2, os.cpu_count()), 1)):
            plan = script().layout(1_000_000, limit)
            self.assertEqual((plan["shards"], plan["agents"], plan["threads_each"], plan["addresses_each"]), (shards, 4, threads, 10))
            self.assertGreaterEqual(plan["shards"] * (limit - 64) * 7 / 8, 1_000_000)

    def test_all_of_a_short_memory_is_used_but_the_floor(self):
        module, gib = script(), 1 << 30
        module.memory = lambda: {"available": 10 * gib}
        fits = module.most({"bytes_per_connection": {"server": 500, "agents": 2_500, "kernel_both_ends": 7_000}}, 2 * gib)
        self.assertEqual((fits["bytes_each"], fits["connections"]), (11_500, 740_000))


class Run(unittest.TestCase):
    def test_a_small_run_has_no_faults(self):
        done = subprocess.run([PATH, "--quick", "--echoring", BINARY], capture_output=True, text=True, timeout=RUN_S_MAX)
        if done.returncode == CANNOT:
            self.skipTest(done.stderr)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        for line in ("| messages, deliveries | 1, 1,999 |", "| closed before the drain | 0 |"):
            self.assertIn(line, done.stdout)
