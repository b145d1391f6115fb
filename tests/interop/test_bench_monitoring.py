"""The figures of a run in monitoring systems: scraped by a real Prometheus, with every query of the dashboard, and sent to
a collector that reads OTLP with OpenTelemetry's own messages."""

import http.server
import json
import math
import os
import queue
import re
import subprocess
import threading
import unittest

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

import test_metrics
from harness import BINARY, PATIENCE_S, Program, Server, wait_until

DASHBOARD = os.path.join(test_metrics.PACKAGING, "grafana", "echoring-bench.json")
RATE_INTERVAL = "15s"


def dashboard_queries():
    """The queries of the dashboard, with their panels."""
    with open(DASHBOARD, encoding="utf-8") as file:
        dashboard = json.load(file)
    queries = [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", [])]
    queries += [(annotation["name"], annotation["expr"]) for annotation in dashboard["annotations"]["list"]]
    for title, query in queries:
        yield title, query.replace("$__rate_interval", RATE_INTERVAL).replace("$target", ".+")


class Load(Program):
    """A load on an echo server, for as long as the block."""

    def __init__(self, url, *flags):
        super().__init__(BINARY, "bench", url, "-c", "8", "--rate", "500", "--warmup", "0s", "-d", "10m", *flags)


class Dashboard:
    """The queries of the dashboard against a Prometheus that has the figures."""

    def assert_every_query_has_a_result(self):
        for panel, query in dashboard_queries():
            with self.subTest(panel=panel, query=query):
                found = wait_until(lambda: self.prometheus.query(query), query)
                if "histogram_quantile" in query:
                    values = [float(result["value"][1]) for result in found]
                    self.assertTrue(all(0 < value < PATIENCE_S for value in values), values)


@unittest.skipUnless(test_metrics.PROMETHEUS, test_metrics.MISSING)
class Scraped(unittest.TestCase, Dashboard):
    def test_every_query_of_the_dashboard_has_a_result(self):
        server = self.enterContext(Server())
        load = self.enterContext(Load(server.url("/echo"), "--prometheus", "127.0.0.1:0"))
        address = load.stderr.wait_for(r"metrics http://(\S+)/metrics")[1]
        self.prometheus = self.enterContext(test_metrics.Prometheus([address]))
        self.assert_every_query_has_a_result()


class Collector:
    """Takes metrics over OTLP/HTTP, or answers with another status."""

    def __init__(self, status=200):
        self.requests = queue.Queue()
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.requests.put((self.path, self.headers, ExportMetricsServiceRequest.FromString(body)))
                answer = ExportMetricsServiceResponse().SerializeToString() if status == 200 else b"no\nroom"
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def all(self):
        found = []
        while not self.requests.empty():
            found.append(self.requests.get_nowait())
        return found


def attributes_of(part):
    return {attribute.key: attribute.value.string_value for attribute in part.attributes}


class Collected(unittest.TestCase):
    def setUp(self):
        self.server = self.enterContext(Server())

    def bench(self, url, *flags, **variables):
        command = [BINARY, "bench", self.server.url("/echo"), "-c", "3", "-d", "1s", "--warmup", "0s"]
        command += ["--rate", "300", "--allow-saturated", "--json", "-", "--otlp", url, *flags]
        environment = {**os.environ, **variables}
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=environment)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)["runs"][0], done.stderr

    def test_a_collector_gets_the_figures_of_the_record(self):
        collector = self.enterContext(Collector())
        run, told = self.bench(
            f"http://me:secret@{collector.address}", OTEL_EXPORTER_OTLP_HEADERS="tenant=7", OTEL_SERVICE_NAME="nightly"
        )
        self.assertNotIn("--otlp", told)
        path, headers, request = collector.all()[-1]
        self.assertEqual((path, headers["Content-Type"]), ("/v1/metrics", "application/x-protobuf"))
        self.assertEqual((headers["Authorization"], headers["Tenant"]), ("Basic bWU6c2VjcmV0", "7"))
        (resource,) = request.resource_metrics
        self.assertEqual(attributes_of(resource.resource)["service.name"], "nightly")
        (scope,) = resource.scope_metrics
        metrics = {metric.name: metric for metric in scope.metrics}
        response = metrics["echoring.bench.response"]
        self.assertEqual(response.unit, "s")
        (point,) = response.exponential_histogram.data_points
        self.assertEqual(point.count, run["response_ns"]["count"])
        self.assertEqual(sum(point.positive.bucket_counts) + point.zero_count, point.count)
        self.assertEqual(attributes_of(point), {"target": self.server.url("/echo")})
        self.assertLess(point.start_time_unix_nano, point.time_unix_nano)
        # The median lies in the bucket that has it, which is 9 % wide at most.
        below, base = 0, math.pow(2, math.pow(2, -point.scale))
        for at, count in enumerate(point.positive.bucket_counts):
            below += count
            if below >= point.count / 2:
                break
        low, high = (math.pow(base, point.positive.offset + at + end) for end in (-1, 2))
        self.assertTrue(low < run["response_ns"]["p50"] / 1e9 < high, (low, run["response_ns"], high))
        received = metrics["echoring.bench.messages_received"].sum
        self.assertTrue(received.is_monotonic)
        self.assertEqual(received.aggregation_temporality, 2, "cumulative")
        self.assertEqual(received.data_points[0].as_double, run["response_ns"]["count"])
        kinds = {attributes_of(point)["kind"] for point in metrics["echoring.bench.integrity"].sum.data_points}
        self.assertEqual(kinds, {"lost", "duplicated", "reordered", "corrupted", "late"})

    def test_a_collector_that_refuses_is_one_warning_and_no_failure(self):
        collector = self.enterContext(Collector(status=429))
        _, told = self.bench(f"http://{collector.address}/own/path")
        (line,) = (line for line in told.splitlines() if "--otlp" in line)
        requests = collector.all()
        self.assertTrue(requests)
        self.assertEqual({path for path, _, _ in requests}, {"/own/path"})
        expected = rf"warning: --otlp: (\d+) of \1 requests to http://{collector.address}/own/path failed, "
        self.assertRegex(line, expected + r"the last one because of: 429 Too Many Requests no room$")
        self.assertEqual(int(re.search(expected, line)[1]), len(requests))

    def test_a_receiver_that_is_no_url_is_refused_before_the_run(self):
        command = [BINARY, "bench", self.server.url("/echo"), "--otlp", "collector.example"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
        self.assertIn("expected a URL such as http://127.0.0.1:4318", done.stderr)


if __name__ == "__main__":
    unittest.main()
