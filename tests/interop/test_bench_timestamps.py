"""Kernel timestamps of the load generator's messages, as a user asks for them."""

import asyncio
import contextlib
import ssl
import subprocess
import tempfile
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
                    self.assertLess(split["unattributed"], messages / 2, split)
                    self.assertEqual(record["server_and_network_ns"]["count"], split["stamped"])
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

    def test_several_messages_in_flight_are_attributed_or_counted(self):
        for driver in DRIVERS:
            with self.subTest(driver=driver):
                record = self.bench(*CLOSED, "kernel", "--driver", driver, "--depth", "8")
                split = record["split"]
                self.assertEqual(split["sampled"], record["response_ns"]["count"])
                self.assertGreater(split["stamped"], 0)

    def test_connections_that_come_back_are_stamped(self):
        record = self.bench(*CLOSED, "kernel", "--lifetime", "100ms", "--reconnect", "10ms")
        self.assertGreater(record["reconnects"]["back_ns"]["count"], 0)
        self.assertGreater(record["split"]["stamped"], record["split"]["unattributed"])

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
        self.assertEqual((config["timestamps"], "timestamps_why" in config), ("program", False))

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
                            self.assertLess(split["unattributed"], messages / 2, split)
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

    def test_unix_sockets_have_the_programs_times(self):
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/echo.sock"
            with EchoServer(path=path):
                record = bench("ws://localhost/echo", "--unix-socket", path, *CLOSED, "kernel")
        self.assertEqual(record["config"]["timestamps"], "program")
        self.assertIn("Unix", record["config"]["timestamps_why"])
        self.assertNotIn("split", record)


if __name__ == "__main__":
    unittest.main()
