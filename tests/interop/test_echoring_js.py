"""`echoring.js`, the client for pages, in Chromium and in Node: what it tells while servers, networks and tokens come and go."""

import contextlib
import gzip
import http.server
import json
import os
import re
import subprocess
import threading
import time
import unittest

import jwt
import programs
from async_server import AsyncServer
from harness import PATIENCE_S, Server, first_line, refusing_port, request, suspended, text_file, wait_until
from relay import Relay
from test_v1 import RawClient
from webdriver import Browser, available
from websockets.asyncio.server import serve

CLIENT = os.path.abspath("src/server/pages/client")
MODULE = os.path.join(CLIENT, "echoring.js")
COMPRESSED_BYTES_MAX = 8 * 1024
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
presence = true

[[topics]]
pattern = "who.*"
presence = true
"""


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


class NodePage:
    """Node, which runs scripts as a page does."""

    def __init__(self):
        self.open()

    def open(self):
        command = [*programs.node("page.mjs"), MODULE]
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


class ChromiumPage:
    """A page of another origin than the server's, with a copy of the client."""

    def __init__(self):
        page = self
        self.texts = {"/echoring.js": read(MODULE), "/events.mjs": read(os.path.join(programs.HERE, "events.mjs"))}
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
        self.browser = Browser()

    def open(self):
        self.browser.open(f"{self.origin}/")
        self.run('(await import("/events.mjs")).install(await import("/echoring.js"), globalThis)')

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

    # ---- connections ----

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
        final = [1002, 1003, 1007, 1008, 1009, 1010, 4000, 4001, 4003, 4999]
        temporary = [1000, 1001, 1011, 1012, 1013, 1014, 3000, 4008]
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
        self.assertEqual(self.events("kept.nobody", "ended")[0]["error"]["code"], "unauthorized")

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


class InNode(Behaviour, unittest.TestCase):
    def setUp(self):
        self.page = NodePage()
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

    def test_the_package_has_the_version_of_the_program_and_all_of_its_files(self):
        package = json.loads(read(os.path.join(CLIENT, "package.json")))
        version = re.search(r'^\[workspace\.package\].*?^version = "([^"]+)"', read("Cargo.toml"), re.S | re.M)[1]
        self.assertEqual(package["version"], version)
        for name in (*package["files"], package["main"], package["types"]):
            self.assertTrue(os.path.exists(os.path.join(CLIENT, name)), name)

    def test_the_server_serves_the_client_for_its_pages_and_it_is_small(self):
        server = self.serve()
        status, headers, body = server.get("/echoring.js", address=(server.host, server.port))
        self.assertEqual((status, headers["Content-Type"]), (200, "text/javascript; charset=utf-8"))
        self.assertEqual((headers["Cache-Control"], headers["X-Content-Type-Options"]), ("no-cache", "nosniff"))
        self.assertEqual(body.decode(), read(MODULE))
        self.assertLessEqual(len(gzip.compress(body, 9)), COMPRESSED_BYTES_MAX)
        hidden = self.serve("--demo", "off")
        self.assertEqual(hidden.get("/echoring.js", address=(hidden.host, hidden.port))[0], 404)


@unittest.skipUnless(available(), "chromium and chromedriver are not installed")
class InChromium(Behaviour, unittest.TestCase):
    HEAVY = True

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.page = ChromiumPage()
        cls.addClassCleanup(cls.page.close)
        cls.origin = cls.page.origin

    def setUp(self):
        self.page.open()
        super().setUp()

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

    def test_the_page_of_the_guide_works(self):
        server = self.guarded()
        example = re.search(r"```html\n(.*?)```", read("docs/guide/clients.md"), re.S)[1]
        self.page.texts["/example"] = example.replace("wss://live.example/broadcast", server.url("/broadcast"))
        self.page.texts["/token"] = self.token(600)
        self.addCleanup(self.page.texts.pop, "/token", None)
        browser, url = self.page.browser, f"{self.origin}/example"

        def shows(element, expected):
            browser.until(f"document.querySelector('#{element}').textContent === {json.dumps(expected)}")

        browser.open(url)
        shows("state", "connected")
        browser.press("#text", "hello\n")
        shows("news", "1: hello")
        shows("state", "published 1")
        browser.open("about:blank")
        for number in range(2, 120):
            request(server.admin, "POST", "/topics/news", str(number).encode(), {"Content-Type": "text/plain"})
        browser.open(url)
        browser.until("document.querySelectorAll('#news li').length === 101")
        self.assertEqual(browser.text("#news li:first-child"), "missed 2 to 19: history")
        self.assertEqual(browser.text("#news li:last-child"), "119: 119")
        del self.page.texts["/token"]
        browser.open(url)
        shows("state", "the user gets no token")


if __name__ == "__main__":
    unittest.main()
