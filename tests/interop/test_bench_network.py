"""The load generator on a network that reorders and loses packets: whose time a wait is, and what was sent again."""

import json
import os
import subprocess
import sys
import unittest

from tun_network import namespace

HERE = os.path.dirname(os.path.abspath(__file__))
DRIVERS = ("uring", "epoll")
DELAY_MS = 20


def bench(fate, every, delay_ms, *flags):
    """The results of `bench` on such a network, see lossy_network.py."""
    script = [sys.executable, os.path.join(HERE, "lossy_network.py"), fate, str(every), str(delay_ms), *flags]
    done = subprocess.run([*namespace(), *script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@unittest.skipUnless(namespace(), "this host does not allow a network namespace with a TUN device")
class Reordered(unittest.TestCase):
    """The first packet of an answer arrives last."""

    # An answer of two packets, and of more than the program reads at a time; one connection of two is sampled.
    LOADS = (("2000", "1", "kernel"), ("20000", "1", "kernel"), ("2000", "2", "kernel:1/2"))

    def bench(self, every, driver, message_bytes, connections, timestamps):
        load = ("--message-bytes", message_bytes, "-c", connections, "--timestamps", timestamps, "--driver", driver)
        record = bench("reorder", every, DELAY_MS, *load, "--rate", "20", "-d", "2s", "--warmup", "500ms")["record"]
        self.assertEqual(record["integrity"]["lost"] + record["integrity"]["corrupted"], 0)
        self.assertEqual(record["server_and_network_ns"]["count"], record["split"]["sampled"])
        return record

    def test_the_wait_for_it_is_not_the_generators(self):
        for driver in DRIVERS:
            for load in self.LOADS:
                with self.subTest(driver=driver, load=load):
                    record = self.bench(1, driver, *load)
                    self.assertGreaterEqual(record["server_and_network_ns"]["min"], 1e6 * DELAY_MS, record["split"])
                    # The last packet may be sent when the first has been acknowledged, and then it tells the time.
                    self.assertGreater(record["split"]["bounded"], record["split"]["sampled"] / 2)

    def test_other_answers_have_their_times(self):
        for driver in DRIVERS:
            with self.subTest(driver=driver):
                record = self.bench(4, driver, *self.LOADS[1])
                self.assertGreaterEqual(record["server_and_network_ns"]["p90"], 1e6 * DELAY_MS, record["split"])
                # A busy machine reads the answers to both late and early packets at a time now and then.
                self.assertLess(record["split"]["bounded"], 0.75 * record["split"]["sampled"], record["split"])


@unittest.skipUnless(namespace(), "this host does not allow a network namespace with a TUN device")
class Lost(unittest.TestCase):
    """Packets of the generator are lost, and TCP sends them again."""

    LOADS = {
        "connections that stay": ("-c", "2", "--rate", "20", "-d", "2s"),
        "with the kernel's times": ("-c", "2", "--rate", "20", "-d", "2s", "--timestamps", "kernel"),
        "connections that come back": ("-c", "4", "--rate", "40", "-d", "2s", "--lifetime", "500ms", "--reconnect", "10ms"),
        "a connection for each message": ("--mode", "connect", "--rate", "20", "-d", "1s"),
    }

    def test_what_was_sent_again_is_counted(self):
        for driver in DRIVERS:
            for name, load in self.LOADS.items():
                with self.subTest(driver=driver, load=name):
                    # Each third packet, so that of connections that send two some lose one.
                    found = bench("lose", 3, 0, *load, "--driver", driver, "--warmup", "0s", "--allow", "unsent")
                    again = found["record"]["wire"]["retransmissions"]
                    self.assertGreater(found["lost"], 5)
                    # Connections that are being opened at the end of the run are cut before they send again.
                    self.assertGreaterEqual(again, found["lost"] - 4)
                    # A connection that has been closed may send the last bytes again, which only the network sees.
                    self.assertLessEqual(again, found["repeated"])


if __name__ == "__main__":
    unittest.main()
