"""Traces, in a program with the feature `otel`: received by a collector that reads OTLP with OpenTelemetry's own messages."""

import http.server
import os
import queue
import subprocess
import threading
import unittest

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse

from harness import BINARY, PATIENCE_S, Raw, Server, frame

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


def has_traces():
    shown = subprocess.run([BINARY, "serve", "--help"], capture_output=True, timeout=PATIENCE_S, text=True, check=True)
    return "--trace-sample" in shown.stdout


class Collector:
    """Takes spans over OTLP/HTTP."""

    def __init__(self, status=200):
        self.spans, self.requests = queue.Queue(), []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.requests.append((self.path, self.headers))
                request = ExportTraceServiceRequest.FromString(body)
                if status == 200:
                    for group in request.resource_spans:
                        resource = attributes_of(group.resource)
                        for scope in group.scope_spans:
                            for span in scope.spans:
                                collector.spans.put((resource, span))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                try:
                    self.wfile.write(answer)
                except BrokenPipeError:
                    pass  # The server has ended.

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def next(self, name):
        """The next span of this name, with the attributes of its resource."""
        while True:
            resource, span = self.spans.get(timeout=PATIENCE_S)
            if span.name == name:
                return resource, span

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def attributes_of(part):
    """Attributes as a dictionary."""
    values = {}
    for attribute in part.attributes:
        kind = attribute.value.WhichOneof("value")
        values[attribute.key] = getattr(attribute.value, kind)
    return values


@unittest.skipUnless(has_traces(), "the program was built without the feature otel")
class Traces(unittest.TestCase):
    def setUp(self):
        self.collector = Collector()
        self.addCleanup(self.collector.close)

    def server(self, *flags, collector=None, **variables):
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": (collector or self.collector).url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            **variables,
        }
        os.environ.update(environment)
        try:
            server = Server("--shards", "1", *flags)
        finally:
            for name in environment:
                del os.environ[name]
        self.addCleanup(server.__exit__)
        return server

    def upgrade(self, server, path, *fields):
        peer = Raw(server)
        self.addCleanup(peer.close)
        head = [f"GET {path} HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade"]
        head += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", *fields]
        peer.send("\r\n".join([*head, "", ""]).encode())
        return peer, peer.read_head()[0]

    def test_a_handshake_continues_the_trace_of_its_client_and_its_publications_follow(self):
        server = self.server("--trace-sample", "1", OTEL_SERVICE_NAME="edge")
        traceparent = f"traceparent: 00-{TRACE}-{PARENT}-01"
        secret = "Authorization: Bearer not-to-be-seen"
        peer, status = self.upgrade(server, "/broadcast/prices?token=not-to-be-seen", traceparent, secret)
        self.assertEqual(status, 101)
        resource, span = self.collector.next("handshake")
        self.assertEqual((resource["service.name"], resource["telemetry.sdk.language"]), ("edge", "rust"))
        self.assertEqual((span.trace_id.hex(), span.parent_span_id.hex(), span.kind), (TRACE, PARENT, 2))
        attributes = attributes_of(span)
        self.assertEqual(attributes["http.response.status_code"], 101)
        self.assertEqual((attributes["url.path"], attributes["http.route"]), ("/broadcast/prices", "broadcast"))
        self.assertNotIn("not-to-be-seen", str(span))
        self.assertLessEqual(span.start_time_unix_nano, span.end_time_unix_nano)
        peer.send(frame(1, b"hello"))
        _, publish = self.collector.next("publish")
        self.assertEqual((publish.trace_id, publish.parent_span_id), (span.trace_id, span.span_id))
        attributes = attributes_of(publish)
        self.assertEqual((attributes["messaging.destination.name"], publish.kind), ("prices", 4))
        self.assertEqual((attributes["messaging.message.body.size"], attributes["echoring.publish.outcome"]), (5, "ordered"))
        path, headers = self.collector.requests[0]
        self.assertEqual((path, headers["Content-Type"]), ("/v1/traces", "application/x-protobuf"))

    def test_refusals_and_posts_are_traced(self):
        server = self.server("--trace-sample", "1", OTEL_EXPORTER_OTLP_HEADERS="x-tenant=seven")
        _, status = self.upgrade(server, "/nowhere")
        self.assertEqual(status, 404)
        _, span = self.collector.next("handshake")
        self.assertEqual(attributes_of(span)["http.response.status_code"], 404)
        self.assertEqual(span.parent_span_id, b"")
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "Content-Type": "text/plain"}
        self.assertEqual(server.get("/topics/prices", method="POST", headers=headers)[0], 200)
        resource, span = self.collector.next("POST /topics/{topic}")
        self.assertEqual((span.trace_id.hex(), span.parent_span_id.hex()), (TRACE, PARENT))
        self.assertEqual((attributes_of(span)["http.response.status_code"], resource["service.name"]), (200, "echoring"))
        self.assertEqual(self.collector.requests[0][1]["x-tenant"], "seven")

    def test_who_does_not_sample_is_not_sampled(self):
        server = self.server("--trace-sample", "1")
        for flag in ("00", "01"):
            self.upgrade(server, f"/broadcast/{flag}", f"traceparent: 00-{TRACE}-{PARENT}-{flag}")
        _, span = self.collector.next("handshake")
        self.assertEqual(attributes_of(span)["url.path"], "/broadcast/01")

    def test_a_part_is_sampled_evenly_and_what_is_left_is_sent_at_the_end(self):
        server = self.server("--trace-sample", "0.25", OTEL_BSP_SCHEDULE_DELAY="600000")
        for _ in range(20):
            self.assertEqual(self.upgrade(server, "/echo")[1], 101)
        server.terminate()
        self.assertEqual(server.wait(), 0)
        self.assertEqual(self.collector.spans.qsize(), 5)

    def test_spans_without_a_collector_are_counted_and_cost_nobody_anything(self):
        broken = Collector(status=400)
        self.addCleanup(broken.close)
        server = self.server("--trace-sample", "1", collector=broken)
        self.assertEqual(self.upgrade(server, "/echo")[1], 101)
        server.wait_for_log("spans are dropped")
        metrics = server.get("/metrics")[2].decode()
        self.assertRegex(metrics, r'echoring_trace_spans_total\{result="dropped"\} [1-9]')
        self.assertEqual(self.upgrade(server, "/echo")[1], 101)


if __name__ == "__main__":
    unittest.main()
