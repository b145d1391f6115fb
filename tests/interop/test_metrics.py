"""`GET /metrics` with promtool and a real Prometheus, and the dashboard and the alert rules of `packaging`."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import unittest
import urllib.parse
import urllib.request

from harness import BINARY, PATIENCE_S, Program, Raw, Server, frame, wait_until

PACKAGING = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "packaging")
DASHBOARD = os.path.join(PACKAGING, "grafana", "echoring.json")
RULES = os.path.join(PACKAGING, "prometheus", "echoring.rules.yml")
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
MISSING = "no Prometheus (Debian: apt-get install prometheus)"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
PROTOBUF = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
# Alerts and panels about what the server of these tests has not: TLS, a key set, a cluster, back ends, webhooks, and another driver.
NOT_HERE = (
    "EchoringBackendFails",
    "EchoringBackendQueueNearLimit",
    "EchoringCertificateExpires",
    "EchoringClusterDisconnected",
    "EchoringClusterLinkBehind",
    "EchoringClusterNotOpen",
    "EchoringClusterSettingsDiffer",
    "EchoringDegraded",
    "EchoringDurableTopicsFail",
    "EchoringKeySetMissing",
    "EchoringKeySetStale",
    "EchoringWebhookEventsLost",
    "EchoringWebhookQueueNearLimit",
    "EchoringWebhookReceiverDown",
    "Age of the oldest unacknowledged message",
    "Age of the key set",
    "Bytes for other nodes",
    "Events for back ends, by path and result",
    "Queues of back ends",
    "Queues of webhooks",
    "Webhooks: delivered and lost events, failed requests",
    "Round trip between nodes",
    "Packets sent again between nodes",
    "Time until certificates expire",
)
# Long enough for two scrapes, short enough for a test.
RATE_INTERVAL = "10s"


def samples(text):
    """The samples of a text format: name and labels, and the value."""
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def metrics(server, accept=None):
    status, headers, body = server.get("/metrics", headers={"Accept": accept} if accept else None)
    assert status == 200, (status, body)
    return headers, body


def documented_metrics():
    """The names in the list of the reference."""
    page = os.path.join(PACKAGING, "..", "docs", "reference", "metrics.md")
    with open(page, encoding="utf-8") as file:
        return set(re.findall(r"^\| `((?:echoring|process)_\w+)` \|", file.read(), re.MULTILINE))


def run_promtool(*arguments, **options):
    return subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, timeout=PATIENCE_S, **options)


class Exposition(unittest.TestCase):
    """The answer itself."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server("--shards", "2")
        cls.addClassCleanup(cls.server.__exit__)

    def text(self):
        return metrics(self.server)[1].decode()

    def test_formats_are_negotiated(self):
        headers, plain = metrics(self.server)
        self.assertEqual(headers["Content-Type"], "text/plain; version=0.0.4; charset=utf-8")
        self.assertIn(b"# TYPE echoring_messages_total counter\n", plain)
        self.assertNotIn(b"# EOF", plain)
        headers, opened = metrics(self.server, OPEN_METRICS)
        self.assertEqual(headers["Content-Type"], "application/openmetrics-text; version=1.0.0; charset=utf-8")
        self.assertEqual(headers["Vary"], "accept")
        self.assertIn(b"# TYPE echoring_messages counter\n", opened)
        self.assertTrue(opened.endswith(b"# EOF\n"))
        headers, native = metrics(self.server, PROTOBUF)
        self.assertTrue(headers["Content-Type"].startswith("application/vnd.google.protobuf;"))
        self.assertIn(b"echoring_messages_total", native)

    @unittest.skipUnless(PROMTOOL, MISSING)
    def test_promtool_finds_nothing_to_complain_about(self):
        checked = run_promtool("check", "metrics", input=self.text())
        self.assertEqual((checked.returncode, checked.stdout, checked.stderr), (0, "", ""))

    def test_messages_and_bytes_are_counted_by_route_and_direction(self):
        before = samples(self.text())
        for path in ("/echo", "/broadcast/a?self=1"):
            with Raw(self.server).open(path) as peer:
                peer.send(frame(1, b"hello"))
                self.assertEqual(peer.read_frame(), (0x81, b"hello"))
        after = samples(self.text())
        for route in ("echo", "broadcast"):
            for direction, length in (("in", 11), ("out", 7)):
                labels = f'{{route="{route}",direction="{direction}"}}'
                grown = {name: after[name + labels] - before[name + labels] for name in ("echoring_messages_total",)}
                self.assertEqual(grown, {"echoring_messages_total": 1}, labels)
                name = "echoring_bytes_total" + labels
                self.assertGreaterEqual(after[name] - before[name], length)
        requests = 'echoring_bytes_total{route="none",direction="in"}'
        self.assertGreater(after[requests], before[requests])

    def test_handshakes_are_counted_by_outcome_and_ends_by_code_and_cause(self):
        with Raw(self.server) as peer:
            self.assertEqual(peer.upgrade("/nowhere")[0], 404)
            peer.read_end()
        with Raw(self.server).open() as peer:
            peer.send(frame(1, b"bare", mask=None))
            self.assertEqual(peer.read_close(), 1002)
        with Raw(self.server).open() as peer:
            peer.send(frame(8, b"\x0f\xa0"))
            peer.read_end()
        with Raw(self.server) as peer:
            peer.send(b"GET /echo")
        expected = {
            'echoring_handshakes_total{outcome="refused"}',
            'echoring_handshakes_total{outcome="opened"}',
            'echoring_handshakes_total{outcome="abandoned"}',
            'echoring_http_responses_total{code="404"}',
            'echoring_closes_total{code="1002",cause="offence"}',
            'echoring_closes_total{code="4xxx",cause="peer"}',
        }
        # A connection may have ended for the client before the shard has counted its end.
        wait_until(lambda: all(samples(self.text()).get(name, 0) > 0 for name in expected), expected)

    def test_stats_and_metrics_agree(self):
        with Raw(self.server).open() as peer:
            peer.send(frame(2, b"x"))
            peer.read_frame()
            # A connection of another test may still end between the two.
            stats, counted = wait_until(self.of_one_moment, "figures that stay")
        sums = {}
        for name, value in counted.items():
            plain = name.partition("{")[0]
            sums[plain] = sums.get(plain, 0) + value
        self.assertEqual(sums["echoring_messages_total"], stats["messages_in"] + stats["messages_out"])
        self.assertEqual(sums["echoring_connections"], stats["connections"])
        self.assertEqual(sums.get("echoring_closes_total", 0), sum(stats["closes"].values()))

    def of_one_moment(self):
        """The figures of `/stats` and of `/metrics`, unless something was counted meanwhile."""
        before = self.server.stats()["node"]
        counted = samples(self.text())
        names = ("messages_in", "messages_out", "connections", "closes")
        after = self.server.stats()["node"]
        return (after, counted) if all(before[name] == after[name] for name in names) else None

    def test_no_label_is_chosen_by_a_client(self):
        mark, series = "chosen-by-a-client", []
        fields = f"User-Agent: {mark}\r\nCookie: {mark}=1\r\nX-Forwarded-For: 192.0.2.77\r\n"
        for number in range(20):
            request = (
                f"GET /broadcast/{mark}-{number}?{mark}=1 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n{fields}"
                f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {'A' * 22}==\r\n\r\n"
            )
            for head in (
                request.replace(f"?{mark}=1", ""),
                request.replace("/broadcast/", "/"),
                request.replace("GET ", f"{mark.upper()} "),
                request.replace("GET /broadcast", "GET /sse").replace("Upgrade: websocket\r\n", ""),
                request.replace("13", mark),
            ):
                with Raw(self.server) as peer:
                    peer.send(head.encode())
                    if peer.read_head()[0] == 101:
                        peer.send(frame(1, mark.encode()) + frame(8, (4100 + number).to_bytes(2) + mark.encode()))
                        peer.read_end()
            # The first rounds have made every series; later rounds add none.
            if number >= 5:
                series.append(set(samples(self.text())))
        self.assertEqual(set.union(*series) - set.intersection(*series), set())
        text = self.text()
        self.assertNotIn(mark, text.lower())
        self.assertNotRegex(text, r'"[^"]*(127\.0\.0\.1|192\.0\.2\.77)[^"]*"')
        codes = set(re.findall(r'echoring_closes_total\{code="([34]\d\d\d)"', text))
        self.assertLessEqual(codes, {"3008", "4001", "4003", "4008", "4009", "4010"})

    def test_the_reference_has_every_metric(self):
        exposed = set(re.findall(r"^# TYPE (\w+) ", self.text(), re.MULTILINE))
        self.assertEqual(exposed, documented_metrics())


class Prometheus(Program):
    """Runs Prometheus, scraping `targets` every second, or every `scrape_s`."""

    def __init__(self, targets, *flags, scrape_s=1):
        self.directory = tempfile.TemporaryDirectory(prefix="prometheus-")
        config = os.path.join(self.directory.name, "prometheus.yml")
        with open(config, "w", encoding="utf-8") as file:
            # JSON is YAML.
            json.dump(
                {
                    "global": {"scrape_interval": f"{scrape_s}s", "evaluation_interval": "1s"},
                    "rule_files": [os.path.abspath(RULES)],
                    "scrape_configs": [{"job_name": "echoring", "static_configs": [{"targets": targets}]}],
                },
                file,
            )
        data = f"--storage.tsdb.path={self.directory.name}/data"
        super().__init__(PROMETHEUS, f"--config.file={config}", data, "--web.listen-address=127.0.0.1:0", *flags)
        try:
            self.address = self.stderr.wait_for(r"Listening on.*address=(127\.0\.0\.1:\d+)")[1]
            self.stderr.wait_for("Server is ready to receive web requests")
        except BaseException:
            self.__exit__()
            raise

    def api(self, path, **query):
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            return json.load(answer)["data"]

    def query(self, expression):
        return self.api("query", query=expression)["result"]

    def __exit__(self, *_):
        super().__exit__()
        self.directory.cleanup()


@contextlib.contextmanager
def loaded_server():
    """A server of two shards under a load of echoes and broadcasts."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Server("--shards", "2", "--compress", "on"))
        load = [
            [server.url("/echo"), "--mode", "echo"],
            [server.url("/broadcast/load"), "--mode", "broadcast"],
        ]
        for arguments in load:
            command = [BINARY, "bench", *arguments, "-c", "8", "--duration", "10m", "--rate", "200", "--warmup", "0s"]
            bench = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            stack.callback(lambda bench=bench: (bench.kill(), bench.wait()))
        yield server


def keep_refusing(server, stop):
    """Makes requests that are refused, answered, and connections that end, until it is stopped."""
    while not stop.wait(0.2):
        with Raw(server) as peer:
            peer.upgrade("/nowhere")
            peer.read_end()
        with Raw(server) as peer:
            peer.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            peer.read_end()
        with Raw(server).open() as peer:
            peer.send(frame(8, b"\x03\xe8"))
            peer.read_end()


def dashboard_queries():
    """The queries of the dashboard, with their panels."""
    with open(DASHBOARD, encoding="utf-8") as file:
        panels = json.load(file)["panels"]
    for panel in panels:
        for target in panel.get("targets", []):
            query = target["expr"].replace("$__rate_interval", RATE_INTERVAL).replace("$instance", ".+")
            yield panel["title"], query


@unittest.skipUnless(PROMETHEUS, MISSING)
class Scraped(unittest.TestCase):
    """The queries of the dashboard and of the rules against what Prometheus has scraped."""

    flags = ()

    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(loaded_server())
        stop = threading.Event()
        others = threading.Thread(target=keep_refusing, args=(cls.server, stop))
        others.start()
        cls.addClassCleanup(others.join)
        cls.addClassCleanup(stop.set)
        target = "{}:{}".format(*cls.server.admin)
        cls.prometheus = cls.enterClassContext(Prometheus([target], *cls.flags))
        scraped = lambda: cls.prometheus.query(f"rate(echoring_uptime_seconds[{RATE_INTERVAL}]) > 0.5")
        wait_until(scraped, "several scrapes")
        broadcast = lambda: cls.prometheus.query(f"rate(echoring_deliveries_sent_total[{RATE_INTERVAL}]) > 0")
        wait_until(broadcast, "deliveries")

    def test_the_target_is_up_and_its_metrics_have_no_errors(self):
        (target,) = self.prometheus.api("targets")["activeTargets"]
        self.assertEqual((target["health"], target["lastError"]), ("up", ""))

    def test_every_query_of_the_dashboard_has_a_result(self):
        for panel, query in dashboard_queries():
            with self.subTest(panel=panel, query=query):
                if panel in NOT_HERE:
                    self.assertLessEqual(set(re.findall(r"\w+(?=\{)", query)), documented_metrics())
                    self.assertEqual(self.prometheus.query(query), [])
                else:
                    wait_until(lambda: self.prometheus.query(query), query)

    def test_values_of_the_dashboard_are_numbers(self):
        for panel, query in dashboard_queries():
            if "histogram_quantile" in query:
                values = [float(result["value"][1]) for result in self.prometheus.query(query)]
                with self.subTest(panel=panel, query=query):
                    self.assertTrue(all(0 < value < PATIENCE_S for value in values), values)

    def test_every_rule_is_evaluated_and_its_metrics_exist(self):
        def evaluated():
            (group,) = self.prometheus.api("rules")["groups"]
            return all(rule["health"] != "unknown" for rule in group["rules"]) and group["rules"]

        for rule in wait_until(evaluated, "evaluated rules"):
            self.assertEqual((rule["health"], rule.get("lastError", "")), ("ok", ""), rule["name"])
            for selector in re.findall(r"\w+\{[^}]*\}", rule["query"]):
                if rule["name"] in NOT_HERE:
                    continue
                if selector.startswith("echoring_tick_seconds"):
                    selector = '{__name__=~"echoring_tick_seconds(_bucket)?"}'
                self.assertTrue(self.prometheus.query(selector), f"{rule['name']}: no {selector}")

    def test_a_server_under_moderate_load_raises_no_critical_alert(self):
        critical = self.prometheus.query('ALERTS{severity="critical"}')
        self.assertEqual(critical, [])


class ScrapedNatively(Scraped):
    """The same with native histograms, which travel in protobuf."""

    flags = ("--enable-feature=native-histograms",)

    def test_quantiles_come_from_native_histograms(self):
        for metric in ("echoring_tick_seconds", "echoring_receive_to_send_seconds"):
            count = self.prometheus.query(f"histogram_count({metric})")
            self.assertTrue(count, metric)
            (result,) = self.prometheus.query(f"histogram_quantile(0.5, {metric})")
            self.assertTrue(0 < float(result["value"][1]) < PATIENCE_S, result)


if __name__ == "__main__":
    unittest.main()
