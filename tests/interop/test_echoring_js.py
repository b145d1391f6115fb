"""`echoring.js`, the client for pages, in Chromium and in Node: what it tells while servers, networks and tokens come and go."""

import contextlib
import gzip
import http.server
import json
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
import unittest

import jwt
import programs
from async_server import AsyncServer
from harness import PATIENCE_S, Server, first_line, refusing_port, request, suspended, text_file, wait_until
from relay import Relay
from test_v1 import RawClient
from webdriver import FIREFOX, Browser, Firefox, available
from websockets.asyncio.server import serve

CLIENT = os.path.abspath("src/server/pages/client")
MODULE = os.path.join(CLIENT, "echoring.js")
COMPRESSED_BYTES_MAX = {"echoring.js": 10 * 1024, "event-streams.js": 3 * 1024}
SECRET = "a secret of at least thirty-two bytes"
SUBPROTOCOL = "echoring.v1.json"
# 64 MB, many times what all buffers on the way to a page hold.
FLOOD_MAX = 4000
CONFIGURATION = """
[[topics]]
pattern = "kept.*"
history_messages = 10000

[[topics]]
pattern = "short.*"
history_messages = 10

[[topics]]
pattern = "oldest.*"
slow = "drop-oldest"
lag_bytes = "64KiB"
presence = "everybody"

[[topics]]
pattern = "who.*"
presence = "everybody"

[[topics]]
pattern = "closed.*"
subscribe = "operator"
"""


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


class NodePage:
    """Node, which runs scripts as a page does."""

    def __init__(self, program):
        self.program = program
        self.open()

    def open(self):
        command = [self.program, "--no-warnings", os.path.join(programs.HERE, "page.mjs"), MODULE]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert first_line(self.process) == '"ready"\n'

    def reload(self):
        self.close()
        self.open()

    def run(self, script, *args):
        print(json.dumps({"script": script, "args": args}), file=self.process.stdin, flush=True)
        answer = json.loads(first_line(self.process))
        if "error" in answer:
            raise AssertionError(answer["error"])
        return answer["value"]

    @contextlib.contextmanager
    def blocked(self):
        """Nothing of the page runs inside the block."""
        with suspended(self.process):
            yield

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class BrowserPage:
    """A page of another origin than the server's, with a copy of the client."""

    def __init__(self, browser):
        page = self
        self.texts = {"/echoring.js": read(MODULE), "/events.mjs": read(os.path.join(programs.HERE, "events.mjs"))}
        self.texts["/event-streams.js"] = read(os.path.join(CLIENT, "event-streams.js"))
        self.texts["/"] = "<!doctype html><title>a page</title>"
        self.arrived, self.released = threading.Event(), threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path == "/block":
                    page.arrived.set()
                    assert page.released.wait(PATIENCE_S)
                text = page.texts.get(self.path)
                body = (text or "").encode()
                self.send_response(401 if text is None else 200)
                self.send_header("Content-Type", "text/javascript" if "js" in self.path else "text/html")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.files = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.files.serve_forever, daemon=True).start()
        self.origin = f"http://127.0.0.1:{self.files.server_address[1]}"
        self.browser = browser

    def open(self):
        self.browser.open(f"{self.origin}/")
        modules = '{ ...await import("/echoring.js"), ...await import("/event-streams.js") }'
        self.run(f'(await import("/events.mjs")).install({modules}, globalThis)')

    reload = open

    def run(self, script, *args):
        return self.browser.run(script, *args)

    @contextlib.contextmanager
    def blocked(self):
        """Nothing of the page runs inside the block: it waits for the answer of a synchronous request."""
        self.arrived.clear()
        self.released.clear()
        script = 'const request = new XMLHttpRequest(); request.open("GET", "/block", false); request.send();'
        running = threading.Thread(target=self.run, args=(script,))
        running.start()
        try:
            assert self.arrived.wait(PATIENCE_S)
            yield
        finally:
            self.released.set()
            running.join(PATIENCE_S)

    def close(self):
        self.browser.close()
        self.files.shutdown()
        self.files.server_close()


class Closing(AsyncServer):
    """Closes each session as its script says, with a code and a reason, and keeps those that come later. `opened_at` has their times."""

    def __init__(self, *script):
        super().__init__()
        self.script, self.opened_at = list(script), []

    async def listen(self):
        return serve(self.talk, "127.0.0.1", 0, subprotocols=[SUBPROTOCOL], ping_interval=None)

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.port}"

    def wait_for_sessions(self, count):
        """Waits until so many have begun, which is a little later than clients see it, and not one more."""
        wait_until(lambda: len(self.opened_at) >= count, f"{count} sessions")
        assert len(self.opened_at) == count, self.opened_at

    async def talk(self, connection):
        self.opened_at.append(time.monotonic())
        if self.script:
            await connection.close(*self.script.pop(0))
        await connection.wait_closed()


class BreakingProxy(Relay):
    """Breaks WebSockets as proxies do: `mode` says how, or is None. Other requests pass."""

    def __init__(self, host, port):
        self.mode = None
        super().__init__(host, port)

    def _forward(self, source, sink, is_server):
        if not is_server and self.mode is not None:
            with contextlib.suppress(OSError):
                head = source.recv(65536, socket.MSG_PEEK)
                if b"upgrade: websocket" in head.lower():
                    return self._break(source, sink)
        super()._forward(source, sink, is_server)

    def _break(self, client, server):
        if self.mode == "refused":
            client.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self._end((client, server))
        # Nothing behind the request gets to the server: the handshake succeeds, or not even that.
        elif self.mode == "mute":
            server.sendall(client.recv(65536))
        else:
            client.recv(65536)
        while client.recv(65536):
            pass


class Behaviour:
    """What is the same in every environment. A subclass has `page` and the origin of its scripts."""

    origin = None

    @classmethod
    def setUpClass(cls):
        cls.configuration = cls.enterClassContext(text_file(CONFIGURATION))

    def setUp(self):
        self.publishers = {}
        self.addCleanup(lambda: [publisher.close() for publisher in self.publishers.values()])
        self.addCleanup(lambda: self.page.run("globalThis.client?.close()"))

    # ---- what tests say ----

    def serve(self, *flags, **options):
        origin = ("--allow-origin", self.origin) if self.origin else ()
        server = Server("--shards", "2", "--config", self.configuration, *origin, *flags, **options)
        self.addCleanup(server.__exit__)
        return server

    def relay(self, server):
        relay = Relay(server.host, server.port)
        self.addCleanup(relay.close)
        return relay

    def run_js(self, script, *args):
        return self.page.run(script, *args)

    def start(self, place, options="{}", path="/broadcast"):
        """Makes the client. `options` is JavaScript."""
        url = place if isinstance(place, str) else place.url(path)
        self.run_js(f"globalThis.client = start(args[0], {options})", url)

    def follow(self, topic, **options):
        """Subscribes, and waits until the subscription has begun. Returns the event."""
        return self.run_js(
            """
            const [topic, options] = args;
            globalThis.subscription = follow(client, topic, options);
            await until(() => of(topic, "subscribed").length === 1);
            return of(topic, "subscribed")[0];
            """,
            topic,
            options,
        )

    def until(self, condition, *args):
        self.run_js(f"await until(() => {condition})", *args)

    def events(self, name, *types):
        return [event for event in self.run_js("return seen") if event["on"] == name and (not types or event["type"] in types)]

    def publish(self, server, topic, **fields):
        """Publishes as another client. Returns the position."""
        if server not in self.publishers:
            self.publishers[server] = RawClient(server).open()
        publisher = self.publishers[server]
        publisher.ask(type="publish", id=1, topic=topic, **fields)
        published = publisher.hear()
        self.assertEqual(published["type"], "published", published)
        return {"epoch": published["epoch"], "offset": published["offset"]}

    def assert_whole(self, topic, last, first=1):
        """Each offset was told once, in order: as a message, or in a gap. Returns the messages and the gaps."""
        expected = first
        for event in self.events(topic, "message", "gap"):
            is_gap = event["type"] == "gap"
            self.assertEqual(event["from"] if is_gap else event["offset"], expected)
            expected = (event["to"] if is_gap else event["offset"]) + 1
        self.assertEqual(expected, last + 1)
        return self.events(topic, "message"), self.events(topic, "gap")

    def assert_no_loss_of_connection(self):
        self.assertEqual([event["type"] for event in self.events("client")], ["connecting", "open"])

    # ---- what is told ----

    def test_topics_share_a_connection_and_values_keep_their_kinds(self):
        server = self.serve()
        self.start(server)
        begun = self.follow("first")
        self.assertEqual((begun["recovered"], begun["count"], begun["client"]), (None, None, None))
        self.follow("second")
        for kind, body in (("application/json", b'{"a": [1, null]}'), ("text/plain", "grüße".encode()), ("application/octet-stream", b"\0\xff")):
            status, _, _ = request(server.admin, "POST", "/topics/first?key=k", body, {"Content-Type": kind})
            self.assertEqual(status, 200)
        self.publish(server, "second", data=7)
        self.until('of("first", "message").length === 3 && of("second", "message").length === 1')
        told = [(event["kind"], event["data"], event["key"], event["offset"]) for event in self.events("first", "message")]
        values = [("json", {"a": [1, None]}), ("text", "grüße"), ("bytes", [0, 255])]
        self.assertEqual(told, [(*value, "k", offset) for offset, value in enumerate(values, 1)])
        self.assertEqual(self.events("second", "message")[0]["data"], 7)
        connections = json.loads(server.get("/connections?topic=first")[2])["connections"]
        self.assertEqual(len(connections), 1)
        self.assertEqual(sorted(connections[0]["topics"]), ["first", "second"])
        self.assertEqual(self.run_js('return await failure((async () => client.subscribe("first"))())')[0], "already-subscribed")
        # The same topic again, at once: the first subscription ends before the second begins.
        self.run_js(
            """
            follow(client, "third").unsubscribe();
            follow(client, "third");
            await until(() => of("third", "subscribed").length === 1);
            """
        )
        self.publish(server, "third", data=1)
        self.until('of("third", "message").length === 1')
        self.assertEqual([event["error"] for event in self.events("third", "ended")], [None])

    def test_a_position_continues_behind_a_reload_of_the_page(self):
        server = self.serve()
        self.start(server)
        for topic in ("kept.a", "short.a"):
            self.follow(topic)
            for number in range(3):
                self.publish(server, topic, data=number)
            self.until('of(args[0], "message").length === 3', topic)
        position = self.run_js("return subscription.position")
        self.assertEqual(position["offset"], 3)
        self.page.reload()
        for number in range(3, 33):
            self.publish(server, "kept.a", data=number)
            self.publish(server, "short.a", data=number)
        self.start(server)
        self.assertTrue(self.follow("kept.a", position={**position, "epoch": self.publish(server, "kept.a", data=33)["epoch"]})["recovered"])
        self.assertFalse(self.follow("short.a", position=position)["recovered"])
        self.until('of("kept.a", "message").length === 31 && of("short.a", "message").length === 10')
        self.assertEqual(self.assert_whole("kept.a", 34, first=4)[1], [])
        _, gaps = self.assert_whole("short.a", 33, first=4)
        self.assertEqual([(gap["from"], gap["to"], gap["count"], gap["reason"]) for gap in gaps], [(4, 23, 20, "history")])

    def test_a_takeover_is_not_noticed(self):
        flags = ("--drain", "1h")
        first = self.serve(*flags)
        self.start(first)
        self.follow("kept.taken")
        self.publish(first, "kept.taken", data=0)
        self.publishers.pop(first).close()
        listen, admin = (f"127.0.0.1:{port}" for port in (first.port, first.admin[1]))
        second = self.serve(*flags, "--takeover", listen=listen, admin=admin)
        self.assertEqual(first.wait(), 0)
        self.publish(second, "kept.taken", data=1)
        position = self.run_js('return await client.publish("kept.taken", { data: 2 })')
        self.assertEqual(position["offset"], 3)
        self.until('of("kept.taken", "message").length === 3')
        self.assertEqual(self.assert_whole("kept.taken", 3)[1], [])
        self.assert_no_loss_of_connection()

    def test_a_killed_server_is_left_and_its_successor_has_reset_the_topic(self):
        first = self.serve()
        relay = self.relay(first)
        self.start(relay)
        self.follow("kept.killed")
        for number in range(3):
            before = self.publish(first, "kept.killed", data=number)
        self.until('of("kept.killed", "message").length === 3')
        second = self.serve()
        relay.server = (second.host, second.port)
        first.process.kill()
        self.until('of("kept.killed", "reset").length === 1')
        after = self.publish(second, "kept.killed", data="new")
        self.until('of("kept.killed", "message").length === 4')
        reset = self.events("kept.killed", "reset")[0]
        self.assertEqual(reset["previous"], before)
        self.assertEqual(reset["position"], {"epoch": after["epoch"], "offset": after["offset"] - 1})
        self.assertEqual([event["recovered"] for event in self.events("kept.killed", "subscribed")], [None, False])
        self.assertEqual(self.run_js("return subscription.position"), after)
        self.assertIn(1006, [event["code"] for event in self.events("client", "connecting")])
        self.assertEqual(self.events("kept.killed", "gap"), [])

    def test_a_drained_server_has_sent_everything_and_the_client_returns_elsewhere(self):
        first = self.serve()
        relay = self.relay(first)
        self.start(relay)
        self.follow("kept.drained")
        for number in range(200):
            self.publish(first, "kept.drained", data=number)
        self.publishers.pop(first).close()
        second = self.serve()
        relay.server = (second.host, second.port)
        first.terminate()
        self.until('of("kept.drained", "reset").length === 1')
        self.assert_whole("kept.drained", 200)
        self.assertEqual(self.events("kept.drained", "gap"), [])
        lost = [event for event in self.events("client", "connecting") if event["code"] is not None]
        self.assertEqual(lost[0]["code"], 1001)
        self.assertLessEqual(lost[0]["delayMs"], 500)

    def test_a_page_that_reads_slowly_is_told_which_messages_it_missed(self):
        server = self.serve()
        self.start(server, "{ silenceMs: 600_000 }")
        own = self.follow("oldest.flood", presence=True)["client"]
        other = RawClient(server).open()
        self.addCleanup(other.close)

        def unsent():
            deliveries = server.stats()["node"]["deliveries"]
            return deliveries["offered"] - deliveries["sent"]

        def flood(count):
            for number in range(count):
                offset = self.publish(server, "oldest.flood", data=[number, "x" * 16_000])["offset"]
            return offset

        self.publish(server, "oldest.flood", data=0)
        self.until('of("oldest.flood", "members").length > 0')
        listed = len(self.events("oldest.flood", "members"))
        with self.page.blocked():
            while unsent() < 100:
                self.assertLess(flood(20), FLOOD_MAX, "all messages were sent to a page that does not read")
            # That it is there is among what the page misses; then it does not read either.
            other.ask(type="subscribe", topic="oldest.flood")
            last = flood(40)
        self.until("subscription.position.offset === args[0]", last)
        messages, gaps = self.assert_whole("oldest.flood", last)
        self.assertEqual({gap["reason"] for gap in gaps}, {"slow"})
        self.assertGreater(sum(gap["count"] for gap in gaps), 50)
        self.assertEqual(messages[-1]["data"][0], 39)
        self.until('of("oldest.flood", "members").length > args[0]', listed)
        members = self.run_js("return [...subscription.members.keys()]")
        self.assertEqual((len(members), own in members), (2, True))
        self.assert_no_loss_of_connection()

    def test_a_paused_client_continues_from_its_position(self):
        server = self.serve()
        self.start(server)
        self.follow("short.paused")
        self.publish(server, "short.paused", data=1)
        self.until('of("short.paused", "message").length === 1')
        self.run_js('client.pause(); await until(() => of("short.paused", "unsubscribed").length === 1)')
        for number in range(2, 32):
            self.publish(server, "short.paused", data=number)
        self.run_js("client.resume()")
        self.until('of("short.paused", "message").length === 11')
        _, gaps = self.assert_whole("short.paused", 31)
        self.assertEqual([(gap["from"], gap["to"], gap["reason"]) for gap in gaps], [(2, 21, "history")])

    def test_a_subscription_that_is_refused_for_the_moment_is_requested_again(self):
        server = self.serve("--subscribe-rate", "4")
        self.start(server)
        topics = [f"kept.{number}" for number in range(12)]
        self.run_js(
            """
            args.forEach((topic) => follow(client, topic));
            await until(() => client.state === "open");
            // Behind the refusals. What ends while it waits does not end the next one of that topic.
            await client.publish("kept.0", { data: 0 });
            subscription = follow(client, "kept.twice");
            await client.publish("kept.0", { data: 0 });
            subscription.unsubscribe();
            follow(client, "kept.twice");
            await until(() => [...args, "kept.twice"].every((topic) => of(topic, "subscribed").length === 1));
            """,
            *topics,
        )
        for topic in (*topics, "kept.twice"):
            self.publish(server, topic, data="at last")
        self.until('[...args, "kept.twice"].every((topic) => of(topic, "message").some(({ data }) => data === "at last"))', *topics)
        self.assert_no_loss_of_connection()

    def test_subscriptions_that_are_refused_together_are_requested_again_at_different_times(self):
        server = self.serve("--subscribe-rate", "4")
        topics = [f"kept.jitter{number}" for number in range(24)]
        # The delays are those that the client asks its timers for, whatever the machine makes of them.
        script = """
            globalThis.delays = [];
            const real = setTimeout;
            globalThis.setTimeout = (run, ms, ...more) => { delays.push(ms); return real(run, ms, ...more); };
        """
        self.run_js(script)
        self.start(server)
        self.run_js("args.forEach((topic) => follow(client, topic))", *topics)
        self.until('args.every((topic) => of(topic, "subscribed").length === 1)', *topics)
        delays = self.run_js("return delays.filter((ms) => ms >= 250 && ms < 500)")
        # The first repeats of all that were refused: half of the bound of half a second, and a random part of the other half.
        self.assertGreater(len(delays), 15)
        self.assertEqual(len(set(delays)), len(delays))
        self.assertGreater(max(delays) - min(delays), 50)

    # ---- publications ----

    def test_a_publication_whose_answer_is_lost_is_repeated_and_published_once(self):
        server = self.serve()
        relay = self.relay(server)
        self.start(relay)
        self.follow("kept.once")
        with relay.held():
            self.run_js(
                """
                const results = [{ data: 1 }, { text: "2", key: "k" }, { json: "3.0", idempotencyKey: null }, { data: 4, idempotencyKey: "four" }]
                    .map((publication) => client.publish("kept.once", publication));
                globalThis.results = Promise.all(results.map((result) => failure(result)));
                """
            )
            wait_until(lambda: self.offset_of(server, "kept.once") == 4, "all are published, and no answer has arrived")
            with relay.cut():
                self.until('of("client", "connecting").length > 1')
        results = self.run_js("return await results")
        self.assertEqual([code for code, _ in results], ["resolved", "resolved", "uncertain", "resolved"])
        self.assertEqual([value["offset"] for code, value in results if code == "resolved"], [1, 2, 4])
        self.assertEqual(self.publish(server, "kept.once", data="last")["offset"], 5)
        self.until('of("kept.once", "message").length === 5')
        messages, gaps = self.assert_whole("kept.once", 5)
        self.assertEqual([message["data"] for message in messages], [1, "2", 3, 4, "last"])
        self.assertEqual(gaps, [])
        again = 'return await failure(client.publish("kept.once", { data: "another", idempotencyKey: "four" }))'
        self.assertEqual(self.run_js(again)[0], "idempotency-key-reused")

    def test_many_lost_connections_lose_and_repeat_nothing(self):
        server = self.serve()
        relay = self.relay(server)
        self.start(relay)
        self.follow("kept.many")
        self.run_js("globalThis.results = []")
        for round in range(10):
            for number in range(5):
                self.run_js('results.push(client.publish("kept.many", { data: args }))', "own", round, number)
                self.publish(server, "kept.many", data=["other", round, number])
            with relay.cut() if round % 2 else relay.reset():
                self.until('client.state === "connecting"')
                self.run_js('results.push(client.publish("kept.many", { data: args }))', "own", round, 5)
                self.publish(server, "kept.many", data=["other", round, 5])
            # Delays of a client that loses its connection again and again grow.
            self.run_js('client.retry(); await until(() => client.state === "open")')
        offsets = [position["offset"] for position in self.run_js("return await Promise.all(results)")]
        self.assertEqual(len(set(offsets)), 60)
        self.until("subscription.position.offset === 120")
        messages, gaps = self.assert_whole("kept.many", 120)
        self.assertEqual(gaps, [])
        told = {tuple(message["data"]): message["offset"] for message in messages}
        self.assertEqual(set(told), {(who, round, number) for who in ("own", "other") for round in range(10) for number in range(6)})
        self.assertEqual([told["own", round, number] for round in range(10) for number in range(6)], offsets)

    def offset_of(self, server, topic):
        status, _, body = server.get(f"/topics/{topic}")
        return json.loads(body)["position"]["offset"] if status == 200 else 0

    def test_publications_wait_for_a_server_and_their_number_is_bounded(self):
        with refusing_port() as port:
            self.start(f"ws://127.0.0.1:{port}/broadcast")
            codes = self.run_js(
                """
                const wrong = await Promise.all([{}, { data: 1, text: "2" }, { json: "{half" }].map((one) => failure(client.publish("t", one))));
                globalThis.waiting = [];
                for (let number = 0; number < 1024; number += 1) waiting.push(failure(client.publish("t", { data: number })));
                const full = await failure(client.publish("t", { data: 0 }));
                client.close();
                const late = await failure(client.publish("t", { data: 0 }));
                return [wrong, full, [...new Set((await Promise.all(waiting)).map(([code]) => code))], late].flat().map((one) => Array.isArray(one) ? one[0] : one);
                """
            )
            self.assertEqual(codes[:3], ["TypeError", "TypeError", "SyntaxError"])
            self.assertEqual(codes[3], "queue-full")
            self.assertEqual(codes[5:], ["closed", "closed", codes[-1]])
            self.assertEqual(self.events("client", "closed"), [{"on": "client", "type": "closed", "error": None}])
        self.page.reload()
        server = self.serve()
        relay = self.relay(server)
        with relay.cut():
            self.start(relay)
            self.assertEqual(self.run_js('return (await failure(client.publish("t", { text: "x".repeat(4 << 20) })))[0]'), "queue-full")
            self.run_js(
                """
                follow(client, "t");
                globalThis.waiting = [1, 2, 3].map((data) => client.publish("t", { data, idempotencyKey: null }));
                client.addEventListener("open", () => waiting.push(client.publish("t", { data: 4, idempotencyKey: null })));
                """
            )
            self.until('of("client", "connecting").length > 2')
        self.until('of("t", "message").length === 4')
        self.assertEqual([position["offset"] for position in self.run_js("return await Promise.all(waiting)")], [1, 2, 3, 4])
        self.assertEqual([message["data"] for message in self.events("t", "message")], [1, 2, 3, 4])

    def test_a_message_above_the_maximum_is_refused_and_ends_nothing_else(self):
        server = self.serve("--max-message", "4KiB")
        self.start(server)
        # Two before there is a connection, and the second in bytes only.
        script = """
            const results = ["x".repeat(5000), "ü".repeat(2500), "fits"].map((text) => failure(client.publish("kept.large", { text })));
            await Promise.all(results);
            results.push(failure(client.publish("kept.large", { data: "x".repeat(5000) })));
            return (await Promise.all(results)).map(([code]) => code);
        """
        self.assertEqual(self.run_js(script), ["too-large", "too-large", "resolved", "too-large"])
        self.assert_no_loss_of_connection()

    def test_a_maximum_that_was_lowered_meanwhile_costs_the_connection_and_not_the_client(self):
        with text_file('max_message = "64KiB"') as file:
            server = Server("--shards", "1", "--config", file, *(("--allow-origin", self.origin) if self.origin else ()))
            self.addCleanup(server.__exit__)
            self.start(server)
            self.follow("t")
            with open(file, "w", encoding="utf-8") as settings:
                settings.write('max_message = "1KiB"')
            self.assertEqual(server.get("/reload", "POST")[0], 200)
            self.assertEqual(self.run_js('return await failure(client.publish("t", { text: "x".repeat(60_000) }))')[0], "too-large")
            self.assertEqual(self.run_js('return await failure(client.publish("t", { text: "small" }))')[0], "resolved")
            self.assertEqual(self.events("client", "closed"), [])

    def test_what_cannot_be_sent_is_refused_at_once(self):
        server = self.serve()
        self.start(server)
        script = r"""
            const half = String.fromCharCode(0xd83d);
            const wrong = [{ text: `half ${half}` }, { data: [half] }, { data: { [half]: 1 } }, { json: '"\ud83d"' },
                { data: 1, key: half }, { data: 1, idempotencyKey: "" }];
            const codes = await Promise.all(wrong.map((one) => failure(client.publish("t", one))));
            codes.push(await failure((async () => client.subscribe(half))()));
            codes.push(await failure(client.publish("t", { text: "whole 😀" })));
            codes.push(await failure(client.publish("t", { json: '"\ud83d\ude00"' })));
            return codes.map(([code]) => code);
        """
        self.assertEqual(self.run_js(script), ["bad-field"] * 7 + ["resolved"] * 2)
        self.assert_no_loss_of_connection()

    def test_publications_that_were_sent_and_not_answered_are_uncertain_however_the_client_ends(self):
        server = self.serve()
        for ending in ("client.close()", "gave-up"):
            with self.subTest(ending):
                relay = self.relay(server)
                self.start(relay, "{ attemptsMax: 1 }")
                self.follow("kept.sent")
                with relay.held():
                    self.run_js('globalThis.sent = failure(client.publish("kept.sent", { data: 1 }))')
                    wait_until(lambda: self.offset_of(server, "kept.sent") > 0, "it is published")
                    if ending == "gave-up":
                        with relay.cut():
                            self.until('of("client", "closed").length > 0')
                    else:
                        self.run_js(ending)
                    self.assertEqual(self.run_js("return (await sent)[0]"), "uncertain")
                self.page.reload()

    def test_publications_of_an_outage_are_all_published_once_by_a_server_that_limits_their_rate(self):
        server = self.serve("--publish-rate", "100")
        relay = self.relay(server)
        with relay.cut():
            self.start(relay)
            script = """
                globalThis.waiting = [];
                for (let data = 0; data < 400; data += 1) waiting.push(client.publish("kept.burst", { data, idempotencyKey: data % 2 ? null : undefined }));
            """
            self.run_js(script)
            self.until('of("client", "connecting").length > 1')
        self.follow("kept.burst", position=None)
        offsets = [position["offset"] for position in self.run_js("return await Promise.all(waiting)")]
        self.assertEqual(sorted(offsets), list(range(1, 401)))
        self.assertEqual(self.events("client", "closed"), [])

    def test_a_program_stops_waiting_when_it_wants(self):
        server = self.serve()
        relay = self.relay(server)
        self.start(relay)
        self.follow("who.waits")
        with relay.held():
            script = """
                const controller = new AbortController();
                const sent = [failure(client.publish("who.waits", { data: 1, timeoutMs: 50 })),
                    failure(client.publish("who.waits", { data: 2, signal: controller.signal })),
                    failure(subscription.presence({ timeoutMs: 50 })), failure(subscription.presence({ signal: controller.signal }))];
                controller.abort();
                sent.push(failure(client.publish("who.waits", { data: 3, signal: controller.signal })));
                return (await Promise.all(sent)).map(([code]) => code);
            """
            # A publication that was sent may have arrived; the code of a DOMException is a number.
            self.assertEqual(self.run_js(script), ["uncertain", "uncertain", "timeout", 20, 20])
        with relay.cut():
            self.until('client.state === "connecting"')
            self.assertEqual(self.run_js('return (await failure(client.publish("t", { data: 1, timeoutMs: 50 })))[0]'), "timeout")
        self.assertEqual(self.run_js('return (await failure(client.publish("who.waits", { data: 4 })))[0]'), "resolved")

    # ---- connections ----

    def test_refused_subscriptions_end_themselves_and_not_the_client(self):
        server = self.serve()
        self.start(server)
        topics = [f"closed.{number}" for number in range(60)]
        self.run_js("args.forEach((topic) => follow(client, topic))", *topics)
        self.until('args.every((topic) => of(topic, "ended").length === 1)', *topics)
        self.assertEqual({self.events(topic, "ended")[0]["error"]["code"] for topic in topics}, {"forbidden"})
        self.follow("kept.open")
        self.assert_no_loss_of_connection()

    def test_a_client_that_an_operator_closes_returns(self):
        server = self.serve()
        self.start(server)
        self.follow("kept.kicked")
        status, _, body = server.get("/connections?topic=kept.kicked", "DELETE")
        self.assertEqual((status, json.loads(body)["closed"]), (200, 1))
        self.publish(server, "kept.kicked", data=1)
        self.until('of("kept.kicked", "message").length === 1')
        self.assertEqual(self.events("client", "connecting")[1]["code"], 4010)
        self.assert_whole("kept.kicked", 1)

    def test_an_upload_that_stalls_is_sent_again(self):
        server = self.serve("--max-message", "1MiB", "--message-progress", "2MiB", "--message-progress-time", "1s")
        relay = self.relay(server)
        self.start(relay)
        self.follow("kept.stalled")
        with relay.limited(128 * 1024):
            self.run_js('globalThis.stalled = client.publish("kept.stalled", { text: "x".repeat(700_000) })')
            self.until('of("client", "connecting").some(({ code }) => code === 4009 || code === 1006)')
        self.assertEqual(self.run_js("return await stalled")["offset"], 1)
        self.assertEqual(self.events("client", "closed"), [])

    def test_a_closed_client_is_opened_again_with_its_subscriptions_and_positions(self):
        server = self.serve()
        self.start(server)
        self.follow("kept.again")
        self.publish(server, "kept.again", data=1)
        self.until('of("kept.again", "message").length === 1')
        self.run_js("client.close()")
        self.assertEqual([event["reason"] for event in self.events("kept.again", "unsubscribed")], ["closed"])
        self.publish(server, "kept.again", data=2)
        self.run_js("client.open()")
        self.until('of("kept.again", "message").length === 2')
        self.assert_whole("kept.again", 2)
        self.assertEqual([event["recovered"] for event in self.events("kept.again", "subscribed")], [None, True])
        self.assertEqual(self.events("kept.again", "ended"), [])
        # One that ends while the client is closed does not return.
        self.run_js("client.close(); subscription.unsubscribe(); client.open(); await until(() => client.state === 'open')")
        self.follow("kept.other")
        connections = json.loads(server.get("/connections?topic=kept.other")[2])["connections"]
        self.assertEqual([connection["topics"] for connection in connections], [["kept.other"]])

    def test_clocks_that_jump_harm_nothing_and_long_connections_shorten_delays(self):
        server = self.serve()
        relay = self.relay(server)
        self.run_js("globalThis.log = []")
        self.start(relay, "{ silenceMs: 600_000, log: (line) => log.push(line) }")
        self.follow("kept.clock")
        lost = 0
        for jump_ms in (-36_000_000, 72_000_000):
            self.run_js("const real = Date.now; Date.now = () => real.call(Date) + args[0]", jump_ms)
            with relay.cut():
                lost += 1
                self.until('of("client", "connecting").length > args[0]', lost)
            self.publish(server, "kept.clock", data=jump_ms)
            self.run_js('client.retry(); await until(() => of("kept.clock", "message").length === args[0])', lost)
            lost = len(self.events("client", "connecting")) - 1
        before = self.events("client", "connecting")[-1]["attempt"]
        self.assertGreater(before, 1)
        self.run_js("const real = performance.now; performance.now = () => real.call(performance) + 20_000")
        with relay.cut():
            self.until('of("client", "connecting").at(-1).attempt === 1')
        self.until('client.state === "open"')
        self.assert_whole("kept.clock", 2)
        log = "\n".join(self.run_js("return log"))
        for line in ("attempt 1 in 0 ms", "open", "> subscribe kept.clock", "< message kept.clock 1"):
            self.assertIn(line, log)

    def test_a_message_to_this_connection_is_an_event(self):
        server = self.serve()
        self.start(server)
        self.follow("kept.direct")
        connection = json.loads(server.get("/connections?topic=kept.direct")[2])["connections"][0]["id"]
        for kind, body in (("application/json", b'{"logout":true}'), ("text/plain", b"bye")):
            status, _, _ = request(server.admin, "POST", f"/connections/{connection}", body, {"Content-Type": kind})
            self.assertEqual(status, 200)
        self.until('of("client", "direct").length === 2')
        told = [(event["kind"], event["data"]) for event in self.events("client", "direct")]
        self.assertEqual(told, [("json", {"logout": True}), ("text", "bye")])

    def test_an_attempt_that_fails_costs_no_more_than_its_delay(self):
        with refusing_port() as port:
            self.start(f"ws://127.0.0.1:{port}/broadcast")
            begun = time.monotonic()
            self.until('of("client", "connecting").length > 3')
            # Three delays of up to 0.5, 0.5 and 1 s; one attempt without an end took 45 s.
            self.assertLess(time.monotonic() - begun, 20)

    def test_the_delay_that_a_close_asks_for_is_kept_and_others_are_random(self):
        script = [
            (1001, "the server drains; retry after 400 ms"),
            (1012, "retry after 0 ms"),
            (1001, "retry after 3600001 ms"),
            (1013, "retry after 5 minutes"),
            (4008, "slow consumer, retry after 50 ms"),
        ]
        with Closing(*script, (1008, "policy")) as server:
            self.start(server.url)
            self.until('of("client", "closed").length === 1')
            delays = [(event["code"], event["attempt"], event["delayMs"]) for event in self.events("client", "connecting")]
            self.assertEqual([code for code, _, _ in delays], [None, 1001, 1012, 1001, 1013, 4008])
            self.assertEqual([attempt for _, attempt, _ in delays], [1, 2, 3, 4, 5, 6])
            bounds = [(0, 0), (400, 500), (0, 100), (0, 2000), (0, 4000), (50, 150)]
            for (_, _, delay_ms), (least, most) in zip(delays, bounds):
                self.assertTrue(least <= delay_ms <= most, (delay_ms, least, most))
            # Timers of pages count whole milliseconds.
            self.assertGreaterEqual(server.opened_at[1] - server.opened_at[0], 0.399)
            self.assertEqual(len(server.opened_at), 6)
            self.assertEqual(self.events("client", "closed")[0]["error"], {"code": "refused", "closeCode": 1008})

    def test_after_some_codes_the_client_does_not_return(self):
        final = [1002, 1003, 1007, 1008, 1009, 1010, 4000, 4003, 4007, 4011, 4999]
        temporary = [1000, 1001, 1011, 1012, 1013, 1014, 3000, 4001, 4008, 4009, 4010]
        for codes, ends in ((final, True), (temporary, False)):
            for code in codes:
                with self.subTest(code=code), Closing((code, "retry after 1 ms")) as server:
                    self.page.reload()
                    self.start(server.url)
                    self.until('of("client", args[0]).length === args[1]', *(("closed", 1) if ends else ("open", 2)))
                    server.wait_for_sessions(1 if ends else 2)

    def test_attempts_are_bounded_where_that_is_asked_for(self):
        with refusing_port() as port:
            self.start(f"ws://127.0.0.1:{port}/broadcast", "{ attemptsMax: 3 }")
            self.until('of("client", "closed").length === 1')
            self.assertEqual([event["attempt"] for event in self.events("client", "connecting")], [1, 2, 3])
            self.assertEqual(self.events("client", "closed")[0]["error"]["code"], "gave-up")
        self.page.reload()
        self.start("ftp://nowhere/")
        self.until('of("client", "closed").length === 1')
        self.assertEqual(self.events("client", "closed")[0]["error"]["code"], "bad-request")

    def test_a_dead_connection_is_noticed_and_a_silent_one_lives(self):
        server = self.serve()
        relay = self.relay(server)
        # A third of it is the time for an answer, also on a busy machine.
        self.start(relay, "{ silenceMs: 4500 }")
        self.follow("kept.silent")
        heard = relay.bytes_sent
        wait_until(lambda: relay.bytes_sent > heard, "a silent server answers a ping")
        self.assert_no_loss_of_connection()
        with relay.half_open():
            self.until('of("client", "connecting").length > 1')
            lost = self.events("client", "connecting")[1]
            self.assertEqual((lost["code"], lost["reason"]), (1006, "no answer"))
            self.publish(server, "kept.silent", data=1)
        self.until('of("kept.silent", "message").length === 1')
        self.assert_whole("kept.silent", 1)

    # ---- proxies that break WebSockets ----

    FALLBACK = "{ fallback: eventStreams(), silenceMs: 3000 }"

    def breaking(self, server, mode=None):
        proxy = BreakingProxy(server.host, server.port)
        proxy.mode = mode
        self.addCleanup(proxy.close)
        return proxy

    def opened(self):
        """For each connection whether it was a fallback."""
        return [event["isFallback"] for event in self.events("client", "open")]

    def test_behind_a_proxy_that_breaks_websockets_messages_come_by_event_streams_and_positions_stay(self):
        server = self.serve()
        for mode in ("refused", "unanswered", "mute"):
            with self.subTest(mode):
                self.page.reload()
                proxy, topic = self.breaking(server), f"kept.{mode}"
                self.start(proxy, self.FALLBACK)
                self.follow(topic)
                self.publish(server, topic, data={"a": [1, None]})
                self.until('of(args[0], "message").length === 1', topic)
                proxy.mode = mode
                with proxy.cut():
                    self.publish(server, topic, text="17")
                self.until('of("client", "open").at(-1).isFallback && of(args[0], "message").length === 2', topic)
                self.publish(server, topic, data=17, key="k")
                self.publish(server, topic, text="two\nlines, grüße")
                request(server.admin, "POST", f"/topics/{topic}", b"\0\xff", {"Content-Type": "application/octet-stream"})
                self.until('of(args[0], "message").length === 5', topic)
                messages, gaps = self.assert_whole(topic, 5)
                told = [(message["kind"], message["data"], message["key"]) for message in messages]
                values = [("json", {"a": [1, None]}), ("text", "17"), ("json", 17), ("text", "two\nlines, grüße"), ("bytes", [0, 255])]
                self.assertEqual(told, [(*value, "k" if value[1] == 17 else None) for value in values])
                self.assertEqual(gaps, [])
                self.assertEqual(self.run_js('return (await failure(client.publish("t", { data: 1 })))[0]'), "receive-only")
                # One subscription more, and one less: each is a request of its own.
                self.follow("kept.second")
                self.publish(server, "kept.second", data=1)
                self.until('of("kept.second", "message").length === 1')
                self.run_js("subscription.unsubscribe()")
                wait_until(lambda: json.loads(server.get("/connections?topic=kept.second")[2])["connections"] == [], "the request has ended")
                proxy.mode = None
                with proxy.cut():
                    self.publish(server, topic, data="last")
                self.until('!of("client", "open").at(-1).isFallback && of(args[0], "message").length === 6', topic)
                self.assert_whole(topic, 6)
                self.assertEqual(self.run_js('return (await client.publish(args[0], { data: 1 })).offset', topic), 7)

    def test_a_connection_that_lets_nothing_through_is_tried_ever_less_often(self):
        server = self.serve()
        self.run_js(
            """
            let shift = 0;
            const real = performance.now;
            performance.now = () => real.call(performance) + shift;
            globalThis.age = () => { shift += 20_000; };
            """
        )
        self.start(self.breaking(server, "mute"), "{ silenceMs: 3000 }")
        self.run_js('client.addEventListener("open", age)')
        self.until('of("client", "connecting").length > 3')
        self.assertEqual([event["attempt"] for event in self.events("client", "connecting")][:4], [1, 2, 3, 4])

    def test_a_server_that_was_away_is_no_reason_for_the_fallback(self):
        server = self.serve()
        relay = self.relay(server)
        # WebSockets that are only slow, as on a busy machine, count as broken after a third of the time of silence: 10 s.
        self.start(relay, "{ fallback: eventStreams() }")
        self.follow("kept.away")
        for attempts in (2, 3, 4):
            with relay.cut():
                for _ in range(attempts):
                    # Delays of a client that loses its connection again and again grow.
                    script = """
                        const before = of("client", "connecting").length;
                        client.retry();
                        await until(() => of("client", "connecting").length > before);
                    """
                    self.run_js(script)
            self.run_js('while (client.state !== "open") { client.retry(); await new Promise((resolve) => setTimeout(resolve, 50)); }')
            self.publish_as_operator(server, "kept.away", attempts)
            self.until('of("kept.away", "message").at(-1)?.data === args[0]', attempts)
        self.assertEqual(set(self.opened()), {False})
        self.assert_whole("kept.away", 3)

    def test_a_publication_that_may_have_arrived_is_uncertain_behind_a_proxy_that_breaks_websockets(self):
        server = self.serve()
        proxy = self.breaking(server)
        self.start(proxy, self.FALLBACK)
        self.follow("kept.doubt")
        with proxy.held():
            self.run_js('globalThis.sent = failure(client.publish("kept.doubt", { data: 1 }))')
            wait_until(lambda: self.offset_of(server, "kept.doubt") > 0, "it is published")
            proxy.mode = "refused"
            with proxy.cut():
                pass
        self.assertEqual(self.run_js("return (await sent)[0]"), "uncertain")
        self.until('of("kept.doubt", "message").length === 1')

    def test_what_ends_an_event_stream_is_told_as_on_a_websocket(self):
        server = self.serve()
        self.start(self.breaking(server, "refused"), self.FALLBACK)
        self.run_js('["closed.a", "kept.ends", "oldest.ends"].forEach((topic) => follow(client, topic))')
        self.until('of("closed.a", "ended").length === 1 && of("kept.ends", "subscribed").length === 1')
        self.assertEqual(self.events("closed.a", "ended")[0]["error"]["code"], "forbidden")
        self.publish(server, "kept.ends", data=1)
        self.until('of("kept.ends", "message").length === 1')
        self.assertEqual(server.get("/connections?topic=kept.ends", "DELETE")[0], 200)
        self.publish(server, "kept.ends", data=2)
        self.until('of("kept.ends", "message").length === 2')
        self.assert_whole("kept.ends", 2)
        self.assertIn(4010, [event["code"] for event in self.events("client", "connecting")])
        # A server that has forgotten the topic says so.
        self.page.reload()
        other = self.serve()
        self.start(self.breaking(other, "refused"), self.FALLBACK)
        self.follow("kept.reset", position={"epoch": "77e0", "offset": 12})
        self.until('of("kept.reset", "reset").length === 1')

    def test_event_streams_have_the_token_and_a_dead_one_is_noticed(self):
        server = self.guarded()
        proxy = self.breaking(server, "refused")
        self.run_js("globalThis.tokens = args", self.token(600))
        options = "{ fallback: eventStreams({ silenceMs: 1000 }), silenceMs: 3000, token: () => tokens[0] }"
        self.start(proxy, options)
        self.follow("kept.token")
        with proxy.held():
            self.until('of("client", "connecting").some(({ reason }) => reason === "a silent stream")')
        self.publish_as_operator(server, "kept.token", 1)
        self.until('of("kept.token", "message").length === 1')
        self.assert_whole("kept.token", 1)
        self.assertEqual(json.loads(server.get("/connections?topic=kept.token")[2])["connections"][0]["identity"], "alice")

    def publish_as_operator(self, server, topic, value):
        status, _, _ = request(server.admin, "POST", f"/topics/{topic}", json.dumps(value).encode(), {"Content-Type": "application/json"})
        self.assertEqual(status, 200)

    # ---- history ----

    def test_history_is_read_by_pages_and_moves_no_position(self):
        server = self.serve()
        self.start(server)
        for number in range(30):
            self.publish(server, "kept.pages", **({"data": [number]} if number % 2 else {"text": f"{number}", "key": "k"}))
        self.follow("kept.pages")
        script = """
            const pages = [];
            for (let before = null; pages.length === 0 || before !== null; before = pages.at(-1).next) {
                pages.push(await subscription.history({ before, limit: 13 }));
            }
            return [pages.map(({ messages }) => messages.length), pages.toReversed().flatMap(({ messages }) => messages), pages[0].position, subscription.position];
        """
        lengths, messages, position, own = self.run_js(script)
        self.assertEqual((lengths, position), ([13, 13, 4], own))
        self.assertEqual([message["offset"] for message in messages], list(range(1, 31)))
        self.assertEqual(messages[-1], {"offset": 30, "key": None, "kind": "json", "data": [29]})
        self.assertEqual(messages[-2], {"offset": 29, "key": "k", "kind": "text", "data": "28"})
        self.publish(server, "kept.pages", data=30)
        self.until('of("kept.pages", "message").length === 1')
        self.assert_whole("kept.pages", 31, first=31)
        self.assertEqual(self.run_js("return (await failure(subscription.history({ limit: 257 })))[0]"), "bad-field")

    # ---- tokens ----

    def guarded(self):
        return self.serve("--auth-jwt-key", self.enterContext(text_file(SECRET, "")))

    def token(self, seconds):
        claims = {"sub": "alice", "exp": int(time.time()) + seconds}
        return jwt.encode(claims, SECRET, "HS256")

    def pass_time(self, seconds):
        end = time.monotonic() + seconds
        wait_until(lambda: time.monotonic() > end, "the token has expired")

    def test_a_token_is_renewed_before_it_expires(self):
        server = self.guarded()
        self.run_js("globalThis.tokens = args", self.token(6), self.token(600))
        self.start(server, "{ token: async () => tokens.shift() }")
        self.follow("kept.renewed")
        wait_until(lambda: self.run_js("return tokens.length") == 0, "another token was fetched")
        self.pass_time(6)
        self.assertEqual(self.run_js('return await client.publish("kept.renewed", { data: 1 })')["offset"], 1)
        self.until('of("kept.renewed", "message").length === 1')
        self.assert_no_loss_of_connection()

    def test_an_expired_session_returns_with_another_token_and_misses_nothing(self):
        server = self.guarded()
        self.run_js("[globalThis.first, globalThis.second] = args", self.token(3), self.token(600))
        source = """{
            async token() {
                if (seen.length <= 1) return first;
                if (!of("client", "connecting").some(({ code }) => code === 4001)) throw new Error("the back end is away");
                return second;
            }
        }"""
        self.start(server, source)
        self.follow("kept.expired")
        self.until('of("client", "connecting").some(({ code }) => code === 4001)')
        self.run_js('globalThis.published = client.publish("kept.expired", { data: 1 })')
        self.until('of("kept.expired", "message").length === 1')
        self.assertEqual(self.run_js("return await published")["offset"], 1)
        self.assertEqual([event["recovered"] for event in self.events("kept.expired", "subscribed")], [None, True])

    def test_an_expired_cookie_is_renewed_by_a_new_connection(self):
        secret = self.enterContext(text_file(SECRET, ""))
        server = self.serve("--auth-jwt-key", secret, "--auth-cookie", "user")
        self.set_cookie(f"user={self.token(3)}")
        self.start(server, self.COOKIES)
        self.follow("kept.cookie")
        # Nobody has renewed it when the session ends: the handshakes after it are refused.
        self.until('of("client", "connecting").some(({ code }) => code === 4001) && of("client", "connecting").length > 3')
        self.publish_as_operator(server, "kept.cookie", 1)
        self.set_cookie(f"user={self.token(600)}")
        self.until('of("kept.cookie", "message").length === 1')
        self.assert_whole("kept.cookie", 1)
        self.assertEqual([event["recovered"] for event in self.events("kept.cookie", "subscribed")], [None, True])
        self.assertEqual(self.events("client", "closed"), [])

    def test_a_user_without_a_token_is_told_so_and_a_source_that_fails_is_asked_again(self):
        server = self.guarded()
        self.run_js("globalThis.calls = 0; globalThis.tokens = args", self.token(600))
        source = """{
            async token() {
                calls += 1;
                if (calls < 3) throw new Error("the back end is away");
                return tokens[0];
            }
        }"""
        self.start(server, source)
        self.follow("kept.late")
        self.assertEqual(self.run_js("return calls"), 3)
        reasons = [event["reason"] for event in self.events("client", "connecting")]
        self.assertEqual(reasons, ["", "no token: the back end is away", "no token: the back end is away"])
        self.page.reload()
        script = """
            globalThis.client = start(args[0], { token: async () => { throw new Unauthorized(); } });
            follow(client, "kept.nobody");
        """
        self.run_js(script, server.url("/broadcast"))
        self.until('of("client", "closed").length === 1')
        self.assertEqual(self.events("client", "closed")[0]["error"]["code"], "unauthorized")
        self.assertEqual([event["reason"] for event in self.events("kept.nobody", "unsubscribed")], ["closed"])

    def test_a_token_that_is_refused_ends_nothing(self):
        server = self.guarded()
        wrong = jwt.encode({"sub": "alice", "exp": int(time.time()) + 600}, SECRET[::-1], "HS256")
        self.run_js("globalThis.tokens = args", self.token(8), wrong, wrong, self.token(600))
        self.start(server, "{ token: async () => tokens.shift() }")
        self.follow("kept.renewed")
        wait_until(lambda: self.run_js("return tokens.length") == 0, "another token was fetched")
        self.pass_time(8)
        self.assertEqual(self.run_js('return await client.publish("kept.renewed", { data: 1 })')["offset"], 1)
        self.assert_no_loss_of_connection()

    # ---- presence ----

    def test_members_are_listed_and_followed(self):
        server = self.serve()
        others = [RawClient(server).open() for _ in range(2)]
        self.addCleanup(lambda: [other.close() for other in others])
        first = others[0].subscribe("who.is")["client"]
        self.start(server)
        own = self.follow("who.is", presence=True)
        self.assertEqual(own["count"], 2)
        self.until('of("who.is", "members").length === 1')
        members = "return [...subscription.members.keys()].sort()"
        self.assertEqual(self.run_js(members), sorted([first, own["client"]]))
        second = others[1].subscribe("who.is")["client"]
        self.until('of("who.is", "join").some(({ client }) => client === args[0])', second)
        self.assertEqual(self.run_js(members), sorted([first, second, own["client"]]))
        self.assertEqual(self.run_js("return subscription.count"), 3)
        page = "const page = await subscription.presence({ limit: 1 }); return [page.count, page.members.size, page.next]"
        count, size, following = self.run_js(page)
        self.assertEqual((count, size), (3, 1))
        rest = "const page = await subscription.presence({ after: args[0] }); return [page.members.size, page.next]"
        self.assertEqual(self.run_js(rest, following), [2, None])
        others[0].close()
        self.until('of("who.is", "leave").some(({ client }) => client === args[0])', first)
        self.assertEqual(self.run_js(members), sorted([second, own["client"]]))


class WithNode(Behaviour):
    """A Node has no cookies of its own: its WebSocket takes header fields."""

    COOKIES = """{
        WebSocket: class extends WebSocket {
            constructor(url, protocols) { super(url, { protocols, headers: { cookie } }); }
        },
    }"""

    def set_cookie(self, cookie):
        self.run_js("globalThis.cookie = args[0]", cookie)


class InOldestNode(WithNode, unittest.TestCase):
    """The oldest Node that the package names."""

    @classmethod
    def setUpClass(cls):
        programs.require("node-oldest")
        super().setUpClass()

    def setUp(self):
        self.page = NodePage(programs.OLDEST_NODE)
        self.addCleanup(lambda: self.page.close())
        super().setUp()

    def test_it_is_the_oldest_that_the_package_names(self):
        package = json.loads(read(os.path.join(CLIENT, "package.json")))
        major = re.fullmatch(r"v(\d+)\.0\.0", self.run_js("return process.version"))[1]
        self.assertEqual(package["engines"]["node"], f">={major}")
        self.assertIn(f"Node {major} or later", read(os.path.join(CLIENT, "README.md")))
        self.assertIn(f"Node {major} or later", read("docs/guide/clients.md"))


class InNode(WithNode, unittest.TestCase):
    def setUp(self):
        self.page = NodePage(programs.NODE)
        self.addCleanup(lambda: self.page.close())
        super().setUp()

    def test_a_closed_client_leaves_nothing_that_keeps_the_process(self):
        server = self.serve()
        script = f"""
            const {{ Client }} = await import({json.dumps("file://" + MODULE)});
            const client = new Client(process.argv[1]);
            client.subscribe("t").addEventListener("subscribed", () => client.close());
        """
        command = [programs.NODE, "--input-type=module", "-e", script, server.url("/broadcast")]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        self.assertEqual((ended.returncode, ended.stderr), (0, ""))

    def test_the_types_name_what_the_module_has(self):
        declared = {}
        for kind in re.finditer(r"^export class (\w+).*?\{\n(.*?)^\}", read(os.path.join(CLIENT, "echoring.d.ts")), re.S | re.M):
            members = re.findall(r"^  (?:private |readonly )*(\w+)\??[(:<]", kind[2], re.M)
            declared[kind[1]] = sorted(set(members) - {"addEventListener", "removeEventListener"})
        script = """
            const exported = await import(args[0]);
            const own = (type) => Object.getOwnPropertyNames(type.prototype);
            return Object.fromEntries(Object.entries(exported).map(([name, type]) => [name, own(type).sort()]));
        """
        actual = self.run_js(script, "file://" + MODULE)
        # Fields of errors are not in their prototype.
        fields = self.run_js('return Object.keys(new EchoringError("c", "m", { field: "f", closeCode: 1 }))')
        actual["EchoringError"] = sorted({"constructor", *fields} - {"name"})
        self.assertEqual(declared, actual)

    def test_the_types_compile_in_a_program_for_node_and_in_one_for_pages(self):
        packages = programs.NODE_MODULES
        if not os.path.isdir(os.path.join(packages, "typescript")):
            self.skipTest("npm's typescript not installed")
        compile_only = ["--noEmit", "--strict", "--target", "es2022", "--module", "nodenext"]
        source = os.path.join(programs.HERE, "typed_client.ts")
        for of in (["--lib", "es2022", "--typeRoots", os.path.join(packages, "@types"), "--types", "node"],
                   ["--lib", "es2022,dom", "--typeRoots", "/nonexistent"]):
            command = [programs.NODE, os.path.join(packages, "typescript", "bin", "tsc"), *compile_only, *of, source]
            compiled = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
            self.assertEqual((compiled.returncode, compiled.stdout), (0, ""))

    def test_the_types_have_every_code_of_the_reference(self):
        errors = read("docs/reference/broadcast.md").split("## Errors")[1].split("## Drain")[0]
        rows = re.findall(r"^\| (`[^|]*`) \|", errors, re.M)
        documented = {code for row in rows for code in re.findall(r"`([a-z-]+)`", row)} - {"code"}
        declared = re.search(r"type RefusalCode =\n(.*?);", read(os.path.join(CLIENT, "echoring.d.ts")), re.S)[1]
        self.assertEqual(documented, set(re.findall(r'"([a-z-]+)"', declared)))

    def npm(self, folder, *words):
        command = [programs.NODE, programs.NPM, *words, "--offline", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_the_package_is_installed_from_its_archive_with_its_types_and_licences(self):
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.npm(folder, "pack", CLIENT)
        (archive,) = os.listdir(folder)
        self.npm(folder, "install", archive)
        package = os.path.join(folder, "node_modules", "echoring")
        told = json.loads(read(os.path.join(package, "package.json")))
        workspace = re.search(r"^\[workspace\.package\].*?^\[", read("Cargo.toml"), re.S | re.M)[0]
        for key in ("version", "license"):
            self.assertIn(f'\n{key} = "{told[key]}"\n', workspace)
        self.assertEqual(os.path.abspath(told["repository"]["directory"]), CLIENT)
        files = {name for entry in told["exports"].values() for name in entry.values()}
        licences = [name for name in os.listdir(".") if name.startswith("LICENSE")]
        self.assertEqual(set(os.listdir(package)), {*map(os.path.basename, files), *licences, "package.json", "README.md"})
        for name in licences:
            self.assertEqual(read(os.path.join(package, name)), read(name))
        script = 'console.log(typeof (await import("echoring")).Client, typeof (await import("echoring/event-streams")).eventStreams)'
        command = [programs.NODE, "--input-type=module", "-e", script]
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S)
        self.assertEqual((run.stdout, run.stderr), ("function function\n", ""))

    def test_the_server_serves_the_client_for_its_pages_and_it_is_small(self):
        server = self.serve()
        status, headers, body = server.get("/echoring.js", address=(server.host, server.port))
        self.assertEqual((status, headers["Content-Type"]), (200, "text/javascript; charset=utf-8"))
        self.assertEqual((headers["Cache-Control"], headers["X-Content-Type-Options"]), ("no-cache", "nosniff"))
        self.assertEqual(body.decode(), read(MODULE))
        for name, most in COMPRESSED_BYTES_MAX.items():
            self.assertLessEqual(len(gzip.compress(read(os.path.join(CLIENT, name)).encode(), 9)), most)
        hidden = self.serve("--demo", "off")
        self.assertEqual(hidden.get("/echoring.js", address=(hidden.host, hidden.port))[0], 404)


class WithBrowser(Behaviour):
    HEAVY = True
    # Ports share cookies.
    COOKIES = "{}"

    def set_cookie(self, cookie):
        self.addCleanup(self.run_js, "document.cookie = 'user=; max-age=0'")
        self.run_js("document.cookie = args[0]", cookie)

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.page = BrowserPage(cls.browser())
        cls.addClassCleanup(cls.page.close)
        cls.origin = cls.page.origin

    def setUp(self):
        self.page.open()
        super().setUp()

    # ---- what only pages do ----

    def test_event_streams_have_the_cookies_of_the_page(self):
        secret = self.enterContext(text_file(SECRET, ""))
        server = self.serve("--auth-jwt-key", secret, "--auth-cookie", "user")
        self.set_cookie(f"user={self.token(600)}")
        self.start(self.breaking(server, "refused"), self.FALLBACK)
        self.follow("kept.cookies")
        self.publish_as_operator(server, "kept.cookies", 1)
        self.until('of("kept.cookies", "message").length === 1')

    def test_a_network_that_is_back_is_used_at_once(self):
        with refusing_port() as port:
            self.start(f"ws://127.0.0.1:{port}/broadcast")
            # The next delays are seconds long, and random.
            self.until('of("client", "connecting").some(({ attempt, delayMs }) => attempt > 3 && delayMs > 1000)')
            attempts = len(self.events("client", "connecting"))
            for event in ("window.dispatchEvent(new Event('online'))", "document.dispatchEvent(new Event('visibilitychange'))", "client.retry()"):
                self.run_js(f'await until(() => of("client", "connecting").length === args[0]); {event}', attempts)
                attempts += 1
            self.until('of("client", "connecting").length >= args[0]', attempts)

    def test_a_delay_that_the_server_asked_for_is_not_cut_short_by_the_page(self):
        with Closing((1001, "retry after 3600000 ms")) as server:
            self.start(server.url)
            self.until('of("client", "connecting").length === 2')
            self.run_js("window.dispatchEvent(new Event('online')); document.dispatchEvent(new Event('visibilitychange'))")
            server.wait_for_sessions(1)
            self.run_js("client.retry()")
            self.until('of("client", "open").length === 2')
            server.wait_for_sessions(2)

    def test_a_page_that_is_left_and_shown_again_continues(self):
        server = self.serve()
        self.start(server)
        self.follow("kept.shown")
        self.publish(server, "kept.shown", data=1)
        self.until('of("kept.shown", "message").length === 1')
        self.run_js("window.dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
        wait_until(lambda: json.loads(server.get("/connections?topic=kept.shown")[2])["connections"] == [], "it has left")
        self.publish(server, "kept.shown", data=2)
        self.run_js("window.dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
        self.until('of("kept.shown", "message").length === 2')
        self.assert_whole("kept.shown", 2)


@unittest.skipUnless(available(), "chromium and chromedriver are not installed")
class InChromium(WithBrowser, unittest.TestCase):
    browser = Browser


@unittest.skipUnless(FIREFOX, "firefox is not installed")
class InFirefox(WithBrowser, unittest.TestCase):
    RELEASE = True
    browser = Firefox
    # Firefox reads from a connection whose page does not, without a bound.
    test_a_page_that_reads_slowly_is_told_which_messages_it_missed = None


if __name__ == "__main__":
    unittest.main()
