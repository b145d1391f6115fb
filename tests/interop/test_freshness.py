"""How old messages are when subscribers get them: what a socket holds for a slow subscriber, and the ages that the server reports."""

import json
import os
import subprocess
import sys
import unittest

from harness import Raw, Server, frame, text_file, wait_until
from test_v1 import RawClient
from tun_network import namespace

HERE = os.path.dirname(os.path.abspath(__file__))
CONFIGURATION = """
[[topics]]
pattern = "latest.*"
slow = "conflate"
lag_bytes = "4KiB"

[[topics]]
pattern = "fast.*"
"""
MESSAGES = 500
DELAYS_MS = (10, 50, 200)


class Sockets(unittest.TestCase):
    """A subscriber of a conflated topic that does not read for a while."""

    def stale_bytes(self, *flags):
        """The bytes that are older than the latest message when the subscriber reads on, once it has fallen behind before."""
        with text_file(CONFIGURATION) as path, Server("--config", path, *flags) as server:
            with RawClient(server, 4096).open() as slow, RawClient(server).open() as publisher:
                slow.subscribe("latest.price")
                for first in (0, MESSAGES):
                    for number in range(first, first + MESSAGES):
                        publisher.ask(type="publish", id=number, topic="latest.price", key="k", data=[number, "x" * 4_000])
                        self.assertEqual(publisher.hear()["type"], "published")
                    self.assertEqual(server.stats()["node"]["blocked"], 1)
                    stale = 0
                    while (number := slow.hear()["data"][0]) < first + MESSAGES - 1:
                        stale += 4_000
                        self.assertLess(number, first + MESSAGES)
                return stale

    def test_a_socket_holds_little_for_a_subscriber_that_has_fallen_behind(self):
        for driver in ("uring", "epoll"):
            with self.subTest(driver):
                limited = self.stale_bytes(f"--driver={driver}")
                unlimited = self.stale_bytes(f"--driver={driver}", "--notsent-lowat=0")
                # A window, the option's bytes, and what the kernel allocates at once; a send buffer has twice as much.
                self.assertLess(limited, 112 * 1024)
                self.assertGreater(unlimited, limited + 32 * 1024)


class Ages(unittest.TestCase):
    def sampled(self, server, topic, pattern):
        """The ages of the pattern, once some deliveries were sampled."""
        with Raw(server).open(f"/broadcast/{topic}") as publisher:
            subscribers = [Raw(server).open(f"/broadcast/{topic}") for _ in range(4)]

            def ages():
                for _ in range(50):
                    publisher.send(frame(1, b"tick"))
                for subscriber in subscribers:
                    for _ in range(50):
                        subscriber.read_frame()
                found = server.stats()["node"]["delivery_ages"].get(pattern)
                return found if found and found["acknowledged"]["count"] >= 3 else None

            found = wait_until(ages, "samples")
            for subscriber in subscribers:
                subscriber.close()
            return found

    def test_ages_are_reported_by_pattern(self):
        for driver in ("uring", "epoll"):
            with self.subTest(driver), text_file(CONFIGURATION) as path:
                with Server("--config", path, f"--driver={driver}") as server:
                    self.sampled(server, "prices", "*")
                    self.sampled(server, "fast.price", "fast.*")
                    stats = server.stats()
                    ages = stats["node"]["delivery_ages"]
                    self.assertEqual(sorted(ages), ["*", "fast.*"])
                    for shard in stats["shards"]:
                        self.assertEqual(shard["delivery_ages"].keys() - ages.keys(), set())
                    _, _, metrics = server.get("/metrics")
                    for pattern in ages:
                        self.assertIn(f'echoring_delivery_age_seconds_count{{topics="{pattern}",until="acknowledged"}}', metrics.decode())
                    _, _, report = server.get("/topics/fast.price")
                    self.assertEqual(json.loads(report)["delivery_age"]["topics"], "fast.*")

    @unittest.skipUnless(namespace(), "this host does not allow a network namespace with a TUN device")
    def test_a_delay_of_the_network_is_in_the_age(self):
        for driver in ("uring", "epoll"):
            for delay_ms in DELAYS_MS:
                with self.subTest(driver, delay_ms=delay_ms):
                    script = [sys.executable, os.path.join(HERE, "delayed_network.py"), str(delay_ms), f"--driver={driver}"]
                    run = subprocess.run([*namespace(), *script], capture_output=True, text=True, timeout=120, check=False)
                    self.assertEqual(run.returncode, 0, run.stderr)
                    ages = json.loads(run.stdout)
                    buckets = ages["acknowledged"]["buckets"]
                    # The least of a bucket whose bounds are a twelfth apart, and the median.
                    self.assertGreaterEqual(2 ** (buckets[0][0] / 8), delay_ms / 1000, buckets)
                    count, rank = ages["acknowledged"]["count"], 0
                    for bucket, times in buckets:
                        rank += times
                        if 2 * rank >= count:
                            median_s = 2 ** (bucket / 8)
                            break
                    self.assertLess(median_s, 1.1 * delay_ms / 1000 + 0.1, buckets)


if __name__ == "__main__":
    unittest.main()
