"""The hooks of the application, with unmodified SDKs of Centrifuge's client protocol, and with raw messages."""

import base64
import contextlib
import http.server
import json
import queue
import threading
import time
import unittest

import test_centrifuge as sdk
from harness import PATIENCE_S, Server, text_file
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

# Longer than a busy machine takes for any answer.
TIMEOUT_S = 5
CONFIGURATION = """
[[topics]]
pattern = "asked.*"
subscribe = "hook"
publish = "hook"
history_messages = 1000
"""


class Service:
    """An HTTP service that keeps what it is asked. Subclasses answer."""

    def __init__(self):
        self.requests = queue.Queue()
        application = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                application.requests.put((self.path, body, self.headers))
                status, answer = application.answer(self.path, body)
                text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        class Listener(http.server.ThreadingHTTPServer):
            # As many connections as the server opens at once.
            request_queue_size = 128

            def handle_error(self, *_):
                """A request whose time is over is no error here."""

        self.server = Listener(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, path):
        return f"http://127.0.0.1:{self.server.server_address[1]}{path}"

    def asked(self, path, **fields):
        """The next request with this path and these fields. Others before it are dropped."""
        while True:
            request_path, body, headers = self.requests.get(timeout=PATIENCE_S)
            if request_path == path and fields.items() <= body.items():
                return body, headers

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Application(Service):
    """Answers the hooks by the method or the channel of the request."""

    def __init__(self):
        super().__init__()
        self.may_go_on = threading.Event()
        self.slow_may_go_on = threading.Event()

    def close(self):
        self.may_go_on.set()
        self.slow_may_go_on.set()
        super().close()

    def answer(self, path, body):
        name = body.get("method", body.get("channel", "")).removeprefix("asked.")
        data = {key: body[key] for key in ("data", "b64data") if key in body}
        match name:
            case "refused":
                return 200, {"error": {"code": 1000, "message": "not today"}}
            case "later":
                return 200, {"error": {"code": 1001, "message": "later", "temporary": True}}
            case "thrown out":
                return 200, {"disconnect": {"code": 4500, "reason": "go away"}}
            case "broken":
                return 500, {}
            case "nonsense":
                return 200, b"nonsense"
            case "stuck":
                self.may_go_on.wait(PATIENCE_S)
                return 200, {"result": data}
            case "slow":
                self.slow_may_go_on.wait(PATIENCE_S)
                return 200, {"result": {}}
            case "brief":
                return 200, {"result": {"expire_at": int(time.time()) + 3}}
            case "changed":
                return 200, {"result": {"data": {"by": "the application"}}}
            case _:
                return 200, {"result": data if path == "/rpc" else {"data": {"channel": name}} if path == "/subscribe" else {}}


def setUpModule():
    global configuration, application
    configuration = unittest.enterModuleContext(text_file(CONFIGURATION))
    application = Application()
    unittest.addModuleCleanup(application.close)


def started(*options):
    hooks = [f"--hooks-{event}={application.url(f'/{event}')}" for event in ("rpc", "publish", "subscribe")]
    headers = ["--hooks-header=cookie", "--hooks-header=X-Request-Id"]
    return Server("--config", configuration, *hooks, *headers, f"--hooks-timeout={TIMEOUT_S}s", *options)


def asked(path, **fields):
    return application.asked(path, **fields)


class Sdk(sdk.SdkTests):
    @staticmethod
    def start():
        return started()

    def test_calls_are_answered_by_the_application(self):
        client = self.connected()
        value = {"text": "Grüße, 水", "n": [1, None]}
        self.assertEqual(client.unpack(client.do("rpc", method="echo", data=client.pack(value))), value)
        body, _ = asked("/rpc", method="echo")
        self.assertEqual(body["data"], value)
        protocol = "protobuf" if self.protobuf else "json"
        self.assertEqual((body["transport"], body["protocol"], body["user"]), ("websocket", protocol, ""))
        if self.protobuf:
            data = {"bytes": base64.b64encode(b"\xff\x00").decode()}
            self.assertEqual(client.do("rpc", method="echo", data=data), data)
        self.fails(1000, client, "rpc", method="refused", data=client.pack(1))
        for method in ("broken", "nonsense", "stuck"):
            self.fails(100, client, "rpc", method=method, data=client.pack(1))
        # Calls do not wait for one another.
        application.slow_may_go_on.clear()
        slow = client.start("rpc", method="slow", data=client.pack(1))
        client.do("rpc", method="echo", data=client.pack(2))
        self.assertNotIn(slow, client.answers)
        application.slow_may_go_on.set()
        client.finish(slow)
        self.assertNotIn("disconnected", client.kinds())

    def test_the_application_can_close_a_connection(self):
        client = self.connected()
        client.start("rpc", method="thrown out", data=client.pack(1))
        self.assertEqual(client.next("disconnected")["code"], 4500)

    def test_the_application_decides_who_subscribes_and_publishes(self):
        client = self.connected()
        subscribed = client.subscribe("asked.news", recoverable=True)
        self.assertEqual(client.unpack(subscribed["data"]), {"channel": "news"})
        self.assertEqual(asked("/subscribe", channel="asked.news")[0]["encoding"], "json")
        client.publish("asked.news", {"a": 1})
        self.assertEqual(asked("/publish", channel="asked.news")[0]["data"], {"a": 1})
        offset = subscribed["position"]["offset"]
        self.assertEqual(client.publications("asked.news", 1), [(offset + 1, {"a": 1})])
        self.fails(1000, client, "publish", channel="asked.refused", data=client.pack(1))
        self.fails(100, client, "publish", channel="asked.broken", data=client.pack(1))
        client.subscribe("asked.changed")
        client.publish("asked.changed", {"by": "the client"})
        self.assertEqual(client.publications("asked.changed", 1)[0][1], {"by": "the application"})
        client.start("subscribe", channel="asked.refused")
        self.assertEqual(client.next("unsubscribed", channel="asked.refused")["code"], 1000)
        client.start("subscribe", channel="asked.later")
        self.assertEqual(client.next("subscription error", channel="asked.later")["code"], 1001)

    def test_a_subscription_that_is_allowed_until_a_time_is_asked_about_again(self):
        client = self.connected()
        client.subscribe("asked.brief")
        self.assertEqual(client.next("subscribing", channel="asked.brief", code=2501)["reason"], "subscription expired")
        client.next("subscribed", channel="asked.brief")
        client.publish("asked.brief", "still here")
        self.assertEqual(client.publications("asked.brief", 1)[0][1], "still here")
        self.assertNotIn("unsubscribed", client.kinds())


class WithSend:
    def test_messages_reach_the_application(self):
        client = self.connected()
        client.do("send", data=client.pack({"sent": True}))
        while "method" in (body := asked("/rpc")[0]):
            pass
        self.assertEqual(body["data"], {"sent": True})


globals().update(sdk.for_each_sdk(Sdk, WithSend))


class Wire(unittest.TestCase):
    def setUp(self):
        self.server = started()
        self.addCleanup(self.server.__exit__)

    def session(self, server=None, **headers):
        socket = connect(
            (server or self.server).url(sdk.PATH), additional_headers=headers, open_timeout=PATIENCE_S, max_size=None
        )
        self.addCleanup(socket.close)
        socket.send('{"id":1,"connect":{}}')
        self.replies(socket, 1)
        return socket

    def replies(self, socket, count):
        lines = []
        while len(lines) < count:
            lines += socket.recv(PATIENCE_S).split("\n")
        return [json.loads(line) for line in lines]

    def test_fields_of_the_handshake_are_forwarded(self):
        socket = self.session(**{"Cookie": "session=7", "X-Request-Id": "r1", "Authorization": "Bearer abc", "Idempotency-Key": "mine"})
        socket.send('{"id":2,"rpc":{"method":"headers","data":1}}')
        self.replies(socket, 1)
        _, headers = asked("/rpc", method="headers")
        self.assertEqual((headers["cookie"], headers["x-request-id"], headers["authorization"]), ("session=7", "r1", None))
        self.assertRegex(headers["idempotency-key"], "^[0-9a-f]{32}$")

    def test_emulated_header_fields_are_forwarded_as_those_of_the_handshake(self):
        def connected(emulated, **headers):
            url = self.server.url(sdk.PATH)
            socket = connect(url, additional_headers=headers, open_timeout=PATIENCE_S)
            self.addCleanup(socket.close)
            socket.send(json.dumps({"id": 1, "connect": {"headers": emulated}}))
            return socket, self.replies(socket, 1)[0]

        emulated = {"Cookie": "emulated", "x-request-id": "r2", "X-Else": "no"}
        for real, cookie in (({}, "emulated"), ({"Cookie": "real"}, "real")):
            socket, reply = connected(emulated, **real)
            self.assertIn("connect", reply)
            socket.send('{"id":2,"rpc":{"method":"emulated","data":1}}')
            self.replies(socket, 1)
            _, headers = asked("/rpc", method="emulated")
            self.assertEqual((headers["cookie"], headers["x-request-id"], headers["x-else"]), (cookie, "r2", None))
        for bad in ("a\nb", "x" * (16 * 1024 + 1)):
            _, reply = connected({"Cookie": bad})
            self.assertEqual(reply["error"]["code"], 107)
        _, reply = connected({"X-Else": "x" * (16 * 1024 + 1)})
        self.assertIn("connect", reply)

    def test_publications_that_are_asked_about_stay_in_their_order(self):
        socket = self.session()
        socket.send('{"id":2,"subscribe":{"channel":"asked.order"}}')
        self.replies(socket, 1)
        commands = [
            json.dumps({"id": 3 + number, "publish": {"channel": "asked.order", "data": number}}) for number in range(300)
        ]
        socket.send("\n".join(commands))
        replies = self.replies(socket, 600)
        data = [reply["push"]["pub"]["data"] for reply in replies if "push" in reply]
        self.assertEqual(data, list(range(300)))
        self.assertEqual([reply["id"] for reply in replies if "id" in reply], list(range(3, 303)))

    def test_a_subscription_can_be_ended_while_it_is_asked_about(self):
        socket = self.session()
        application.slow_may_go_on.clear()
        socket.send('{"id":2,"subscribe":{"channel":"asked.slow"}}\n{"id":3,"subscribe":{"channel":"asked.slow"}}')
        socket.send('{"id":4,"unsubscribe":{"channel":"asked.slow"}}')
        by_id = {}
        while 4 not in by_id:
            by_id |= {reply["id"]: reply for reply in self.replies(socket, 1)}
        application.slow_may_go_on.set()
        while len(by_id) < 3:
            by_id |= {reply["id"]: reply for reply in self.replies(socket, 1)}
        self.assertEqual((by_id[2]["error"]["code"], by_id[3]["error"]["code"]), (103, 105))
        self.assertIn("unsubscribe", by_id[4])
        socket.send('{"id":5,"history":{"channel":"asked.slow","limit":1}}')
        (reply,) = self.replies(socket, 1)
        self.assertEqual(reply["error"]["code"], 103)

    def test_calls_of_one_connection_leave_places_to_others(self):
        for way in ("in one frame", "in a frame each"):
            with self.subTest(way):
                server = started(f"--hooks-connect={application.url('/connect')}")
                self.addCleanup(server.__exit__)
                application.slow_may_go_on.clear()
                greedy = self.session(server)
                calls = [f'{{"id":{id},"rpc":{{"method":"slow","data":1}}}}' for id in range(2, 1026)]
                for frame in ["\n".join(calls)] if way == "in one frame" else calls:
                    greedy.send(frame)
                asked("/rpc", method="slow")
                # A session begins, and calls.
                other = self.session(server)
                other.send('{"id":2,"rpc":{"method":"echo","data":7}}')
                (reply,) = self.replies(other, 1)
                self.assertEqual(reply.get("rpc", reply), {"data": 7})
                application.slow_may_go_on.set()
                replies = self.replies(greedy, len(calls))
                self.assertEqual(sorted(reply["id"] for reply in replies), list(range(2, 1026)))
                # On a busy machine, the time of those that were held may be over.
                self.assertLessEqual({reply["error"]["code"] for reply in replies if "error" in reply}, {100})

    def test_many_calls_are_refused_or_answered_and_none_is_lost(self):
        sockets = [self.session() for _ in range(3)]
        count = 1000
        commands = "\n".join(f'{{"id":{id},"rpc":{{"method":"echo","data":{id}}}}}' for id in range(2, count + 2))
        for socket in sockets:
            socket.send(commands)
        for socket in sockets:
            replies = self.replies(socket, count)
            self.assertEqual(sorted(reply["id"] for reply in replies), list(range(2, count + 2)))
            for reply in replies:
                if "error" in reply:
                    self.assertIn(reply["error"]["code"], (100, 111))
                else:
                    self.assertEqual(reply["rpc"]["data"], reply["id"])

    def test_other_ways_in_may_not_do_what_is_asked_about(self):
        with connect(self.server.url("/broadcast"), subprotocols=["echoring.v1.json"]) as socket:
            socket.send('{"type":"subscribe","id":1,"topic":"asked.a"}')
            self.assertEqual(json.loads(socket.recv(PATIENCE_S))["code"], "forbidden")
        # The operator may.
        self.assertIn("offset", sdk.post(self.server, "asked.a", 1))

    def test_a_message_that_is_lost_ends_the_connection(self):
        application.server.shutdown()
        application.server.server_close()
        try:
            socket = self.session()
            socket.send('{"send":{"data":1}}')
            with self.assertRaises(ConnectionClosed) as closed:
                socket.recv(PATIENCE_S)
            self.assertEqual(closed.exception.rcvd.code, 3004)
        finally:
            setUpModule()

    def test_a_topic_that_is_asked_about_needs_a_hook(self):
        with self.assertRaises(AssertionError):
            Server("--config", configuration)

class Hanging(Service):
    """Decides nothing until it may go on."""

    def __init__(self):
        super().__init__()
        self.may_go_on = threading.Event()

    def answer(self, path, body):
        self.may_go_on.wait(PATIENCE_S)
        return 503, {}

    def close(self):
        self.may_go_on.set()
        super().close()


class Waiting(unittest.TestCase):
    """Clients that wait behind others for a decision."""

    def test_clients_that_present_a_token_are_answered_before_sdks_give_up(self):
        """The hook is asked about 32 at a time, each for a second: the last ones would wait for ten."""
        hook = Hanging()
        self.addCleanup(hook.close)
        with contextlib.ExitStack() as stack:
            flags = ("--auth-hook-timeout=1s", "--handshake-timeout=60s")
            server = stack.enter_context(Server("--auth-hook", hook.url("/"), *flags))
            url = server.url(sdk.PATH)
            clients = [stack.enter_context(connect(url, open_timeout=PATIENCE_S, close_timeout=0)) for _ in range(320)]
            for number, client in enumerate(clients):
                client.send(json.dumps({"id": 1, "connect": {"token": f"token-{number}"}}))
            errors = [json.loads(client.recv(PATIENCE_S))["error"] for client in clients]
            self.assertEqual({(error["code"], error["temporary"]) for error in errors}, {(100, True)})
            # The others are not asked about any more.
            self.assertLess(hook.requests.qsize(), len(clients))
            hook.may_go_on.set()
            clients[0].send(json.dumps({"id": 2, "connect": {"token": "another"}}))
            self.assertEqual(json.loads(clients[0].recv(PATIENCE_S))["error"]["code"], 100)
            server.wait_for_log("there was no decision about a token")


if __name__ == "__main__":
    unittest.main()
