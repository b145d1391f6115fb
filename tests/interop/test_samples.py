"""Samples of single messages."""

import csv
import json
import os
import subprocess
import tempfile
import unittest

from harness import BINARY, PATIENCE_S, Server

COLUMNS = {
    "connection": int,
    "publisher": int,
    "sequence": int,
    "request": str,
    "intended_ns": int,
    "sent_ns": int,
    "arrived_ns": int,
    "response_ns": int,
    "service_ns": int,
    "bytes": int,
    "outcome": str,
    "weight": float,
    "agent": str,
}
PROTOCOL = """
description = "two requests"
[[request]]
name = "get, now"
send = "get {{seq}}"
[[request]]
name = "put"
send = "put {{seq}}"
[[answer]]
same = true
"""


class Samples(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name

    def path(self, name):
        return os.path.join(self.directory, name)

    def rows(self, file):
        """The rows of a file of samples. An empty field is None."""
        with open(file, newline="") as lines:
            reader = csv.DictReader(lines)
            self.assertEqual(reader.fieldnames, list(COLUMNS))
            return [{name: COLUMNS[name](value) if value else None for name, value in row.items()} for row in reader]

    def bench(self, *flags):
        """Runs `bench` for a short time. Returns its record."""
        with Server() as server:
            command = [BINARY, "bench", server.url("/echo"), "-c", "4", "-d", "1s", "--warmup", "100ms", "--json", "-"]
            command += ["--allow-saturated", *flags]
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)["runs"][0]

    def test_all_messages_of_a_run_are_the_rows_of_a_file(self):
        file = self.path("all.csv")
        record = self.bench("--rate", "2000", "--samples", "1/1", "--samples-file", file)
        rows = self.rows(file)
        self.assertEqual(len(rows), record["response_ns"]["count"])
        # An even schedule of 2,000 a second.
        due = [row["intended_ns"] for row in rows]
        self.assertEqual([later - earlier for earlier, later in zip(due, due[1:])], [500_000] * (len(due) - 1))
        for row in rows:
            self.assertEqual(row["response_ns"], row["arrived_ns"] - row["intended_ns"])
            self.assertEqual(row["service_ns"], row["arrived_ns"] - row["sent_ns"])
            self.assertEqual((row["outcome"], row["bytes"], row["weight"]), ("ok", 64, 1.0))
            self.assertIsNone(row["publisher"])
            self.assertIsNone(row["agent"])
        # Quantiles of the record are those of a distribution with three digits.
        response = sorted(row["response_ns"] for row in rows)
        median = response[(len(response) - 1) // 2]
        self.assertLess(abs(record["response_ns"]["p50"] / median - 1), 0.002)
        self.assertEqual(record["samples"], {"share": 1, "picked": len(rows), "left_out": 0})

    def test_a_share_of_the_messages_stands_for_all(self):
        file = self.path("some.csv")
        record = self.bench("--rate", "20000", "--samples", "2%", "--samples-file", file)
        rows = self.rows(file)
        self.assertEqual(record["samples"]["share"], 0.02)
        self.assertEqual(record["samples"]["picked"], len(rows))
        # 400 of 20,000, give or take five standard deviations.
        self.assertLess(abs(len(rows) - 400), 100)
        self.assertEqual({row["weight"] for row in rows}, {50.0})

    def test_requests_of_a_protocol_have_their_names(self):
        file, protocol = self.path("requests.csv"), self.path("two.toml")
        with open(protocol, "w") as out:
            out.write(PROTOCOL)
        record = self.bench("--protocol", protocol, "--rate", "500", "--samples", "1/1", "--samples-file", file)
        rows = self.rows(file)
        self.assertEqual({row["request"] for row in rows}, {"get, now", "put"})
        for request in record["protocol"]["requests"]:
            named = [row for row in rows if row["request"] == request["name"]]
            self.assertEqual(len(named), request["response_ns"]["count"], request)


if __name__ == "__main__":
    unittest.main()
