"""Kernel timestamps of the load generator's messages, as a user asks for them."""

import asyncio
import contextlib
import json
import signal
import ssl
import subprocess
import tempfile
import threading
import time
import unittest

import trustme
from harness import BINARY, PATIENCE_S, Server
from test_bench_opening import EchoServer, bench
from test_bench_pings import PickyServer

PARTS = ["waiting_in_generator_ns", "generator_kernel_ns", "server_and_network_ns", "kernel_to_program_ns"]
DRIVERS = ("uring", "epoll")
CLOSED = ("-c", "10", "--timestamps")


@contextlib.contextmanager
def over_tls(version, kind=EchoServer):
    """The URL of a server that speaks this version of TLS, and the flag with which it is trusted."""
    authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = context.maximum_version = version
    authority.issue_cert("localhost").configure_cert(context)
    with tempfile.NamedTemporaryFile() as ca, kind(tls=context) as server:
        authority.cert_pem.write_to_path(ca.name)
        yield f"wss://localhost:{server.port}/", "--ca-file", ca.name


def stop_when_measuring(bench, process, times, still_s):
    """Once a run of `bench` measures, stops a process so many times for so long, with a pause of 100 ms before each. Returns stdout."""
    while "measuring" not in (line := bench.stderr.readline()):
        assert line, "the run ended before it measured"
    is_over = threading.Event()

    def stop():
        for _ in range(times):
            if is_over.wait(0.1):
                break
            process.send_signal(signal.SIGSTOP)
            is_over.wait(still_s)
            process.send_signal(signal.SIGCONT)

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        return bench.communicate(timeout=PATIENCE_S)[0]
    finally:
        is_over.set()
        thread.join()


class Stamped(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server())

    def bench(self, *flags):
        return bench(self.server.url("/echo"), *flags)

    def test_every_message_is_split(self):
        for driver in DRIVERS:
            for load in (("--depth", "1"), ("--mode", "ping", "--rate", "2000"), ("--message-bytes", "20000")):
                with self.subTest(driver=driver, load=load):
                    record = self.bench(*CLOSED, "kernel", "--driver", driver, *load)
                    self.assertEqual(record["config"]["timestamps"], "kernel")
                    split, messages = record["split"], record["response_ns"]["count"]
                    self.assertEqual(split["sampled"], messages)
                    # A busy machine reads several answers at a time now and then.
                    self.assertLess(split["bounded"], messages / 2, split)
                    self.assertEqual(record["server_and_network_ns"]["count"], split["sampled"])
                    self.assertEqual(record["integrity"]["lost"] + record["integrity"]["corrupted"], 0)
                    self.assertEqual(sum(split["p50"][part] for part in PARTS), split["p50"]["total_ns"])
                    self.assertLessEqual(record["server_and_network_ns"]["max"], record["response_ns"]["max"])

    def test_a_sample_is_split(self):
        # In an open loop each connection sends as many; the first of ten is sampled, and each or half of its sends.
        load = ("--rate", "2000", "-c", "10", "--threads", "1", "--timestamps")
        for driver in DRIVERS:
            for every in (10, 20):
                with self.subTest(driver=driver, every=every):
                    record = self.bench(*load, f"kernel:1/{every}", "--driver", driver)
                    self.assertEqual(record["config"]["timestamps"], f"kernel:1/{every}")
                    sampled, messages = record["split"]["sampled"], record["response_ns"]["count"]
                    # The edges of the warm-up count a message more or less on each connection.
                    self.assertAlmostEqual(sampled, messages / every, delta=0.02 * messages / every + 10)

    def test_several_messages_in_flight_are_attributed_or_have_a_bound(self):
        for driver in DRIVERS:
            with self.subTest(driver=driver):
                record = self.bench(*CLOSED, "kernel", "--driver", driver, "--depth", "8")
                split = record["split"]
                self.assertEqual(split["sampled"], record["response_ns"]["count"])
                self.assertEqual(record["server_and_network_ns"]["count"], split["sampled"])
                self.assertGreater(split["sampled"], split["bounded"])

    def test_messages_that_waited_together_are_in_the_quantile(self):
        # Many standstills, one in which more sends wait than the driver keeps, and one that does not end.
        many = [(driver, timestamps, 12, 0.15) for driver in DRIVERS for timestamps in ("kernel", "kernel:1/2")]
        for driver, timestamps, times, still_s in [*many, ("uring", "kernel:1/2", 1, 1.5), ("epoll", "kernel:1/2", 1, 30)]:
            with self.subTest(driver=driver, timestamps=timestamps, still_s=still_s), Server() as server:
                flags = ["-c", "1", "--rate", "1000", "--timestamps", timestamps, "--driver", driver, "-d", "3s", "--warmup", "0s"]
                command = [BINARY, "bench", server.url("/echo"), *flags, "--allow-saturated", "--json", "-"]
                with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
                    record = json.loads(stop_when_measuring(process, server.process, times, still_s))["runs"][0]
                took, response = record["server_and_network_ns"], record["response_ns"]
                self.assertGreater(took["p99"], 0.5e9 * min(still_s, 3), (took, response, record["split"]))
                self.assertLessEqual(took["p99"], 1.3 * response["p99"], record["split"])

    def test_connections_that_come_back_are_stamped(self):
        record = self.bench(*CLOSED, "kernel", "--lifetime", "100ms", "--reconnect", "10ms")
        self.assertGreater(record["reconnects"]["back_ns"]["count"], 0)
        self.assertLess(record["split"]["bounded"], record["split"]["sampled"] / 2)

    def test_auto_takes_the_kernels_times_where_they_are_cheap(self):
        record = self.bench("--rate", "100", "-c", "5")
        self.assertEqual(record["config"]["timestamps"], "kernel")
        # Of as many connections as get 5,000 messages a second.
        record = self.bench("--rate", "20k", "-c", "8", "--threads", "1")
        self.assertEqual(record["config"]["timestamps"], "kernel:1/4")
        split, messages = record["split"], record["response_ns"]["count"]
        self.assertTrue(0 < split["sampled"] < messages / 2, (split["sampled"], messages))
        config = self.bench("--depth", "1")["config"]
        self.assertEqual(config["timestamps"], "program")
        self.assertTrue(config["timestamps_why"])
        config = self.bench("--rate", "100", "-c", "5", "--timestamps", "program")["config"]
        self.assertEqual((config["timestamps"], config["timestamps_why"]), ("program", None))

    def test_a_wrong_value_is_refused(self):
        for value in ("kernel:1/0", "kernel:2", "user"):
            command = [BINARY, "bench", "--timestamps", value]
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
            self.assertEqual(done.returncode, 2)
            self.assertIn("kernel:1/100", done.stderr)
        for flags in (("--timestamps", "program"), ("--mode", "connect")):
            command = [BINARY, "bench", self.server.url("/echo"), *flags, "--fail-if", "kernel.p99>5ms"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
            self.assertEqual(done.returncode, 2)
            self.assertIn("only with --timestamps kernel or auto", done.stderr)


class Elsewhere(unittest.TestCase):
    def test_a_slow_server_has_the_time(self):
        delay_s = 0.02

        def answer(_, payload):
            time.sleep(delay_s)
            return [payload]

        with PickyServer(answer) as server:
            flags = ("--mode", "ping", "-c", "1", "--depth", "1", "--timestamps", "kernel")
            record = bench(server.url, *flags, "--fail-if", "kernel.p50<20ms")
        self.assertGreaterEqual(record["split"]["p50"]["server_and_network_ns"], 0.9 * delay_s * 1e9)

    def test_messages_in_records_of_tls_are_split(self):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            with over_tls(version) as words:
                for driver in DRIVERS:
                    for load in (("--depth", "1"), ("--message-bytes", "100000"), ("--rate", "200")):
                        with self.subTest(version=version, driver=driver, load=load):
                            record = bench(*words, *CLOSED, "kernel", "--driver", driver, *load)
                            self.assertEqual(record["config"]["timestamps"], "kernel")
                            split, messages = record["split"], record["response_ns"]["count"]
                            self.assertEqual(split["sampled"], messages)
                            self.assertLess(split["bounded"], messages / 2, split)
                            self.assertEqual(sum(split["p50"][part] for part in PARTS), split["p50"]["total_ns"])

    def test_a_slow_server_with_tls_has_the_time(self):
        delay_s = 0.02

        class Slow(EchoServer):
            async def _echo(self, connection):
                async for message in connection:
                    await asyncio.sleep(delay_s)
                    await connection.send(message)

        with over_tls(ssl.TLSVersion.TLSv1_3, Slow) as words:
            record = bench(*words, *CLOSED, "kernel", "--depth", "1", "--fail-if", "kernel.p50<20ms")
        self.assertGreaterEqual(record["split"]["p50"]["server_and_network_ns"], 0.9 * delay_s * 1e9)

    def test_a_run_that_cannot_have_them_warns(self):
        with Server() as server:
            for mode, timestamps, is_told in (
                ("broadcast", "kernel", True),
                ("connect", "kernel:1/3", True),
                ("broadcast", "auto", False),
                ("connect", "program", False),
                ("ping", "kernel", False),
            ):
                with self.subTest(mode=mode, timestamps=timestamps):
                    url = f"ws://127.0.0.1:{server.port}"
                    flags = ["--mode", mode, "-c", "4", "--rate", "50", "-d", "200ms", "--warmup", "0s", "--allow-saturated"]
                    command = [BINARY, "bench", url, *flags, "--timestamps", timestamps]
                    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
                    self.assertEqual(done.returncode, 0, done.stderr)
                    warning = f"warning: {mode}: --timestamps {timestamps} has no effect: "
                    self.assertEqual(done.stderr.count(warning), int(is_told), done.stderr)

    def test_unix_sockets_have_the_programs_times(self):
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/echo.sock"
            with EchoServer(path=path):
                record = bench("ws://localhost/echo", "--unix-socket", path, *CLOSED, "kernel")
        self.assertEqual(record["config"]["timestamps"], "program")
        self.assertIn("Unix", record["config"]["timestamps_why"])
        self.assertIsNone(record["split"])


if __name__ == "__main__":
    unittest.main()
