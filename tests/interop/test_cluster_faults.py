"""Faults between nodes and NATS under load that never pauses: the cluster is whole soon after, and operators see a link that is behind."""

import asyncio
import json
import subprocess
import unittest

import test_cluster
from cluster_faults import FaultyCluster
from harness import BINARY, wait_until_async

# The promise for a quiet machine, and what a busy one may add.
WHOLE_S, SLACK_S = 5, 10
# A message each 31 ms.
PUBLICATIONS_PER_S = 32


@unittest.skipIf(test_cluster.NATS is None, "nats-server is not installed")
class UnderLoad(unittest.TestCase):
    def walk(self, faults, time_s):
        asyncio.run(self.walk_all(faults, time_s))

    async def walk_all(self, faults, time_s):
        cluster = await asyncio.to_thread(FaultyCluster, 8, durable=2, names="ab")
        try:
            await cluster.load(PUBLICATIONS_PER_S, subscribers=16, roam_s=3600)
            for number, fault in enumerate(faults):
                await cluster.plant(fault, "ab"[number % 2], time_s)
                took = await cluster.whole(WHOLE_S + SLACK_S)
                links = await asyncio.to_thread(cluster.links)
                self.assertIsInstance(took, float, f"after {fault}: {took}; {json.dumps(links)}")
                print(f"  {fault}: whole after {took:.1f} s", flush=True)
            self.assertEqual(cluster.found(), [])
        finally:
            await cluster.close()

    def test_connections_that_break_are_made_good(self):
        self.walk(("reset", "cut", "reset", "cut", "restart"), 1)

    def test_links_that_are_silent_or_slow_are_made_good(self):
        self.walk(("half-open", "delay", "rate", "half-open"), 2)


@unittest.skipIf(test_cluster.NATS is None, "nats-server is not installed")
class Behind(unittest.TestCase):
    @test_cluster.asynchronous
    async def test_a_link_that_is_behind_is_seen_by_operators(self):
        # Heartbeats are few, so that a node that is silent stays a member.
        times = ("--cluster-heartbeat", "1s", "--cluster-member-timeout", "60s")
        cluster = await asyncio.to_thread(FaultyCluster, 6, names="ab", times=times)
        try:
            await cluster.load(PUBLICATIONS_PER_S, subscribers=12, roam_s=3600)
            node = cluster.nodes["a"]
            link = node.status()["members"][0]
            self.assertEqual((link["behind"], link["resets"]), (False, 0))
            self.assertGreater(link["round_trip_us"], 0)
            # The node is connected, and hears nothing of the other.
            cluster.relays["b"].may_be_sent.clear()
            link = await self.until(node, True)
            self.assertGreaterEqual(link["unacknowledged_ms"], 5000)
            self.assertGreater(link["unacknowledged_bytes"], 0)
            self.assertGreater(link["retransmissions"], 0)
            answer = (503, b"a link of the cluster is behind\n")
            for address in (None, (node.host, node.port)):
                status, _, body = await asyncio.to_thread(node.get, "/readyz", address=address)
                self.assertEqual((status, body), answer)
            self.assertEqual(json.loads(node.get("/stats")[2])["state"], "serving")
            command = [BINARY, "cluster", "status", "--admin", "{}:{}".format(*node.admin)]
            status = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
            self.assertEqual((status.returncode, "link behind" in status.stdout), (1, True), status)
            metrics = node.get("/metrics")[2].decode()
            for name in ("unacknowledged_age_seconds", "unacknowledged_bytes", "retransmissions_total", "round_trip_seconds"):
                self.assertRegex(metrics, rf'echoring_cluster_link_{name}{{peer="b"}} [0-9.]*[1-9]')
            cluster.relays["b"].may_be_sent.set()
            await self.until(node, False)
            self.assertEqual(node.get("/readyz")[0], 200)
            self.assertIsInstance(await cluster.whole(WHOLE_S + SLACK_S), float)
        finally:
            cluster.relays["b"].may_be_sent.set()
            await cluster.close()

    async def until(self, node, is_behind):
        async def link():
            (link, *_) = (await asyncio.to_thread(node.status))["members"]
            return link["behind"] == is_behind and link

        return await wait_until_async(link, f"a link that is behind: {is_behind}")


if __name__ == "__main__":
    unittest.main()
