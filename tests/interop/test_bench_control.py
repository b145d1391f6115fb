"""The rate of a running load is changed by requests and by keys."""

import json
import os
import pty
import re
import subprocess
import tempfile
import termios
import threading
import unittest
import urllib.error
import urllib.request

from harness import BINARY, PATIENCE_S, Server


def request(address, body=None):
    """The rate after a request, or the status of a refusal."""
    method = "GET" if body is None else "PUT"
    data = None if body is None else body.encode()
    asked = urllib.request.Request(f"http://{address}/rate", method=method, data=data)
    try:
        with urllib.request.urlopen(asked, timeout=PATIENCE_S) as answer:
            return json.load(answer)["rate"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def per_second(record):
    return [interval["messages"] for interval in record["intervals"]]


class Control(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server())

    def check(self, record, rate, delta=0):
        """All messages of the changed rate are in the record, from the time of the change on: `delta` more or fewer."""
        change = record["rate_changes"][-1]
        self.assertEqual(change["rate"], rate)
        self.assertEqual(set(record["integrity"].values()), {0})
        self.assertEqual(record["generator"]["unsent"], 0)
        expected = sum(
            rate * (until - since)
            for rate, since, until in zip(
                [record["config"]["rate"]] + [change["rate"] for change in record["rate_changes"]],
                [0] + [change["at_s"] for change in record["rate_changes"]],
                [change["at_s"] for change in record["rate_changes"]] + [record["duration_s"]],
            )
        )
        self.assertAlmostEqual(record["response_ns"]["count"], expected, delta=2 + len(record["rate_changes"]) + delta)

    def run_controlled(self, *flags):
        """Runs `bench`, changes its rate once it measures, and returns its record."""
        command = [
            BINARY, "bench", self.server.url(""), "--control", "127.0.0.1:0", "--warmup", "100ms", "-d", "3s", "--json", "-",
            "--allow-saturated", *flags,
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            address = re.match(r"control http://(\S+)/rate\n", process.stderr.readline()).group(1)
            for line in process.stderr:
                if "measuring" in line:
                    break
            # So that the pipe does not fill.
            rest = threading.Thread(target=process.stderr.read)
            rest.start()
            self.assertEqual(request(address), 400)
            self.assertEqual(request(address, "+50%"), 600)
            self.assertEqual(request(address, "soon"), 400)
            self.assertEqual(request(address, "2k"), 2_000)
            record = json.load(process.stdout)["runs"][0]
            rest.join()
        self.assertEqual(process.returncode, 0)
        return record

    def test_requests_change_the_rate_of_all_threads(self):
        for flags in (("-c", "20"), ("-c", "20", "--threads", "2"), ("-c", "20", "--arrivals", "poisson"), ("-c", "20", "--burst", "4")):
            with self.subTest(flags):
                record = self.run_controlled(*flags, "--rate", "400")
                # Six standard deviations of as many as 6,000 random arrivals; a burst of each connection.
                self.check(record, 2_000, 465 if "poisson" in flags else 4 * 20 if "--burst" in flags else 0)

    def test_publishers_and_new_connections_follow_too(self):
        record = self.run_controlled("--mode", "broadcast", "-c", "6", "--publishers", "2", "--topics", "2", "--rate", "400")
        self.assertEqual((set(record["integrity"].values()), record["broadcast"]["reach"]), ({0}, 1))
        record = self.run_controlled("--mode", "connect", "-c", "500", "--rate", "400")
        self.assertEqual(set(record["integrity"].values()), {0})
        self.assertGreater(record["response_ns"]["count"], 2_000)

    def test_keys_change_the_rate_and_the_terminal_is_as_before(self):
        mine, theirs = pty.openpty()
        before = termios.tcgetattr(theirs)
        with tempfile.NamedTemporaryFile() as file:
            command = [
                BINARY, "bench", self.server.url("/echo"), "-c", "10", "--rate", "1000", "--warmup", "100ms", "-d", "4s", "--json", file.name,
                "--allow-saturated",
            ]
            # The terminal is that of a session of its own, which has this process in front.
            program = f"import os, sys; os.setsid(); os.close(os.open({os.ttyname(theirs)!r}, os.O_RDWR)); os.execv(sys.argv[1], sys.argv[1:])"
            process = subprocess.Popen(
                ["python3", "-c", program, *command], stdin=theirs, stderr=theirs, stdout=subprocess.DEVNULL
            )
            shown = b""
            while b"measuring" not in shown:
                shown += os.read(mine, 4096)
            os.write(mine, b"++x-")
            while b"rate: 1,100/s" not in shown:
                shown += os.read(mine, 4096)
            drain = threading.Thread(target=self.drain, args=(mine,), daemon=True)
            drain.start()
            self.assertEqual(process.wait(PATIENCE_S), 0)
            record = json.load(file)["runs"][0]
        self.check(record, 1_100)
        self.assertEqual(termios.tcgetattr(theirs), before)
        os.close(theirs)
        drain.join(PATIENCE_S)
        os.close(mine)

    @staticmethod
    def drain(terminal):
        try:
            while os.read(terminal, 4096):
                pass
        except OSError:
            pass  # The other end is closed.

    def test_only_a_rate_can_be_changed(self):
        for flags in (("--depth", "2"), ("--rate", "0.5"), ("--rate", "100", "--repeat", "2"), ("--stage", "1s@100")):
            done = subprocess.run(
                [BINARY, "bench", self.server.url("/echo"), "--control", "127.0.0.1:0", *flags],
                capture_output=True, text=True, timeout=PATIENCE_S,
            )
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn("--control: only for a single run with a whole --rate", done.stderr)


if __name__ == "__main__":
    unittest.main()
