"""The load generator speaks the protocols of applications with their own servers: requests, topics, errors, faults."""

import contextlib
import json
import os
import subprocess
import unittest

import programs
import protocol_servers
from fault_proxy import FaultProxy
from harness import BINARY, PATIENCE_S, Server

CONNECTIONS = 4


def bench(url, *flags, duration="400ms"):
    """Runs `bench`. Returns the exit code, the record or None, and stderr."""
    command = [BINARY, "bench", url, "-d", duration, "--warmup", "100ms", "--json", "-", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE_S)
    record = json.loads(done.stdout)["runs"][0] if done.stdout else None
    return done.returncode, record, done.stderr


def run_client(name, url):
    """The lines that a client of `protocols` prints."""
    command = [programs.NODE, os.path.join(protocol_servers.HERE, name), url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=programs.environment())
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


class Checks:
    """What holds for every protocol."""

    # Of `--protocol`.
    protocol = ""
    # Parameters of the protocol that the server needs.
    parameters = ()
    # A regular expression of the answers.
    answers = rb""
    # Whether an answer has the payload of its request.
    returns = True
    has_ids = True
    # Requests per second that the server and a proxy in Python answer in time on a busy machine.
    rate = 300

    @classmethod
    def setUpClass(cls):
        lacking = protocol_servers.missing().get(cls.server)
        if lacking:
            raise unittest.SkipTest(f"{lacking} not installed")
        stack = contextlib.ExitStack()
        cls.addClassCleanup(stack.close)
        cls.url = stack.enter_context(cls.start())

    @classmethod
    def start(cls):
        return getattr(protocol_servers, cls.server)()

    def flags(self, *parameters):
        flags = ["--protocol", self.protocol]
        for parameter in (*self.parameters, *parameters):
            flags += ["--param", parameter]
        return flags

    def test_requests_are_answered(self):
        for pace in (("--depth", "4"), ("--rate", "200")):
            with self.subTest(pace):
                # A closed loop has no messages while a machine is busy elsewhere, and a schedule has all of its messages.
                duration = "400ms" if "--rate" in pace else "2s"
                code, record, errors = bench(self.url, *self.flags(), "-c", str(CONNECTIONS), *pace, duration=duration)
                # Exit code 4: the generator was late on a busy machine.
                self.assertIn(code, (0, 4) if "--rate" in pace else (0,), errors)
                self.assertEqual((set(record["integrity"].values()), record["errors"]), ({0}, {}))
                self.assertEqual(record["closes"].keys(), {"1000"} if record["closes"] else set())
                requests = record["protocol"]["requests"]
                self.assertEqual(sum(request["answered"] for request in requests), sum(request["sent"] for request in requests))
                self.assertGreater(record["response_ns"]["count"], 20)
                self.assertEqual(record["protocol"]["opening_ns"]["count"], CONNECTIONS)
                if "--rate" in pace:
                    self.assertEqual(record["response_ns"]["count"], 80)

    def test_connections_are_opened_for_one_request_each(self):
        code, record, errors = bench(self.url, *self.flags(), "--mode", "connect", "--rate", "40", "-c", "40")
        self.assertIn(code, (0, 4), errors)
        self.assertEqual((set(record["integrity"].values()), record["errors"]), ({0}, {}))
        self.assertEqual(record["response_ns"]["count"], 16)
        for request in record["protocol"]["requests"]:
            self.assertEqual(request["answered"], request["sent"])

    def test_a_conversation_is_shown(self):
        done = subprocess.run(
            [BINARY, "bench", self.url, *self.flags(), "--try"], capture_output=True, text=True, timeout=PATIENCE_S
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("as expected", done.stdout)
        self.assertNotIn("no rule", done.stdout)

    def test_planted_faults_are_counted(self):
        # Rare enough that each is alone among the requests in flight.
        faults = {"lost": 11, "duplicated": 13, "delayed": 17, "changed": 19}
        if not self.returns:
            del faults["changed"]
        if not self.has_ids:
            # Behind a later answer it would be reordered too.
            del faults["delayed"]
        with FaultProxy(self.url, self.answers, **faults) as proxy:
            flags = ("-c", str(CONNECTIONS), "--rate", str(self.rate), "--late-after", "250ms", "--drain", "3s")
            code, record, errors = bench(proxy.url, *self.flags(), *flags, "--allow-saturated", duration="1s")
        self.assertEqual(code, 1, errors)
        planted = proxy.planted
        self.assertTrue(all(planted[kind] > 0 for kind in faults), planted)
        integrity = record["integrity"]
        self.assertEqual(
            {kind: integrity[kind] for kind in ("lost", "duplicated", "corrupted", "reordered")},
            {"lost": planted["lost"], "duplicated": planted["duplicated"], "corrupted": planted["changed"], "reordered": 0},
            f"{record['errors']} {planted}",
        )
        # A slow machine may have made others late too.
        self.assertGreaterEqual(integrity["late"], planted["delayed"])

    def test_swapped_answers_are_matched_by_id(self):
        with FaultProxy(self.url, self.answers, swapped=5) as proxy:
            code, record, errors = bench(proxy.url, *self.flags(), "-c", "2", "--depth", "4")
        self.assertGreater(proxy.planted["swapped"], 0)
        self.assertEqual(code, 0, errors)
        self.assertEqual((set(record["integrity"].values()), record["errors"]), ({0}, {}))


class TopicChecks:
    """What holds for a protocol with topics."""

    # Whether the server may exchange messages that are published one right after the other.
    reorders = False

    def test_subscribers_get_what_is_published(self):
        flags = ("--mode", "broadcast", "-c", "8", "--topics", "2", "--publishers", "4", "--rate", "100")
        allowed = ("--allow", "reordered") if self.reorders else ()
        code, record, errors = bench(self.url, *self.flags(), *flags, *allowed)
        self.assertIn(code, (0, 4), errors)
        found = {count for kind, count in record["integrity"].items() if not (self.reorders and kind == "reordered")}
        self.assertEqual((found, record["errors"]), ({0}, {}))
        self.assertEqual(record["broadcast"]["reach"], 1)
        if not self.reorders:
            self.assertEqual(record["broadcast"]["gaps"], 0)
        # Two subscribers of each topic.
        self.assertEqual(record["response_ns"]["count"], 2 * 40)


class StreamChecks:
    """What holds for a protocol whose messages are those of a stream (MQTT-6.0.0-2), however WebSocket messages divide it."""

    def test_messages_may_span_websocket_messages(self):
        with FaultProxy(self.url, self.answers, cut=3) as proxy:
            code, record, errors = bench(proxy.url, *self.flags(), "-c", "2", "--rate", "100", "--allow-saturated")
            self.assertEqual(code, 0, errors)
            self.assertEqual((set(record["integrity"].values()), record["errors"]), ({0}, {}))
            self.assertEqual(record["response_ns"]["count"], 40)
            flags = ("--mode", "broadcast", "-c", "3", "--rate", "100", "--allow-saturated")
            code, record, errors = bench(proxy.url, *self.flags(), *flags)
            self.assertEqual((code, record["broadcast"]["reach"]), (0, 1), errors)


class ErrorChecks:
    """What holds for a protocol with answers that are errors."""

    # Parameters of a request that the server answers with an error.
    failing = ()

    def test_error_answers_are_counted(self):
        code, record, errors = bench(self.url, *self.flags(*self.failing), "-c", "2")
        self.assertEqual(code, 1, errors)
        (request,) = record["protocol"]["requests"]
        self.assertEqual(request["errors"], request["sent"])
        self.assertEqual(record["errors"], {f"error answer to {request['name']}": request["errors"]})
        self.assertEqual(set(record["integrity"].values()), {0})


class JsonRpc(Checks, ErrorChecks, unittest.TestCase):
    server, protocol, answers = "json_rpc", "json-rpc", rb'"jsonrpc"'
    failing = ("method=fail",)

    def test_a_scalar_result_is_computed_from_the_request(self):
        sums = ("method=add", "params=[{{seq}},{{random.int(1, 99)}}]", "result=/result")
        for equals, wrong in (("request(/params/0) + request(/params/1)", False), ("request(/params/1)", True)):
            flags = self.flags(*sums, f"equals={{{{{equals}}}}}")
            code, record, errors = bench(self.url, *flags, "-c", "2", "--rate", "200", "--allow-saturated")
            self.assertEqual(code, int(wrong), errors)
            # The first request of each connection adds 0.
            answered = record["protocol"]["requests"][0]["answered"]
            self.assertEqual(record["integrity"]["corrupted"], answered - 2 if wrong else 0, record["integrity"])


class GraphqlWs(Checks, TopicChecks, ErrorChecks, unittest.TestCase):
    server, protocol, answers = "graphql_ws", "graphql-ws", rb'"type":"next"'
    failing = ("query=query { fail }", "variables={}")


class SocketIo(Checks, TopicChecks, unittest.TestCase):
    server, protocol, answers = "socket_io", "socket.io", rb"^43"

    def test_heartbeats_are_answered(self):
        code, record, errors = bench(self.url, *self.flags(), "-c", "2", duration="1200ms")
        self.assertEqual((code, record["errors"]), (0, {}), errors)
        self.assertGreaterEqual(record["protocol"]["heartbeats_answered"], 2)


class Mqtt(Checks, TopicChecks, StreamChecks, unittest.TestCase):
    server, protocol, answers, returns = "mqtt", "mqtt", rb"^\x40", False


class Mqtt5(Mqtt):
    protocol = "mqtt5"


class Wamp(Checks, TopicChecks, ErrorChecks, unittest.TestCase):
    server, protocol, answers = "wamp", "wamp", rb"^\[50,"
    failing = ("procedure=com.example.fail",)


class Stomp(Checks, TopicChecks, StreamChecks, unittest.TestCase):
    HEAVY = True
    RELEASE = True
    SECONDS = 40
    server, protocol, answers, returns = "stomp", "stomp", rb"receipt-id:\d", False
    parameters = ("connect=login:guest\npasscode:guest\n",)


class ActionCable(Checks, TopicChecks, unittest.TestCase):
    RELEASE = True
    server, protocol, answers = "action_cable", "action-cable", rb'"message":\{"id"'
    rate = 100
    # It delivers by a pool of threads.
    reorders = True


class Phoenix(Checks, TopicChecks, ErrorChecks, unittest.TestCase):
    server, protocol, answers = "phoenix", "phoenix", rb'"\d+","room:bench","phx_reply"'
    failing = ("event=fail",)

    def test_the_unmodified_client_accepts_the_server(self):
        lines = [json.loads(line) for line in run_client("phoenix_client.mjs", self.url)]
        self.assertEqual(lines, [{"ok": {}}, {"ok": {"text": "é"}}, {"error": {"reason": "it failed"}}, {"text": "all"}])


class Signalr(Checks, TopicChecks, ErrorChecks, unittest.TestCase):
    server, protocol, answers = "signalr", "signalr", rb'"type":3'
    failing = ("target=Fail",)

    def test_the_unmodified_client_accepts_the_server(self):
        self.assertEqual(run_client("signalr_client.mjs", self.url), ["é", "it failed", "all"])

    def test_the_pings_of_the_server_are_expected(self):
        code, record, errors = bench(self.url, *self.flags(), "-c", "2", duration="1200ms")
        self.assertEqual((code, record["errors"]), (0, {}), errors)


class Echoring(Checks):
    """echoring itself."""

    server, returns = "echoring", False

    @classmethod
    @contextlib.contextmanager
    def start(cls):
        with Server() as server:
            yield server.url(cls.path)


class EchoringV1(Echoring, TopicChecks, unittest.TestCase):
    protocol, path, answers = "echoring.v1", "/broadcast", rb'"type":"published"'


class Centrifuge(Echoring, TopicChecks, unittest.TestCase):
    protocol, path, answers = "centrifuge", "/connection/websocket", rb'"publish":\{\}'


class Echo(Echoring, unittest.TestCase):
    """Answers without ids are recognised by their contents."""

    protocol, path, answers = "echo", "/echo", rb""
    returns, has_ids = True, False

    def test_swapped_answers_are_matched_by_id(self):
        with FaultProxy(self.url, self.answers, swapped=5) as proxy:
            code, record, errors = bench(proxy.url, *self.flags(), "-c", "2", "--depth", "4")
        self.assertEqual(code, 1, errors)
        self.assertEqual(record["integrity"]["reordered"], proxy.planted["swapped"])


if __name__ == "__main__":
    unittest.main()
