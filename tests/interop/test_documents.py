"""The programs of README and of the pages: each JavaScript, HTML and Python block, and each command of README, runs and has its effect.

README's Rust programs are run by `tests/sockets/readme.rs`, and the Rust blocks of pages are tests of the documentation.
"""

import contextlib
import functools
import http.server
import json
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import jwt
import programs
import trustme
from harness import BINARY, PATIENCE_S, Log, Program, Server, request, text_file, wait_until
from relay import Relay
from test_echoring_js import CLIENT, BreakingProxy, BrowserPage
from test_nginx import replaced
from test_v1 import RawClient
from webdriver import Browser, available
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import serve

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts"))

import docs_check  # noqa: E402

README = "README.md"
PACKAGE = "src/server/pages/client/README.md"
LANGUAGES = {"js", "html", "python", "toml"}
# Of these pages: others show parts of files.
TOML_OF = {"docs/guide/browser-recipes.md"}
SECRET = "a secret of at least thirty-two bytes"
RECIPES = "docs/guide/browser-recipes.md"
LIVE = "wss://live.example"

# Why a block, named by its page and a part of its text, is not run.
NOT_RUN = {
    (README, "cargo install --path src/cli && echoring serve"): "scripts/test builds the same program",
    (README, "scripts/test "): "it runs this test",
    (README, "--agents 3"): "it needs three machines; test_agents runs agents",
    ("docs/guide/from-k6.md", "import ws from 'k6/ws'"): "k6 is in no package registry that the tests install from",
}

# What runs: pairs of page and part.
RUN = []


@functools.cache
def blocks():
    """The blocks that are programs, as pairs of page and text. Each line of README's shell blocks is one."""
    found = []
    for path in (*docs_check.sources(), os.path.join(docs_check.ROOT, PACKAGE)):
        page = docs_check.shown(path)
        for _, _, language, text in docs_check.FENCE.findall(docs_check.read(path)):
            if language in LANGUAGES and (language != "toml" or page in TOML_OF):
                found.append((page, text))
            elif page == README and language == "sh":
                found += [(page, line) for line in text.splitlines()]
    return found


def block(page, part):
    """The only block of a page with this part."""
    texts = [text for name, text in blocks() if name == page and part in text]
    assert len(texts) == 1, f"{page} has {len(texts)} blocks with {part!r}"
    return texts[0]


def runs(page, part):
    """Marks a test that runs the block of a page that has this part. The test gets its text."""
    RUN.append((page, part))

    def decorate(test):
        return functools.wraps(test)(lambda self, *texts: test(self, *texts, block(page, part)))

    return decorate


class Script(Program):
    """Runs a module in Node, beside the client and where Node finds npm's packages, for the duration of the block."""

    def __init__(self, text):
        self.directory = tempfile.TemporaryDirectory(dir=programs.TARGET)
        path = os.path.join(self.directory.name, "program.mjs")
        for name in ("echoring.js", "event-streams.js"):
            shutil.copy(os.path.join(CLIENT, name), self.directory.name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        super().__init__(programs.NODE, "--no-warnings", path, stdout=subprocess.PIPE)
        self.stdout = Log(self.process.stdout)

    def __exit__(self, *_):
        super().__exit__()
        self.directory.cleanup()


def publish(server, topic, body, kind="application/json"):
    body = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    status, _, answer = request(server.admin, "POST", f"/topics/{topic}", body, {"Content-Type": kind})
    assert status == 200, (status, answer)


def offset_of(server, topic):
    status, _, body = server.get(f"/topics/{topic}")
    return json.loads(body)["position"]["offset"] if status == 200 else 0


def token(**claims):
    return jwt.encode({"sub": "alice", "exp": int(time.time()) + 600, **claims}, SECRET, "HS256")


@contextlib.contextmanager
def running(server):
    """Serves in a thread inside the block."""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


class Servers(unittest.TestCase):
    def serve(self, *flags, **options):
        return self.enterContext(Server("--shards", "2", *flags, **options))

    def guarded(self, *flags):
        return self.serve("--auth-jwt-key", self.enterContext(text_file(SECRET, "")), *flags)

    def configured(self, text, *flags):
        return self.serve("--config", self.enterContext(text_file(text)), *flags)

    def relay(self, server):
        relay = Relay(server.host, server.port)
        self.addCleanup(relay.close)
        return relay

    def run_module(self, text):
        return self.enterContext(Script(text))


class EveryBlock(unittest.TestCase):
    def test_each_runs_or_has_a_reason_not_to(self):
        known = [*RUN, *NOT_RUN]
        for page, part in known:
            block(page, part)
        for page, text in blocks():
            claims = [one for one in known if one[0] == page and one[1] in text]
            self.assertEqual(len(claims), 1, f"{page} has a block that is run by {claims}:\n{text}")


class InNode(Servers):
    @runs(PACKAGE, "new Client(")
    def test_the_client_of_the_package_tells_what_came_and_what_it_missed(self, text):
        server = self.serve()
        relay = self.relay(server)
        script = self.run_module(replaced(text, f"{LIVE}/broadcast", relay.url("/broadcast")))
        script.stdout.wait_for(r"^1 \{ hello: 'world' \}$")
        with relay.cut():
            for number in range(2, 122):
                publish(server, "news", number)
        script.stdout.wait_for(r"^missed 2 to 21: history$")
        script.stdout.wait_for(r"^121 121$")

    @runs("docs/guide/clients.md", 'const news = client.newSubscription("news"')
    def test_the_client_with_npms_centrifuge_prints_states_messages_losses_and_the_end(self, text):
        programs.require("centrifuge")
        server = self.serve()
        relay = self.relay(server)
        script = self.run_module(replaced(text, f"{LIVE}/connection/websocket", relay.url("/connection/websocket")))
        script.stderr.wait_for("^connected$")
        wait_until(lambda: server.get("/topics/news")[0] == 200, "it has subscribed")
        publish(server, "news", {"hello": 1})
        script.stdout.wait_for(r"^\{ hello: 1 \}$")
        with relay.cut():
            for number in range(120):
                publish(server, "news", number)
        script.stdout.wait_for("^missed messages$")
        with serve(lambda connection: connection.close(4500, "over"), "127.0.0.1", 0) as final:
            self.enterContext(running(final))
            with relay.cut():
                relay.server = final.socket.getsockname()
            script.stderr.wait_for("^4500 over$")
        self.assertEqual(script.wait(), 1)

    @runs("docs/reference/centrifuge.md", "fetchEverything")
    def test_a_subscription_of_the_sdk_shows_messages_and_fetches_everything_after_a_loss(self, text):
        programs.require("centrifuge")
        server = self.guarded()
        relay = self.relay(server)
        text = replaced(text, f"{LIVE}/connection/websocket", relay.url("/connection/websocket"))
        given = f"""
            const token = {json.dumps(token())};
            const show = (data) => console.log("show", data);
            const fetchEverything = () => console.log("fetch");
        """
        script = self.run_module(given + text)
        wait_until(lambda: server.get("/topics/prices.EUR")[0] == 200, "it has subscribed")
        publish(server, "prices.EUR", {"bid": 1})
        script.stdout.wait_for(r"^show \{ bid: 1 \}$")
        with relay.cut():
            for number in range(120):
                publish(server, "prices.EUR", number)
        script.stdout.wait_for("^fetch$")

    def with_sdk(self, server, text, publish_all):
        """Runs a block that makes a subscription. Returns what it was sent, and the frames."""
        programs.require("centrifuge")
        given = f"""
            import {{ Centrifuge }} from "centrifuge";
            const client = new Centrifuge({json.dumps(server.url("/connection/websocket"))}, {{
                websocket: class extends WebSocket {{
                    constructor(...args) {{
                        super(...args);
                        this.addEventListener("message", ({{ data }}) => console.log("frame", data));
                    }}
                }},
            }});
            client.connect();
        """
        then = """
            const [subscription] = Object.values(client.subscriptions());
            subscription.on("publication", ({ data }) => console.log("got", JSON.stringify(data)));
            subscription.on("subscribed", () => console.log("subscribed"));
            subscription.subscribe();
        """
        script = self.run_module(given + text + then)
        script.stdout.wait_for("^subscribed$")
        publish_all()
        script.stdout.wait_for('^got "last"$')
        lines = script.stdout.lines
        return [json.loads(line[4:]) for line in lines if line.startswith("got ")], [line for line in lines if line.startswith("frame ")]

    @runs("docs/reference/centrifuge.md", 'delta: "fossil"')
    def test_a_subscription_with_deltas_gets_whole_values_from_deltas(self, text):
        server = self.configured('[[topics]]\npattern = "tables.*"\ndelta = "fossil"\n')
        values = [{"rows": ["a row of the table"] * 20, "number": number} for number in range(3)] + ["last"]
        got, frames = self.with_sdk(server, text, lambda: [publish(server, "tables.7", json.dumps(value)) for value in values])
        self.assertEqual(got, values)
        self.assertEqual(sum('"delta":true' in frame and '"pub"' in frame for frame in frames), 2)

    @runs("docs/reference/centrifuge.md", "tagsFilter")
    def test_a_subscription_with_a_filter_gets_what_it_asks_for(self, text):
        server = self.configured('[[topics]]\npattern = "market"\nallow_tags_filter = true\n')

        def publish_all():
            for number, symbol in enumerate(("EUR", "USD", "JPY", "GBP")):
                server.call("publish", channel="market", data=number, tags={"symbol": symbol})
            server.call("publish", channel="market", data="last", tags={"symbol": "EUR"})

        self.assertEqual(self.with_sdk(server, text, publish_all)[0], [0, 2, "last"])

    @runs(RECIPES, "useSyncExternalStore(watch")
    def test_components_of_react_share_a_subscription_and_continue(self, text):
        programs.require("react")
        server = self.serve()
        then = f"""
            import {{ StrictMode, createElement }} from "react";
            import {{ create }} from "react-test-renderer";
            import {{ Client }} from "./echoring.js";
            const client = new Client({json.dumps(server.url("/broadcast"))});
            const subscribe = client.subscribe.bind(client);
            // React mounts twice here, and a subscription that ended meanwhile is not told.
            client.subscribe = (name, options) => {{
                const topic = subscribe(name, options);
                topic.addEventListener("subscribed", () => console.log("subscribed", name));
                return topic;
            }};
            function Count() {{
                const {{ messages, missed }} = useTopic(client, "news");
                console.log("shows", messages.map(({{ offset, data }}) => `${{offset}} ${{data}}`).join(), missed);
                return null;
            }}
            const mount = () => create(createElement(StrictMode, null, createElement(Count), createElement(Count)));
            let root = mount();
            client.subscribe("control").addEventListener("message", ({{ data }}) => {{
                if (data === "mount") root = mount();
                else root.unmount();
            }});
        """
        script = self.run_module(text + then)
        for topic in ("news", "control"):
            script.stdout.wait_for(f"^subscribed {topic}$")
        subscribers = lambda topic: server.get(f"/topics/{topic}")[0] == 200 and json.loads(server.get(f"/topics/{topic}")[2])["subscribers"]
        wait_until(lambda: subscribers("news") == 1 and subscribers("control") == 1, "one subscription for two components")
        publish(server, "news", "one", "text/plain")
        script.stdout.wait_for("^shows 1 one 0$")
        publish(server, "control", "unmount", "text/plain")
        wait_until(lambda: subscribers("news") in (0, False), "no component is left")
        publish(server, "news", "two", "text/plain")
        publish(server, "control", "mount", "text/plain")
        script.stdout.wait_for("^shows 1 one,2 two 0$")
        self.assertNotIn("rror", "".join(script.stderr.lines))

    @runs(RECIPES, "fallback: eventStreams()")
    def test_behind_a_breaking_proxy_a_program_receives_and_publishes_through_its_back_end(self, text):
        server = self.serve()
        proxy = BreakingProxy(server.host, server.port)
        proxy.mode = "refused"
        self.addCleanup(proxy.close)

        class BackEnd(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                publish(server, "news", body.decode(), "text/plain")
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        back_end = http.server.ThreadingHTTPServer(("127.0.0.1", 0), BackEnd)
        self.addCleanup(back_end.server_close)
        self.enterContext(running(back_end))
        text = replaced(text, "https://app.example", f"http://127.0.0.1:{back_end.server_address[1]}")
        script = self.run_module(replaced(text, f"{LIVE}/broadcast", proxy.url("/broadcast")))
        script.stdout.wait_for("^receiving only$")
        script.stdout.wait_for("^1 hello$")
        proxy.mode = None
        with proxy.cut():
            publish(server, "news", "missed", "text/plain")
        script.stdout.wait_for("^connected$")
        script.stdout.wait_for("^2 missed$")

    @runs("docs/guide/authenticate.md", '"bearer", token]')
    def test_a_token_among_the_subprotocols_is_taken_and_never_repeated(self, text):
        server = self.guarded()
        given = f"""
            const token = {json.dumps(token())};
            globalThis.WebSocket = class extends WebSocket {{
                constructor(...args) {{
                    super(...args);
                    this.onopen = () => console.log("open", this.protocol);
                }}
            }};
        """
        script = self.run_module(given + text.replace(LIVE, server.url("")))
        script.stdout.wait_for(r"^open echoring\.v1\.json$")
        script.stdout.wait_for("^open bearer$")

    @runs("docs/guide/from-ws.md", "new WebSocketServer({ port: 8080 })")
    def test_the_server_of_ws_welcomes_and_echoes(self, text):
        programs.require("ws")
        then = "wss.on('listening', () => console.log('port %d', wss.address().port));"
        script = self.run_module(replaced(text, "8080", "0") + then)
        port = script.stdout.wait_for(r"^port (\d+)$")[1]
        with connect(f"ws://127.0.0.1:{port}/") as client:
            self.assertEqual(client.recv(PATIENCE_S), "welcome")
            for message in ("text", b"bytes"):
                client.send(message)
                self.assertEqual(client.recv(PATIENCE_S), message)
            client.close(4321, "done")
        script.stdout.wait_for("^closed with 4321 done$")

    @runs("docs/guide/from-ws.md", "const rooms = new Map()")
    def test_the_rooms_of_ws_tell_their_members(self, text):
        programs.require("ws")
        given = """
            import { WebSocket, WebSocketServer } from "ws";
            const wss = new WebSocketServer({ port: 0 });
            wss.on("listening", () => console.log("port %d", wss.address().port));
        """
        port = self.run_module(given + text).stdout.wait_for(r"^port (\d+)$")[1]
        with connect(f"ws://127.0.0.1:{port}/blue?name=Ann") as ann, connect(f"ws://127.0.0.1:{port}/red?name=Eve"):
            self.assertEqual(ann.recv(PATIENCE_S), "Ann is here")
            with connect(f"ws://127.0.0.1:{port}/blue?name=Bob") as bob:
                self.assertEqual((ann.recv(PATIENCE_S), bob.recv(PATIENCE_S)), ("Bob is here",) * 2)
                bob.send("hello")
                self.assertEqual((ann.recv(PATIENCE_S), bob.recv(PATIENCE_S)), ("Bob: hello",) * 2)
            self.assertEqual(ann.recv(PATIENCE_S), "Bob has left")

    @runs("docs/guide/from-ws.md", "wss://server.example/chat")
    def test_the_client_of_ws_sends_its_secret_and_prints_the_answer(self, text):
        programs.require("ws")

        def echo(connection):
            asked = connection.request.headers["Authorization"]
            connection.send(f"{connection.subprotocol} {asked} {connection.recv(PATIENCE_S)}")

        with serve(echo, "127.0.0.1", 0, subprotocols=["chat"]) as server:
            self.enterContext(running(server))
            port = server.socket.getsockname()[1]
            script = self.run_module(replaced(text, "wss://server.example", f"ws://127.0.0.1:{port}"))
            script.stdout.wait_for("^received: chat Bearer secret something$")

    @runs("docs/guide/from-ws.md", "server.on('upgrade'")
    def test_the_upgrade_of_ws_lets_in_who_has_authenticated(self, text):
        programs.require("ws")
        given = """
            import { createServer } from "node:http";
            import { WebSocketServer } from "ws";
            const server = createServer(), wss = new WebSocketServer({ noServer: true });
            const authenticate = ({ url }, done) => done(null, url === "/?key" && "Ann");
            wss.on("connection", (ws, request, client) => ws.send(client));
            server.listen(0, () => console.log("port %d", server.address().port));
        """
        port = self.run_module(given + text).stdout.wait_for(r"^port (\d+)$")[1]
        with connect(f"ws://127.0.0.1:{port}/?key") as client:
            self.assertEqual(client.recv(PATIENCE_S), "Ann")
        with self.assertRaises(InvalidStatus) as refused:
            connect(f"ws://127.0.0.1:{port}/")
        self.assertEqual(refused.exception.response.status_code, 401)


NOTE = """
    window.seen = [];
    // The title changes, so that `until` looks again.
    const note = (...event) => { document.title = seen.push(event); };
"""


@unittest.skipUnless(available(), "chromium and chromedriver are not installed")
class InChromium(Servers):
    HEAVY = True

    @classmethod
    def setUpClass(cls):
        cls.page = BrowserPage(Browser())
        cls.addClassCleanup(cls.page.close)
        cls.browser, cls.origin = cls.page.browser, cls.page.origin

    def on_page(self, server, text):
        """Runs a script on a page of the server."""
        self.browser.open(f"http://{server.host}:{server.port}/")
        self.browser.run(NOTE + text)

    def until_seen(self, *event):
        """Waits until the script has noted this."""
        self.browser.until(f"seen.some((event) => JSON.stringify(event) === {json.dumps(json.dumps(event, separators=(',', ':')))})")

    @runs("docs/guide/getting-started.md", "new WebSocket(")
    def test_the_console_of_a_browser_talks_to_the_echo(self, text):
        server = self.serve()
        text = replaced(text, "ws://127.0.0.1:9001", server.url(""))
        self.on_page(server, f"const console = {{ log: note }};\n{text}")
        self.until_seen("hello")

    @runs("docs/reference/centrifuge.md", "uni_sse?cf_connect=")
    def test_an_event_source_gets_the_pushes_that_its_token_names(self, text):
        server = self.guarded()
        text = replaced(text, "…", token(channels=["news"]))
        self.on_page(server, f"const console = {{ log: ({{ connect, pub, channel }}) => note(channel ?? Object.keys(connect?.subs ?? {{}}), pub?.data) }};\n{text}")
        self.until_seen(["news"], None)
        publish(server, "news", {"hello": 1})
        self.until_seen("news", {"hello": 1})

    GIVEN = """
        const show = (value) => note("show", value);
        const fetchState = (gap) => note("fetch", gap?.reason ?? null);
    """

    @runs("docs/reference/event-streams.md", "fetchState(JSON.parse(data))")
    def test_an_event_source_shows_messages_and_fetches_the_state_after_a_loss(self, text):
        server = self.serve("--allow-origin", self.origin)
        relay = self.relay(server)
        self.browser.open(f"{self.origin}/")
        self.browser.run(NOTE + self.GIVEN + replaced(text, "https://host.example", relay.url("").replace("ws", "http")))
        wait_until(lambda: server.get("/topics/prices")[0] == 200, "it has subscribed")
        publish(server, "prices", {"bid": 1})
        self.until_seen("show", {"bid": 1})
        with relay.cut():
            for number in range(120):
                publish(server, "prices", number)
        self.until_seen("fetch", "history")
        self.until_seen("show", 119)
        other = self.serve("--allow-origin", self.origin)
        with relay.cut():
            relay.server = (other.host, other.port)
        self.until_seen("fetch", None)

    @runs("docs/reference/event-streams.md", "EventSource.CLOSED")
    def test_a_page_of_another_origin_returns_after_a_refusal_and_misses_nothing(self, text):
        server = self.serve("--allow-origin", self.origin)
        relay = self.relay(server)
        self.browser.open(f"{self.origin}/")
        # A third of the delays is enough.
        text = replaced(text, "2000 + 3000 *", "500 + 1000 *")
        self.browser.run(NOTE + self.GIVEN + replaced(text, "https://host.example", relay.url("").replace("ws", "http")))
        wait_until(lambda: server.get("/topics/prices")[0] == 200, "it has subscribed")
        publish(server, "prices", 1)
        self.until_seen("show", 1)
        # This one refuses: the page of the other origin is none of its own.
        refuses = self.serve()
        with relay.cut():
            publish(server, "prices", 2)
            relay.server = (refuses.host, refuses.port)
        wait_until(lambda: refuses.stats()["node"]["refusals"], "it was refused")
        relay.server = (server.host, server.port)
        self.until_seen("show", 2)
        self.assertEqual(self.browser.run("return seen"), [["show", 1], ["show", 2]])

    def page_of(self, path, text, script=False):
        """Serves a page with a program, which may be a module, beside the client."""
        head = '<!doctype html><meta charset="utf-8"><title>a page</title>'
        self.page.texts[path] = f'{head}<script type="module">{NOTE}{text}</script>' if script else text
        self.addCleanup(self.page.texts.pop, path)

    @runs(RECIPES, 'pattern = "chat.*"')
    @runs(RECIPES, "<title>Chat</title>")
    def test_the_chat_shows_what_was_said_who_is_there_and_what_is_earlier(self, settings, text):
        server = self.configured(settings, "--allow-origin", self.origin)
        relay = self.relay(server)
        for number in range(1, 101):
            publish(server, "chat.blue", json.dumps({"text": f"number {number}"}))
        self.page_of("/chat", replaced(text, f"{LIVE}/broadcast", relay.url("/broadcast")))
        browser = self.browser
        browser.open(f"{self.origin}/chat")
        shown = "[...document.querySelectorAll('#messages li')].map((item) => `${item.value} ${item.textContent}`)"

        def shows(first, last, is_all):
            expected = [f"{number} number {number}" for number in range(first, last + 1)]
            browser.until(f"JSON.stringify({shown}) === {json.dumps(json.dumps(expected, separators=(',', ':')))}")
            browser.until(f"document.querySelector('#earlier').hidden === {json.dumps(is_all)}")

        shows(81, 100, False)
        browser.click("#earlier")
        shows(31, 100, False)
        browser.click("#earlier")
        shows(1, 100, True)
        browser.until("document.querySelector('#members').textContent === '1 here: a guest'")
        with RawClient(server).open() as other:
            other.ask(type="subscribe", topic="chat.blue")
            browser.until("document.querySelector('#members').textContent === '2 here: a guest, a guest'")
        browser.until("document.querySelector('#members').textContent === '1 here: a guest'")
        browser.press("#text", "number 101\n")
        shows(1, 101, True)
        # One that has forgotten everything but what is said now.
        other = self.configured(settings, "--allow-origin", self.origin)
        publish(other, "chat.blue", json.dumps({"text": "number 1"}))
        with relay.cut():
            relay.server = (other.host, other.port)
        shows(1, 1, True)

    @runs(RECIPES, "async function load()")
    def test_a_table_follows_its_topic_and_is_fetched_again_after_a_loss(self, text):
        server = self.serve("--allow-origin", self.origin)
        relay = self.relay(server)

        def answer(server, *orders):
            """What the back end has."""
            position = json.loads(server.get("/topics/orders")[2])["position"]
            self.page.texts["/orders"] = json.dumps({"position": position, "orders": [{"id": each, "state": state} for each, state in orders]})

        def change(server, each, state):
            publish(server, "orders", json.dumps({"id": each, "state": state}))

        def shows(**states):
            self.until_seen(states)

        self.addCleanup(self.page.texts.pop, "/orders", None)
        given = "const show = (table) => note(Object.fromEntries([...table.values()].map(({ id, state }) => [id, state])));"
        self.page_of("/table", given + replaced(text, f"{LIVE}/broadcast", relay.url("/broadcast")), script=True)
        # Nobody has the table yet.
        self.browser.open(f"{self.origin}/table")
        change(server, "a", "new")
        answer(server, ("a", "new"))
        shows(a="new")
        change(server, "b", "new")
        shows(a="new", b="new")
        with relay.cut():
            for number in range(120):
                change(server, "a", f"step {number}")
            answer(server, ("a", "step 119"), ("c", "new"))
        shows(a="step 119", c="new")
        change(server, "c", "done")
        shows(a="step 119", c="done")
        other = self.serve("--allow-origin", self.origin)
        with relay.cut():
            relay.server = (other.host, other.port)
            change(other, "d", "new")
            answer(other, ("d", "new"))
        shows(d="new")
        change(other, "d", "done")
        shows(d="done")

    @runs(RECIPES, "// worker.js")
    @runs(RECIPES, "new SharedWorker(")
    def test_all_tabs_share_the_connection_of_a_worker(self, worker, text):
        server = self.serve("--allow-origin", self.origin)
        self.page_of("/worker.js", replaced(worker, f"{LIVE}/broadcast", server.url("/broadcast")))
        self.page_of("/tabs", text)
        browser = self.browser
        own = browser.tab()
        browser.open(f"{self.origin}/tabs")
        other = browser.new_tab()
        browser.open(f"{self.origin}/tabs")
        wait_until(lambda: server.get("/topics/news")[0] == 200, "the worker has subscribed")
        browser.press("#text", "hello\n")
        for tab in (other, own):
            browser.switch(tab)
            browser.until("document.querySelector('#news').textContent === '1: hello'")
        browser.press("#text", "again\n")
        browser.until("document.querySelector('#state').textContent === '1: published as 2'")
        self.assertEqual(len(json.loads(server.get("/connections?topic=news")[2])["connections"]), 1)
        browser.switch(other)
        browser.until("document.querySelector('#news').textContent === '1: hello2: again'")
        browser.close_tab()
        browser.switch(own)

    @runs("docs/guide/clients.md", "<!doctype html>")
    def test_the_page_of_the_guide_continues_shows_what_it_missed_and_tells_why_it_ended(self, text):
        server = self.guarded("--allow-origin", self.origin)
        self.page.texts["/example"] = replaced(text, f"{LIVE}/broadcast", server.url("/broadcast"))
        self.page.texts["/token"] = token()
        self.addCleanup(self.page.texts.pop, "/token", None)
        browser, url = self.browser, f"{self.origin}/example"

        def shows(element, expected):
            browser.until(f"document.querySelector('#{element}').textContent === {json.dumps(expected)}")

        browser.open(url)
        shows("state", "connected")
        browser.press("#text", "hello\n")
        shows("news", "1: hello")
        shows("state", "published 1")
        browser.open("about:blank")
        for number in range(2, 120):
            publish(server, "news", str(number), "text/plain")
        browser.open(url)
        browser.until("document.querySelectorAll('#news li').length === 101")
        self.assertEqual(browser.text("#news li:first-child"), "missed 2 to 19: history")
        self.assertEqual(browser.text("#news li:last-child"), "119: 119")
        del self.page.texts["/token"]
        browser.open(url)
        shows("state", "the user gets no token")


class Commands(Servers):
    """README's commands in a shell, and Python's blocks in a folder with the files that commands have left."""

    def setUp(self):
        self.folder = self.enterContext(tempfile.TemporaryDirectory())

    def shell(self, command, **options):
        path = os.pathsep.join((os.path.dirname(BINARY), os.environ["PATH"]))
        options = {"cwd": self.folder, "env": os.environ | {"PATH": path}, "capture_output": True, "text": True} | options
        return subprocess.run(["sh", "-c", command], timeout=PATIENCE_S, **options)

    def address(self, command, server, path=""):
        return replaced(command, "ws://127.0.0.1:9001", server.url(path))

    def bench(self, command, expected=0):
        """Runs a command of `bench` for a second."""
        ended = self.shell(command.replace("echoring bench", "echoring bench -d 1s --warmup 0s --allow-saturated"))
        self.assertEqual(ended.returncode, expected, ended.stderr)
        return ended.stdout

    def python(self, text):
        ended = subprocess.run([sys.executable, "-c", text], cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE_S)
        self.assertEqual((ended.returncode, ended.stderr), (0, ""))
        return ended.stdout

    @runs(README, "# ws://127.0.0.1:9001")
    def test_a_server_listens_where_it_says(self, line):
        command, _, url = line.partition("#")
        words = shlex.split(command)
        self.assertEqual(words, ["echoring", "serve"])
        told = subprocess.run([BINARY, "serve", "--help"], capture_output=True, text=True, timeout=PATIENCE_S).stdout
        self.assertIn(f"[default: {url.strip().removeprefix('ws://')}]", told)

    @runs(README, "# prints hello")
    def test_the_echo_prints_what_was_sent(self, line):
        ended = self.shell(self.address(line.partition("#")[0], self.serve()))
        self.assertEqual((ended.returncode, ended.stdout), (0, "hello\n"))

    @runs(README, "# a server that it starts itself")
    def test_a_measurement_without_a_server(self, line):
        told = self.bench(line)
        for part in ("echo", "broadcast", "p99"):
            self.assertIn(part, told)

    @runs(README, "--json run.json")
    @runs("docs/reference/outputs.md", "HdrHistogram.decode(")
    @runs(README, "echoring compare before.json after.json")
    def test_an_open_loop_its_record_and_a_comparison(self, measure, decode, compare):
        server = self.serve()
        self.bench(self.address(measure, server))
        with open(os.path.join(self.folder, "run.json"), encoding="utf-8") as file:
            run = json.load(file)["runs"][0]
        self.assertEqual(run["config"]["rate"], 20_000)
        self.assertAlmostEqual(float(self.python(decode).removesuffix(" ms\n")), run["response_ns"]["p999"] / 1e6, delta=1)
        for name in ("before", "after"):
            shutil.copy(os.path.join(self.folder, "run.json"), os.path.join(self.folder, f"{name}.json"))
        compared = self.shell(compare)
        self.assertRegex(compared.stdout, r"\b(better|worse|same|undecided)\b")

    @runs(README, "# exit code 1 above 5 ms")
    def test_a_slow_server_fails_a_condition(self, line):
        self.bench(self.address(line, self.serve(), "/delay?ms=50"), expected=1)

    @runs(README, "--protocol echoring.v1 --try")
    def test_one_conversation_of_a_protocol(self, line):
        ended = self.shell(self.address(line, self.serve()))
        self.assertEqual(ended.returncode, 0, ended.stderr)
        self.assertIn('"type":"published"', ended.stdout)
        self.assertIn("as expected", ended.stdout)

    @runs("docs/reference/outputs.md", "csv.DictReader(")
    def test_a_file_of_messages_has_the_slowest(self, text):
        self.bench(f"echoring bench {self.serve().url('/echo')} --samples-file messages.csv --samples 1")
        slowest = json.loads(self.python(f"{text}\nimport json\nprint(json.dumps([int(row['response_ns']) for row in slowest]))"))
        self.assertEqual(len(slowest), 10)
        self.assertEqual(slowest, sorted(slowest, reverse=True))

    @runs("docs/guide/authenticate.md", "import jwt, time")
    def test_a_token_to_try_is_taken(self, text):
        with open(os.path.join(self.folder, "secret"), "w", encoding="utf-8") as file:
            file.write(f"{SECRET}\n")
        secret = os.path.join(self.folder, "secret")
        os.chmod(secret, 0o600)
        server = self.serve("--auth-jwt-key", secret)
        headers = {"Authorization": f"Bearer {self.python(text).strip()}"}
        with connect(server.url("/echo"), additional_headers=headers) as client:
            client.send("hello")
            self.assertEqual(client.recv(PATIENCE_S), "hello")


# What README says is lacking, by a part of its sentence: the test that shows it. Other sentences of the column say what is there instead.
LACKING = {
    "A single node keeps topics in memory": "test_v1.test_a_restart_is_another_epoch",
    "The nodes of a": "test_cluster.test_a_node_that_stops_hands_its_topics_over_and_nobody_misses_anything",
    "Only a cluster has": "test_a_single_node_has_no_durable_topics",
    "The kernel's socket buffers are extra": "test_the_kernels_buffers_of_a_connection_have_512_kib",
    "With one connection": "test_other_servers_cost_less_in_the_rows_that_readme_names",
    "On one of two machine types": "test_epoll_costs_less_on_one_of_two_machine_types",
    "HTTP/1.1 only": "test_http_2_is_not_spoken",
    "WebSocket messages only": "test_load_of_pages_is_refused",
    "To load pages too": "test_load_of_pages_is_refused",
    "Some settings, such as addresses": "test_a_reload_changes_no_address_and_neither_begins_nor_ends_tls_and_authentication",
    "TLS and authentication can be changed": "test_a_reload_changes_no_address_and_neither_begins_nor_ends_tls_and_authentication",
    "Of Centrifuge's protocol": "test_centrifuge.test_commands_that_cannot_be_served_have_errors",
    "Linux only": "test_the_server_is_for_linux",
}


class Lacking(Servers):
    """That README's list of what is lacking is true: what is there would not be on it."""

    def sentences(self):
        """The column with what is lacking, in sentences without links."""
        table = docs_check.read(os.path.join(docs_check.ROOT, README)).split("what it lacks |")[1].split("\n\n")[0]
        cells = [line.split(" | ")[2].removesuffix(" |") for line in table.strip().splitlines()[1:]]
        return [sentence for cell in cells for sentence in re.split(r"(?<=\w|\))\. ", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", cell))]

    def test_each_sentence_is_held_by_a_test(self):
        sentences = self.sentences()
        self.assertGreater(len(sentences), 10)
        for sentence in sentences:
            self.assertEqual(sum(part in sentence for part in LACKING), 1, sentence)
        for part, test in LACKING.items():
            self.assertEqual(sum(part in sentence for sentence in sentences), 1, part)
            name = test.rpartition(".")[2]
            self.assertTrue(hasattr(self, name) or name in docs_check.tests(), test)

    def test_a_single_node_has_no_durable_topics(self):
        file = self.enterContext(text_file('[[topics]]\npattern = "a"\ndurable = true\n'))
        checked = subprocess.run([BINARY, "serve", "--check", "--config", file], capture_output=True, text=True, timeout=PATIENCE_S)
        self.assertNotEqual(checked.returncode, 0)
        self.assertIn("without a cluster", checked.stderr)

    def test_the_kernels_buffers_of_a_connection_have_512_kib(self):
        server = self.serve()
        with connect(server.url("/echo")) as client:
            port = client.local_address[1]
            told = subprocess.run(["ss", "-tmnH", f"sport = :{server.port} and dport = :{port}"], capture_output=True, text=True).stdout
        buffers = re.search(r"skmem:\(.*?\brb(\d+),.*?\btb(\d+),", told)
        self.assertEqual(sum(map(int, buffers.groups())), 512 * 1024, told)

    def test_other_servers_cost_less_in_the_rows_that_readme_names(self):
        page = docs_check.read(os.path.join(docs_check.ROOT, "results", "peers.md"))
        for workload in ("16 B binary × 1 |", "1 MiB binary × 4 |", " published a second |"):
            rows = [line for line in page.splitlines() if workload in line and line.startswith("| ")]
            ratios = [float(ratio) for row in rows for ratio in re.findall(r"\| (\d+\.\d+) [✓✗?]", row)]
            self.assertTrue(any(ratio > 0.95 for ratio in ratios), workload)

    def test_epoll_costs_less_on_one_of_two_machine_types(self):
        log = docs_check.read(os.path.join(docs_check.ROOT, "results", "performance-log.md"))
        table = log.split("The same server on io_uring ÷ on epoll")[1].split("\n\n")[1]
        columns = list(zip(*(map(float, re.findall(r"\| (\d\.\d+) ", line)) for line in table.splitlines()[2:])))
        self.assertEqual([sum(column) / len(column) > 1 for column in columns], [False, True])

    def certificate(self):
        """An authority, and the paths of a certificate and its key."""
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        folder = self.enterContext(tempfile.TemporaryDirectory())
        chain, key = os.path.join(folder, "chain.pem"), os.path.join(folder, "key.pem")
        issued.private_key_pem.write_to_path(key)
        issued.cert_chain_pems[0].write_to_path(chain)
        return authority, chain, key

    def test_http_2_is_not_spoken(self):
        authority, chain, key = self.certificate()
        server = self.serve("--tls-cert", chain, "--tls-key", key)
        context = ssl.create_default_context()
        authority.configure_trust(context)
        context.set_alpn_protocols(["h2", "http/1.1"])
        with socket.create_connection((server.host, server.port)) as plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as tls:
            self.assertNotEqual(tls.selected_alpn_protocol(), "h2")
        # Prior knowledge of HTTP/2 (RFC 9113, 3.3).
        server = self.serve()
        with socket.create_connection((server.host, server.port), timeout=PATIENCE_S) as plain:
            plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            answer = plain.recv(65536)
            self.assertRegex(answer, b"^HTTP/1.1 (400|505) ")

    def test_load_of_pages_is_refused(self):
        refused = subprocess.run([BINARY, "bench", "http://127.0.0.1:1/"], capture_output=True, text=True, timeout=PATIENCE_S)
        self.assertEqual(refused.returncode, 2)
        self.assertIn("begins with ws://", refused.stderr)

    def test_a_reload_changes_no_address_and_neither_begins_nor_ends_tls_and_authentication(self):
        _, chain, key = self.certificate()
        secret = self.enterContext(text_file(SECRET, ""))
        addresses = 'listen = ["127.0.0.1:0"]\nadmin = "127.0.0.1:0"\n'
        with text_file(addresses) as file, Program(BINARY, "serve", "--config", file) as server:
            admin = ("127.0.0.1", int(server.stderr.wait_for(r"http://127\.0\.0\.1:(\d+)")[1]))
            with open(file, "w", encoding="utf-8") as settings:
                settings.write(addresses.replace(":0\"]", ":1\"]"))
                settings.write(f'tls_cert = ["{chain}"]\ntls_key = ["{key}"]\n[auth]\njwt_key = ["{secret}"]\n')
            status, _, body = request(admin, "POST", "/reload")
        self.assertEqual(status, 200, body)
        self.assertLessEqual({"listen", "tls_cert", "tls_key", "auth_jwt_key"}, {one["key"] for one in json.loads(body)["restart"]})

    def test_the_server_is_for_linux(self):
        facade = docs_check.read(os.path.join(docs_check.ROOT, "src", "lib.rs"))
        self.assertIn("the feature `server` of echoring is for Linux", facade)


if __name__ == "__main__":
    unittest.main()
