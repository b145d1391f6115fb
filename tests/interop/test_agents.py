"""One load of several agents, which meet their coordinator at a NATS server."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import tempfile
import unittest

from async_server import AsyncServer
from fault_proxy import FaultProxy
from harness import BINARY, PATIENCE_S, Log, Server
from test_cluster import Nats
from test_sessions import PATIENT, SHOP
from websockets.asyncio.server import serve

NAMES = ("north", "south", "west")
COMMON = ("--warmup", "200ms", "--json", "-", "--allow-saturated")


class Agent:
    """`echoring agent`, ready for coordinators. Its monotonic clock may be `ahead_s` ahead of the others'."""

    def __init__(self, nats, name, *flags, ahead_s=0):
        namespace = ["unshare", "--time", f"--monotonic={ahead_s}", "--fork"] if ahead_s else []
        command = [*namespace, BINARY, "agent", "--nats", nats.url, "--name", name, "--threads", "1", *flags]
        self.name = name
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self.log = Log(self.process.stderr)
        self.log.wait_for(f"agent {name} waits at")

    def signal(self, number):
        os.killpg(self.process.pid, number)

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self.process.wait(PATIENCE_S)


class Paths(AsyncServer):
    """Echoes, and keeps the paths that were asked for."""

    def __init__(self):
        super().__init__()
        self.paths = []

    async def listen(self):
        return serve(self._echo, "127.0.0.1", 0, ping_interval=None)

    async def _echo(self, client):
        self.paths.append(client.request.path)
        async for message in client:
            await client.send(message)


class AgentsTest(unittest.TestCase):
    AHEAD_S = (0, 0, 0)

    @classmethod
    def setUpClass(cls):
        cls.nats = Nats()
        cls.addClassCleanup(cls.nats.close)
        cls.nats.url = f"nats://127.0.0.1:{cls.nats.port}"
        cls.server = cls.enterClassContext(Server("--shards", "1"))
        cls.agents = {}
        cls.start_agents()

    @classmethod
    def start_agents(cls):
        for name, ahead_s in zip(NAMES, cls.AHEAD_S, strict=True):
            cls.agents[name] = Agent(cls.nats, name, ahead_s=ahead_s)
            cls.addClassCleanup(cls.agents[name].close)

    def command(self, url, *flags, agents=3, patience="60s"):
        meeting = ("--agents", str(agents), "--agents-timeout", patience, "--nats", self.nats.url)
        length = () if "-d" in flags else ("-d", "2s")
        return [BINARY, "bench", url, *meeting, *COMMON, *length, *flags]

    def bench(self, url, *flags, code=0, **meeting):
        command = self.command(url, *flags, **meeting)
        run = subprocess.run(command, capture_output=True, text=True, timeout=3 * PATIENCE_S)
        self.assertEqual(run.returncode, code, run.stderr)
        record = json.loads(run.stdout)["runs"][0] if run.stdout else None
        return record, run.stderr

    @contextlib.contextmanager
    def measuring(self, *flags):
        """A run that measures, and what its stderr says then."""
        command = self.command(self.server.url(""), *flags)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            log = Log(process.stderr)
            log.wait_for("measuring")
            yield process, log
            if process.poll() is None:
                process.wait(3 * PATIENCE_S)

    def sampled(self, *flags):
        """The record of a run of which all messages are sampled, and their rows."""
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "messages.csv")
            record, _ = self.bench(self.server.url(""), *flags, "--samples", "1/1", "--samples-file", file)
            with open(file, newline="") as lines:
                rows = list(csv.DictReader(lines))
        self.assertEqual(record["samples"], {"share": 1, "picked": len(rows), "left_out": 0})
        self.assertEqual(len(rows), record["response_ns"]["count"])
        names = [agent["name"] for agent in record["agents"]]
        for row in rows:
            self.assertEqual(row["agent"], names[int(row["connection"]) % 3])
            self.assertEqual((row["outcome"], row["weight"]), ("ok", "1"))
        return record, rows

    def check(self, record, connections, rate=None):
        """The whole run is in the record, and clean."""
        agents = record["agents"]
        self.assertEqual(sorted(agent["name"] for agent in agents), sorted(NAMES))
        self.assertEqual(sum(agent["connections"] for agent in agents), connections)
        self.assertLessEqual(max(agent["connections"] for agent in agents) - min(agent["connections"] for agent in agents), 1)
        self.assertEqual([agent["opened"] for agent in agents], [agent["connections"] for agent in agents])
        self.assertEqual(sum(agent["messages"] for agent in agents), record["messages"])
        self.assertEqual(record["connections"]["opened"], connections)
        self.assertEqual(len(record["generator"]["threads"]), 3)
        self.assertEqual(set(record["integrity"].values()), {0}, record)
        self.assertEqual(record["errors"], {})
        if rate:
            self.assertAlmostEqual(record["response_ns"]["count"], rate * record["duration_s"], delta=3)
            self.assertEqual(record["config"]["rate"], rate)


class Agents(AgentsTest):
    SECONDS = 80

    def test_a_rate_is_shared_out_exactly(self):
        record, stderr = self.bench(self.server.url(""), "-c", "31", "--rate", "3000")
        self.check(record, 31, 3_000)
        self.assertEqual(record["config"]["threads"], 3)
        self.assertIn("agents: ", stderr)
        # All count from the same beginning. Answers may come a second later on a busy machine.
        self.assertEqual(len(record["intervals"]), 2)
        self.assertEqual(sum(interval["messages"] for interval in record["intervals"]), record["messages"])

    def test_sessions_arrive_at_all_agents(self):
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as protocol:
            protocol.write(SHOP)
            protocol.flush()
            flags = ("--mode", "session", "--protocol", protocol.name, "-c", "60", "--rate", "90", *PATIENT)
            record, _ = self.bench(self.server.url("/echo"), *flags)
        sessions, requests = record["sessions"], record["protocol"]["requests"]
        self.assertEqual(sessions["started"], 180)
        self.assertEqual(sessions["completed"] + sessions["unfinished"], 180, sessions)
        self.assertEqual(set(record["integrity"].values()), {0}, record)
        self.assertEqual([request["name"] for request in requests], ["look", "buy"])
        agents = record["agents"]
        self.assertEqual(sorted(agent["name"] for agent in agents), sorted(NAMES))
        self.assertTrue(all(agent["messages"] > 0 for agent in agents), agents)

    def test_a_closed_loop_and_random_arrivals(self):
        record, _ = self.bench(self.server.url(""), "-c", "9", "--depth", "4")
        self.check(record, 9)
        record, _ = self.bench(self.server.url(""), "-c", "9", "--rate", "2000", "--arrivals", "poisson")
        self.check(record, 9)
        self.assertAlmostEqual(record["response_ns"]["count"], 4_000, delta=400)

    def test_new_connections(self):
        record, _ = self.bench(self.server.url(""), "--mode", "connect", "--rate", "300/s")
        self.assertAlmostEqual(record["response_ns"]["count"], 600, delta=3)
        self.assertEqual(set(record["integrity"].values()), {0})

    def test_a_storm_of_connections_that_do_not_publish(self):
        record, _ = self.bench(self.server.url(""), "--mode", "storm", "-c", "30", "--reconnect", "20ms..200ms")
        self.assertEqual((record["storm"]["cut"], record["storm"]["back"]), (30, 30))
        self.assertEqual(record["reconnects"]["not_back"], 0)

    def test_each_row_of_the_data_is_taken_once(self):
        rows = [f"user{number}" for number in range(20)]
        with Paths() as server, tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
            # More than NATS takes in one message.
            file.write("\n".join(["name,ballast", *(f"{row},{100_000 * 'x'}" for row in rows)]))
            file.flush()
            url = f"ws://127.0.0.1:{server.port}/{{{{data.name}}}}"
            record, _ = self.bench(url, "-c", "20", "--rate", "200", "--data", file.name, "--data-order", "once")
            self.check(record, 20)
            self.assertEqual(sorted(server.paths), sorted(f"/{row}" for row in rows))

    def test_subscribers_follow_publishers_of_other_agents(self):
        flags = ("--mode", "broadcast", "-c", "32", "--topics", "2", "--publishers", "5", "--rate", "400")
        record, _ = self.bench(self.server.url(""), *flags)
        self.check(record, 32)
        self.assertEqual(record["broadcast"]["reach"], 1)
        # Of 27 subscribers 14 are of the topic with three publishers.
        self.assertAlmostEqual(record["response_ns"]["count"], 400 * 2 * (3 * 14 + 2 * 13) / 5, delta=60)

    def test_messages_that_are_lost_between_agents_are_counted(self):
        upstream = self.server.url("/broadcast/news")
        with FaultProxy(upstream, b".{40}", spared=3, lost=50, duplicated=70) as proxy:
            flags = ("--mode", "broadcast", "-c", "12", "--publishers", "2", "--rate", "300", "--allow", "lost,duplicated")
            record, _ = self.bench(proxy.url, *flags)
            found = {kind: count for kind, count in record["integrity"].items() if count}
            self.assertGreater(proxy.planted["lost"], 20)
            self.assertEqual(found, {kind: proxy.planted[kind] for kind in ("lost", "duplicated")})

    def test_conditions_are_those_of_the_whole(self):
        for condition, code in (("messages<5500", 0), ("messages>5500", 1), ("p99>60s", 0)):
            self.bench(self.server.url(""), "-c", "9", "--rate", "3000", "--fail-if", condition, code=code)

    def test_the_server_is_measured_beside_the_agents(self):
        record, _ = self.bench(self.server.url(""), "-c", "9", "--rate", "3000", "--server-pid", str(self.server.pid))
        self.assertGreater(record["server"]["cpu_ns_per_message"], 100)
        self.assertGreater(record["server"]["rss_bytes"], 1 << 20)
        samples = record["timeline"]["server"]
        # One in each of 20 slices, and at both ends; a busy machine misses some.
        self.assertGreater(len(samples["at_s"]), 2)
        self.assertLess(samples["at_s"][0], 1.5)
        self.assertGreater(samples["at_s"][-1], 1.9)
        self.assertEqual(samples["cpu_ns"], sorted(samples["cpu_ns"]))
        self.assertEqual(len(samples["rss_bytes"]), len(samples["at_s"]))

    def test_samples_of_all_agents_are_in_one_file(self):
        # More than NATS takes in one message.
        record, rows = self.sampled("-c", "31", "--rate", "15000")
        self.check(record, 31, 15_000)
        due = [int(row["intended_ns"]) for row in rows]
        self.assertEqual(due, sorted(due))
        self.assertEqual(len({(row["connection"], row["sequence"]) for row in rows}), len(rows))

    def test_samples_of_broadcasts_are_of_the_agents_that_received_them(self):
        record, rows = self.sampled("--mode", "broadcast", "-c", "12", "--publishers", "2", "--rate", "100")
        self.check(record, 12)
        deliveries = {(row["connection"], row["publisher"], row["sequence"]) for row in rows}
        self.assertEqual(len(deliveries), len(rows))
        self.assertEqual({int(row["publisher"]) for row in rows}, {0, 1})

    def test_repetitions_are_made_by_agents(self):
        record, _ = self.bench(self.server.url(""), "-c", "9", "-d", "1s", "--rate", "300", "--repeat", "2")
        self.assertEqual(record["repetition"], {"number": 1, "of": 2, "side": "a"})

    def test_clocks_are_compared(self):
        record, _ = self.bench(self.server.url(""), "-c", "9", "--rate", "300")
        for agent in record["agents"]:
            self.assertLessEqual(abs(agent["clock_behind_ns"]), agent["clock_uncertainty_ns"] + 1)
            self.assertLess(agent["clock_uncertainty_ns"], 1_000_000_000)

    def test_too_few_agents_are_told(self):
        flags = ("-c", "9")
        _, stderr = self.bench(self.server.url(""), *flags, agents=4, patience="5s", code=3)
        self.assertRegex(stderr, r"error: 3 of 4 agents answer \((north|south|west), .*\): start them with echoring agent")
        unknown = ("--nats-prefix", "other")
        _, stderr = self.bench(self.server.url(""), *flags, *unknown, patience="1s", code=3)
        self.assertIn("0 of 3 agents answer (none)", stderr)

    def test_a_server_that_is_not_there_is_told(self):
        _, stderr = self.bench("ws://127.0.0.1:1", "-c", "9", code=3)
        self.assertRegex(stderr, r"error: agent \w+: no connection to ws://127\.0\.0\.1:1 could be opened")

    def test_what_cannot_be_shared_out_is_refused(self):
        url = self.server.url("")
        for flags, line in (
            (("-c", "2"), "--connections: expected at least one for each of 3 generators"),
            (("--mode", "broadcast", "-c", "9"), "--depth: with topics on several generators, publishers need a rate"),
            (("--mode", "storm", "-c", "9", "--rate", "9"), "--mode: with topics on several generators"),
            (("-c", "9", "--threads", "2"), "--threads: is an option of each agent"),
            (("-c", "9", "--repeat", "2", "--against", url), "--against: not with --agents"),
        ):
            with self.subTest(flags):
                _, stderr = self.bench(url, *flags, code=2)
                self.assertIn(line, stderr)

    def test_an_agent_opens_only_what_it_allows(self):
        for flag, what in (("--unix-socket=/nonexistent", "unix-sockets"), ("--proxy=http://127.0.0.1:1", "proxies")):
            _, said = self.bench(self.server.url(""), flag, code=3)
            self.assertIn(f"--allow {what}", said)

    def test_an_agent_ends_after_one_coordinator(self):
        once = Agent(self.nats, "once", "--once", "--nats-prefix", "apart")
        self.addCleanup(once.close)
        flags = ("--nats-prefix", "apart", "-c", "3", "--rate", "300")
        record, _ = self.bench(self.server.url(""), *flags, agents=1)
        self.assertEqual([agent["name"] for agent in record["agents"]], ["once"])
        self.assertEqual(once.process.wait(PATIENCE_S), 0)


class Ends(AgentsTest):
    """What happens when somebody ends. Each test has agents of its own."""

    SECONDS = 60

    @classmethod
    def start_agents(cls):
        pass

    def setUp(self):
        for name in NAMES:
            self.agents[name] = Agent(self.nats, name)
            self.addCleanup(self.agents[name].close)

    def test_a_signal_to_an_agent_ends_the_run_everywhere(self):
        with self.measuring("-c", "9", "--rate", "300", "-d", "1m") as (process, _):
            self.agents["south"].signal(signal.SIGINT)
            record = json.load(process.stdout)["runs"][0]
        self.assertEqual(process.returncode, 130)
        self.assertTrue(record["interrupted"])
        self.assertLess(record["duration_s"], 50)
        self.assertEqual(set(record["integrity"].values()), {0})
        self.assertEqual(self.agents["south"].process.wait(PATIENCE_S), 130)
        # The others are ready, and end quietly.
        self.bench(self.server.url(""), "-c", "9", "--rate", "300", agents=2)
        self.agents["north"].signal(signal.SIGTERM)
        self.assertEqual(self.agents["north"].process.wait(PATIENCE_S), 0)

    def test_the_server_of_a_run_that_ends_early_is_measured_until_then(self):
        with self.measuring("-c", "9", "--rate", "3000", "-d", "1m", "--server-pid", str(self.server.pid)) as (process, log):
            log.wait_for("measuring, 5[0-8] s left")
            process.send_signal(signal.SIGINT)
            record = json.load(process.stdout)["runs"][0]
        self.assertGreater(record["server"]["cpu_ns_per_message"], 100)
        self.assertAlmostEqual(record["timeline"]["server"]["at_s"][-1], record["duration_s"], delta=2)

    def test_an_interrupted_coordinator_ends_the_run_everywhere(self):
        with self.measuring("-c", "9", "--rate", "300", "-d", "1m") as (process, _):
            process.send_signal(signal.SIGINT)
            record = json.load(process.stdout)["runs"][0]
        self.assertEqual(process.returncode, 130)
        self.assertEqual(sum(agent["opened"] for agent in record["agents"]), 9)
        # And they are ready for others.
        record, _ = self.bench(self.server.url(""), "-c", "9", "--rate", "300")
        self.check(record, 9, 300)

    def test_agents_of_a_coordinator_that_died_are_ready_for_others(self):
        with self.measuring("-c", "9", "--rate", "300", "-d", "1m") as (process, _):
            process.kill()
        record, _ = self.bench(self.server.url(""), "-c", "9", "--rate", "300")
        self.check(record, 9, 300)

    def test_a_late_agent_is_named_until_it_is_back(self):
        with self.measuring("-c", "9", "--rate", "300", "-d", "4s", "--drain", "20s") as (process, log):
            self.agents["west"].signal(signal.SIGSTOP)
            log.wait_for(r"echo: waiting for 1 agent \(west\)")
            self.agents["west"].signal(signal.SIGCONT)
            record = json.load(process.stdout)["runs"][0]
        self.assertEqual(process.returncode, 0, log.lines)
        self.check(record, 9, 300)

    def test_an_agent_that_dies_is_named_with_what_it_had(self):
        with self.measuring("-c", "10", "--rate", "300", "-d", "14s") as (process, log):
            self.agents["west"].signal(signal.SIGKILL)
            record = json.load(process.stdout)["runs"][0]
        self.assertEqual(process.returncode, 1, log.lines)
        [lost] = [agent for agent in record["agents"] if agent.get("lost")]
        self.assertEqual((lost["name"], lost["lost"]), ("west", "silent for 10s"))
        self.assertIn(lost["connections"], (3, 4))
        self.assertEqual(record["errors"], {"agent west: silent for 10s": 1})
        # The others measured all of their time.
        self.assertAlmostEqual(record["response_ns"]["count"], 14 * 30 * (10 - lost["connections"]), delta=3)
        self.assertEqual(set(record["integrity"].values()), {0})


class ClocksApart(AgentsTest):
    """Agents whose monotonic clocks differ by days, as those of machines do."""

    AHEAD_S = (0, 100_000, 3_000_000)

    def test_latencies_between_agents_are_corrected(self):
        flags = ("--mode", "broadcast", "-c", "32", "--publishers", "4", "--rate", "300")
        record, _ = self.bench(self.server.url(""), *flags)
        self.check(record, 32)
        self.assertEqual(record["broadcast"]["reach"], 1)
        self.assertAlmostEqual(record["response_ns"]["count"], 300 * 2 * 28, delta=100)
        # Uncorrected, most would be as long as the histogram goes, or zero.
        self.assertTrue(0 < record["response_ns"]["p90"] < 10_000_000_000)
        self.assertEqual(
            sorted(-round(agent["clock_behind_ns"] / 1e9, -2) for agent in record["agents"]), sorted(map(float, self.AHEAD_S))
        )

    def test_samples_are_of_one_clock(self):
        record, rows = self.sampled("-c", "9", "--rate", "2000")
        self.check(record, 9, 2_000)
        due = [int(row["intended_ns"]) for row in rows]
        # An even schedule, and a beginning that differs by less than the clocks' uncertainty.
        self.assertTrue(all(0 <= at < 2_000_000_000 for at in due))
        self.assertEqual([later - earlier for earlier, later in zip(due, due[1:])], [500_000] * (len(due) - 1))
