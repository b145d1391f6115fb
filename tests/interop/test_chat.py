"""The chat room of `examples/chat`: its protocol, with clients of the `websockets` library, and its page in a browser."""

import asyncio
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import unittest

from harness import PATIENCE_S, AsyncTest, Raw, Server, first_line, frame
from relay import Relay
from webdriver import Browser, available
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

BURST = 20
REFUSALS_MAX = 50
TEXT_BYTES_MAX = 4096
NAME_CHARACTERS_MAX = 32
EXAMPLE = os.environ.get("ECHORING_CHAT", os.path.join(os.getcwd(), "target", "debug", "examples", "chat"))
# Where screenshots of the page are left, when somebody wants to look at them.
SCREENSHOTS = os.environ.get("ECHORING_SCREENSHOTS")


class Example:
    """`examples/chat` on a free port."""

    host = "127.0.0.1"

    def __init__(self):
        assert os.path.exists(EXAMPLE), f"{EXAMPLE} is not there: cargo build --example chat"
        self.process = subprocess.Popen(
            [EXAMPLE, f"{self.host}:0"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        line = first_line(self.process)
        if not line.startswith("listening on http://"):
            self.__exit__()
            raise AssertionError(f"no listening line but {line!r}")
        self.port = int(line.rsplit(":", 1)[1].split("/")[0])

    def url(self, path):
        return f"ws://{self.host}:{self.port}{path}"

    def get(self, path, method="GET", address=None):
        return Server.get(self, path, method, address)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE_S)
        self.process.stdout.close()


class Protocol(AsyncTest):
    """The protocol of `docs/guide/chat.md`."""

    @classmethod
    def setUpClass(cls):
        cls.server = Example()
        cls.addClassCleanup(cls.server.__exit__)

    async def asyncSetUp(self):
        await super().asyncSetUp()
        self.clients = contextlib.AsyncExitStack()
        await self.clients.__aenter__()
        self.addAsyncCleanup(self.clients.aclose)

    async def open(self, **options):
        client = connect(self.server.url("/chat"), compression=None, open_timeout=PATIENCE_S, **options)
        client = await self.clients.enter_async_context(client)
        greeting = await self.hear(client)
        self.assertEqual((greeting["type"], greeting["ip"]), ("handshake", "127.0.0.1"))
        return client

    async def hear(self, client):
        message = json.loads(await asyncio.wait_for(client.recv(), PATIENCE_S))
        self.assertEqual(list(message), ["ip", "type", "user", "from", "FromIp", "content"])
        return message

    async def hear_kind(self, client, *kinds):
        """The next message of one of these types."""
        while True:
            message = await self.hear(client)
            if message["type"] in kinds:
                return message

    async def say(self, client, kind, content="", user=""):
        await client.send(json.dumps({"type": kind, "user": user, "content": content}))

    async def join(self, name, **options):
        client = await self.open(**options)
        await self.say(client, "join", name)
        joined = await self.hear(client)
        self.assertEqual((joined["type"], joined["from"]), ("join", name), joined)
        users = await self.hear(client)
        self.assertEqual(users["type"], "users")
        self.assertIn(name, users["content"].split("\n"))
        return client

    async def refusal(self, client):
        return (await self.hear_kind(client, "error"))["content"]

    async def test_the_subprotocol_is_named_to_who_offers_it(self):
        self.assertEqual((await self.open(subprotocols=["other", "chat"])).subprotocol, "chat")
        self.assertIsNone((await self.open(subprotocols=["other"])).subprotocol)
        self.assertIsNone((await self.open()).subprotocol)

    async def test_everyone_hears_who_comes_who_talks_and_who_goes(self):
        ana = await self.join("Ana")
        bob = await self.join("Bob")
        came = await self.hear_kind(ana, "join")
        self.assertEqual((came["from"], came["FromIp"]), ("Bob", "127.0.0.1"))
        await self.say(ana, "broadcast", "hello\n<b>all</b> ✓")
        for client in (ana, bob):
            heard = await self.hear_kind(client, "broadcast")
            self.assertEqual(
                heard,
                {
                    "ip": "127.0.0.1",
                    "type": "broadcast",
                    "user": "",
                    "from": "Ana",
                    "FromIp": "127.0.0.1",
                    "content": "hello\n<b>all</b> ✓",
                },
            )
        await self.say(bob, "users")
        users = (await self.hear_kind(bob, "users"))["content"].split("\n")
        self.assertLess(users.index("Ana"), users.index("Bob"), "in the order in which they came")
        await self.say(bob, "leave")
        with self.assertRaises(ConnectionClosed) as closed:
            await self.hear(bob)
        self.assertEqual(closed.exception.rcvd.code, 1000)
        self.assertEqual((await self.hear_kind(ana, "leave"))["from"], "Bob")
        # The name is free again, and so is that of who goes without a word.
        carl = await self.join("Bob")
        self.assertEqual((await self.hear_kind(ana, "join"))["from"], "Bob")
        carl.transport.abort()
        self.assertEqual((await self.hear_kind(ana, "leave"))["from"], "Bob")
        await self.join("bob")

    async def test_a_private_message_reaches_its_two_and_nobody_else(self):
        dora, emil, fritz = [await self.join(name) for name in ("Dora", "Emil", "Fritz")]
        await self.say(dora, "private", "psst", user="emil")
        await self.say(dora, "broadcast", "fence")
        for client in (dora, emil):
            heard = await self.hear_kind(client, "private", "broadcast")
            self.assertEqual((heard["type"], heard["content"]), ("private", "psst"))
            self.assertEqual((heard["from"], heard["user"]), ("Dora", "Emil"))
        heard = await self.hear_kind(fritz, "private", "broadcast")
        self.assertEqual((heard["type"], heard["content"]), ("broadcast", "fence"))
        await self.say(dora, "private", "to myself", user="Dora")
        await self.say(dora, "broadcast", "fence 2")
        heard = [await self.hear_kind(dora, "private", "broadcast") for _ in range(3)]
        self.assertEqual([message["content"] for message in heard], ["fence", "to myself", "fence 2"])
        await self.say(dora, "private", "psst", user="nobody")
        self.assertIn("nobody of that name", await self.refusal(dora))

    async def test_what_a_client_says_about_itself_is_not_believed(self):
        gina = await self.join("Gina", additional_headers={"X-Forwarded-For": "6.6.6.6", "Forwarded": "for=6.6.6.6"})
        spoofed = {"ip": "6.6.6.6", "FromIp": "6.6.6.6", "from": "Bob", "user": "Bob", "type": "broadcast"}
        await gina.send(json.dumps({**spoofed, "content": "it was Bob"}))
        heard = await self.hear_kind(gina, "broadcast")
        self.assertEqual(
            [heard[key] for key in ("ip", "user", "from", "FromIp", "content")],
            ["127.0.0.1", "", "Gina", "127.0.0.1", "it was Bob"],
        )

    async def test_a_name_is_taken_once_and_has_a_form(self):
        await self.join("Heidi")
        client = await self.open()
        for kind in ("broadcast", "users", "private"):
            await self.say(client, kind, "x", user="Heidi")
            self.assertIn("take a name first", await self.refusal(client))
        await self.say(client, "join", "HEIDI")
        self.assertIn("taken", await self.refusal(client))
        for name in ("", " ", "a\nb", "x" * (NAME_CHARACTERS_MAX + 1), "a\u202eb", "\u200b", " a"):
            await self.say(client, "join", name)
            self.assertIn("a name has", await self.refusal(client), repr(name))
        await self.say(client, "join", "水" * NAME_CHARACTERS_MAX)
        self.assertEqual((await self.hear_kind(client, "join"))["from"], "水" * NAME_CHARACTERS_MAX)
        await self.say(client, "join", "another")
        self.assertIn("name already", await self.refusal(client))

    async def test_what_is_no_message_is_answered_with_the_reason(self):
        client = await self.join("Ida")
        for sent, reason in (
            ("hello", "not a message"),
            ("[]", "not a message"),
            ('{"type":"shout"}', "not a message"),
            ('{"type":"broadcast","content":7}', "not a message"),
            ('{"type":"handshake"}', "only the server"),
            ('{"type":"error","content":"x"}', "only the server"),
            ('{"type":"broadcast","content":" "}', "no text"),
            ('{"type":"broadcast","content":"a\\u0007"}', "control characters"),
            (json.dumps({"type": "broadcast", "content": "x" * (TEXT_BYTES_MAX + 1)}), f"at most {TEXT_BYTES_MAX}"),
        ):
            await client.send(sent)
            self.assertIn(reason, await self.refusal(client), sent)
        longest = '"' * TEXT_BYTES_MAX
        await self.say(client, "broadcast", longest)
        self.assertEqual((await self.hear_kind(client, "broadcast"))["content"], longest)

    async def test_binary_messages_are_not_taken(self):
        client = await self.open()
        await client.send(b"\x00")
        with self.assertRaises(ConnectionClosed) as closed:
            await self.hear(client)
        self.assertEqual(closed.exception.rcvd.code, 1003)

    async def test_who_talks_too_fast_is_told_and_then_closed(self):
        client = await self.join("Jan")
        for _ in range(2 * BURST):
            await self.say(client, "broadcast", "spam")
        heard = [await self.hear_kind(client, "broadcast", "error") for _ in range(2 * BURST)]
        refused = [message["content"] for message in heard if message["type"] == "error"]
        self.assertGreater(len(refused), 0)
        for reason in refused:
            self.assertIn("too many messages", reason)
        with self.assertRaises(ConnectionClosed) as closed:
            for _ in range(2 * REFUSALS_MAX):
                await client.send("x")
            while True:
                await self.hear(client)
        self.assertEqual(closed.exception.rcvd.code, 1008)

    async def test_all_members_see_one_order_and_nothing_twice(self):
        members = [await self.join(f"member {number}") for number in range(8)]
        each = BURST - 5
        said = {f"{name}:{number}" for name in range(len(members)) for number in range(each)}

        async def take_part(name, client):
            async def talk():
                for number in range(each):
                    await self.say(client, "broadcast", f"{name}:{number}")

            talking = asyncio.create_task(talk())
            heard = [(await self.hear_kind(client, "broadcast"))["content"] for _ in said]
            await talking
            return heard

        heard = await asyncio.gather(*(take_part(name, client) for name, client in enumerate(members)))
        self.assertEqual(len(heard[0]), len(said))
        self.assertEqual(set(heard[0]), said)
        for other in heard[1:]:
            self.assertEqual(other, heard[0])
        for name in range(len(members)):
            own = [message for message in heard[0] if message.startswith(f"{name}:")]
            self.assertEqual(own, [f"{name}:{number}" for number in range(each)])

    async def test_who_does_not_read_is_closed_and_costs_nobody_anything(self):
        watcher = await self.join("Watcher")
        slow = socket.socket()
        self.addCleanup(slow.close)
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(PATIENCE_S)
        slow.connect((self.server.host, self.server.port))
        raw = Raw.__new__(Raw)
        raw.socket, raw.buffer = slow, bytearray()
        raw.open("/chat")
        raw.send(frame(1, b'{"type":"join","content":"Slow"}'))
        self.assertEqual((await self.hear_kind(watcher, "join"))["from"], "Slow")

        async def watch():
            while (await self.hear_kind(watcher, "leave"))["from"] != "Slow":
                pass

        watching = asyncio.create_task(watch())
        # At most far more than the socket buffers and the queue hold together.
        for number in range(100):
            if watching.done():
                break
            talker = await self.join(f"Talker {number}")
            for _ in range(BURST - 5):
                await self.say(talker, "broadcast", "x" * TEXT_BYTES_MAX)
            for _ in range(BURST - 5):
                self.assertEqual((await self.hear_kind(talker, "broadcast"))["content"], "x" * TEXT_BYTES_MAX)
            await talker.close()
        await asyncio.wait_for(watching, PATIENCE_S)
        first, payload = await asyncio.to_thread(raw.read_frame)
        while first != 0x88:
            self.assertEqual(first, 0x81)
            first, payload = await asyncio.to_thread(raw.read_frame)
        self.assertEqual(int.from_bytes(payload[:2], "big"), 4008)

    def test_the_pages_files_carry_a_strict_policy(self):
        address = (self.server.host, self.server.port)
        for path, kind in (("/chat", "text/html"), ("/chat/chat.js", "text/javascript"), ("/chat/chat.css", "text/css")):
            status, headers, body = self.server.get(path, address=address)
            self.assertEqual((status, headers["Content-Type"].split(";")[0]), (200, kind))
            self.assertEqual(headers["X-Content-Type-Options"], "nosniff")
            self.assertEqual(headers["Referrer-Policy"], "no-referrer")
            self.assertNotIn(b"http://", body)
            self.assertNotIn(b"https://", body)
            status, _, body = self.server.get(path, "HEAD", address)
            self.assertEqual((status, body), (200, b""))
        policy = self.server.get("/chat", address=address)[1]["Content-Security-Policy"]
        self.assertTrue(policy.startswith("default-src 'none';"), policy)
        self.assertIn("connect-src 'self'", policy)
        self.assertNotIn("unsafe", policy)
        self.assertEqual(self.server.get("/chat/other", address=address)[0], 404)


class FullRoom(AsyncTest):
    """Idle members do not keep others out."""

    MEMBERS_MAX = 256

    async def test_silent_members_make_room_for_newcomers_and_those_who_talk_stay(self):
        with Example() as server:
            async with contextlib.AsyncExitStack() as clients:

                async def hear(client, kind):
                    while True:
                        heard = json.loads(await asyncio.wait_for(client.recv(), PATIENCE_S))
                        if heard["type"] == kind:
                            return heard

                async def join(name):
                    client = connect(server.url("/chat"), compression=None, open_timeout=PATIENCE_S, max_queue=None)
                    client = await clients.enter_async_context(client)
                    await client.send(json.dumps({"type": "join", "content": name}))
                    while True:
                        heard = json.loads(await asyncio.wait_for(client.recv(), PATIENCE_S))
                        self.assertNotEqual(heard["type"], "error", heard)
                        if heard["type"] == "users":
                            return client

                talking = await join("talking")
                silent = [await join(f"silent {number}") for number in range(self.MEMBERS_MAX - 1)]
                await talking.send(json.dumps({"type": "broadcast", "content": "still here"}))
                # The others come by other connections: the room has to have heard this one first.
                await hear(talking, "broadcast")
                # All are there, and none has a place that a newcomer could not have.
                for number in range(5):
                    await join(f"newcomer {number}")
                    with self.assertRaises(ConnectionClosed) as closed:
                        while True:
                            await asyncio.wait_for(silent[number].recv(), PATIENCE_S)
                    self.assertEqual(closed.exception.rcvd.code, 1013)
                gone = [(await hear(talking, "leave"))["from"] for _ in range(5)]
                self.assertEqual(gone, [f"silent {number}" for number in range(5)])
                await talking.send(json.dumps({"type": "users"}))
                heard = await hear(talking, "users")
                self.assertEqual(len(heard["content"].split("\n")), self.MEMBERS_MAX)


# The contrast of an element's text with what it stands on (WCAG 2.2, 1.4.3).
CONTRAST = """
    const luminance = (color) => {
        const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3)
            .map((part) => part / 255)
            .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    return [...document.querySelectorAll("h1, h2, p, label, button, input, select, textarea, #log *, #users *")]
        .filter((place) => place.checkVisibility() && place.textContent + place.value && !place.disabled)
        .map((place) => {
            let under = place;
            while (/^rgba\\(.*, 0\\)$/.test(getComputedStyle(under).backgroundColor)) under = under.parentElement || document.body;
            const ground = luminance(getComputedStyle(under).backgroundColor);
            const ink = luminance(getComputedStyle(place).color);
            return [(Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05), place.outerHTML.slice(0, 80)];
        })
        .filter(([contrast]) => contrast < 4.5);
"""
LOG = "[...document.querySelectorAll('#log li')]"
USERS = "[...document.querySelectorAll('#users li')].map((item) => item.textContent)"


@unittest.skipUnless(available(), "chromium and chromedriver are not installed")
class Page(unittest.TestCase):
    """Two pages of one room, the second behind a relay."""

    HEAVY = True

    @classmethod
    def setUpClass(cls):
        cls.server = Example()
        cls.addClassCleanup(cls.server.__exit__)
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.close)
        cls.relay = Relay(cls.server.host, cls.server.port)
        cls.addClassCleanup(cls.relay.close)

    def setUp(self):
        self.first = self.browser.tab()
        self.second = self.browser.new_tab()
        self.addCleanup(self.close_second)

    def close_second(self):
        if self.second:
            self.browser.switch(self.second)
            self.browser.close_tab()
            self.browser.switch(self.first)
            self.browser.open("about:blank")

    def join(self, tab, name, through=None):
        self.browser.switch(tab)
        place = through or self.server
        self.browser.open(f"http://{place.host}:{place.port}/chat")
        self.state("open")
        self.assertEqual(self.browser.run("return document.activeElement.id"), "name", "ready to type a name")
        self.browser.press("#name", name + "\n")
        self.state("joined")
        self.assertEqual(self.browser.run("return document.activeElement.id"), "text", "ready to type a message")

    def state(self, state):
        self.browser.until(f"document.querySelector('#state').dataset.state === {json.dumps(state)}")

    def shows(self, text, where="li"):
        """Waits until a line of the log has this text."""
        self.browser.until(f"{LOG}.some((item) => item.matches({where!r}) && item.textContent.includes({text!r}))")

    def users(self, *expected):
        self.browser.until(f"JSON.stringify({USERS}) === {json.dumps(json.dumps(expected, separators=(',', ':')))}")

    def two(self, one="Ana", other="Bob"):
        self.join(self.first, one)
        self.join(self.second, other, self.relay)
        self.browser.switch(self.first)
        self.users(f"{one} (you)", other)
        self.browser.switch(self.second)
        self.users(one, f"{other} (you)")

    def assert_policy_kept(self):
        offences = [line for line in self.browser.log() if "Content Security Policy" in line or "TrustedHTML" in line]
        self.assertEqual(offences, [])

    def test_two_pages_see_each_other_and_talk(self):
        self.two()
        self.browser.press("#text", "Hello from Bob\n")
        self.shows("Hello from Bob", ".own")
        self.browser.switch(self.first)
        self.shows("Hello from Bob", ".said:not(.own)")
        self.browser.click("#users button")
        self.assertEqual(self.browser.run("return document.querySelector('#to').value"), "Bob")
        self.assertEqual(self.browser.run("return document.activeElement.id"), "text")
        self.browser.press("#text", "psst\n")
        self.shows("privately to Bob", ".private.own")
        self.browser.switch(self.second)
        self.shows("psst", ".private:not(.own)")
        self.assertIn("privately to you", self.browser.text("#log .private"))
        self.browser.close_tab()
        self.second = None
        self.browser.switch(self.first)
        self.users("Ana (you)")
        self.shows("Bob has gone", ".note")
        # What is private stays so although its receiver is gone.
        self.browser.press("#text", "still private\n")
        self.browser.until("document.querySelector('#notice').textContent.includes('nobody of that name')")
        self.assertFalse(self.browser.run(f"return {LOG}.some((item) => item.textContent.includes('still private'))"))
        self.assert_policy_kept()

    def test_markup_is_shown_as_text_everywhere(self):
        markup = "<img src=x onerror=document.title=1>"
        name = "<b id=x>Eve</b>"
        self.two("Ana", name)
        self.browser.run("document.querySelector('#text').value = args[0]", markup)
        self.browser.click("#send")
        self.shows(markup, ".own")
        self.browser.switch(self.first)
        self.shows(markup)
        self.shows(name)
        found = "return document.querySelectorAll('#log img, #log script, b#x').length"
        self.assertEqual(self.browser.run(found), 0)
        self.assertTrue(self.browser.run("return document.title").startswith("Chat"))
        self.assert_policy_kept()
        # Should anything ever get past that, the policy stops it; and this test would have seen it.
        self.browser.run("document.body.append(Object.assign(document.createElement('style'), {textContent: 'p{}'}))")
        self.assertTrue(any("Content Security Policy" in line for line in self.browser.log()))

    def test_a_page_that_lost_its_connection_comes_back_by_itself(self):
        self.two()
        self.browser.press("#text", "a draft")
        lost = contextlib.ExitStack()
        lost.enter_context(self.relay.reset())
        self.state("lost")
        self.browser.until("document.querySelector('#state').textContent.includes('trying again in')")
        self.assertTrue(self.browser.run("return document.querySelector('#send').disabled"))
        # It tries in vain, and less often each time.
        self.browser.run(
            """
            const waits = window.waits = [];
            new MutationObserver(() => {
                const wait = /in (\\d+) s/.exec(document.querySelector("#state").textContent);
                if (wait) waits.push(Number(wait[1]));
            }).observe(document.querySelector("#state"), { childList: true, characterData: true, subtree: true });
            """
        )
        self.browser.until("window.waits.some((wait) => wait >= 3)")
        self.browser.switch(self.first)
        self.shows("Bob has gone", ".note")
        lost.close()
        self.browser.switch(self.second)
        self.state("joined")
        self.users("Ana", "Bob (you)")
        self.assertEqual(self.browser.run("return document.querySelector('#text').value"), "a draft")
        self.browser.press("#text", " finished\n")
        self.browser.switch(self.first)
        self.users("Ana (you)", "Bob")
        self.shows("a draft finished")
        self.assert_policy_kept()

    def test_a_bad_name_is_refused_with_the_reason(self):
        self.join(self.first, "Ana")
        self.browser.switch(self.second)
        self.browser.open(f"http://{self.server.host}:{self.server.port}/chat")
        self.state("open")
        for name, reason in (("ana", "taken"), ("x" * (NAME_CHARACTERS_MAX + 1), "a name has")):
            self.browser.type("#name", name + "\n")
            self.browser.until(f"document.querySelector('#notice').textContent.includes({reason!r})")
            self.assertEqual(self.browser.run("return document.activeElement.id"), "name")
        self.browser.type("#name", "Bob\n")
        self.state("joined")
        self.assertEqual(self.browser.text("#notice"), "")

    def test_it_is_legible_in_any_light_and_on_any_screen(self):
        self.two("Ana", "Bob, who has a rather long name")
        for text in ("Has anybody seen the ring?", "It echoes.\nAll of it.", "x" * 300):
            self.browser.run("document.querySelector('#text').value = args[0]", text)
            self.browser.click("#send")
            self.shows(text[-10:], ".own")
        self.browser.switch(self.first)
        self.browser.press("#text", "Here it is\n")
        self.shows("Here it is")
        self.browser.click("#users button")
        self.browser.press("#text", "Not for everyone\n")
        self.shows("Not for everyone")
        for width, height in ((1100, 720), (360, 640)):
            for scheme in ("light", "dark"):
                self.browser.look(width, height, scheme)
                self.assertEqual(self.browser.run(CONTRAST), [], f"{scheme}, {width} pixels wide")
                inside = "return document.documentElement.scrollWidth <= innerWidth"
                self.assertTrue(self.browser.run(inside), f"{width} pixels are enough")
                if SCREENSHOTS:
                    self.browser.screenshot(pathlib.Path(SCREENSHOTS) / f"{type(self).__name__}-{width}-{scheme}.png")
        unlabelled = """
            return [...document.querySelectorAll("input, select, textarea, button, ol, ul")]
                .filter((place) => !(place.labels && place.labels.length) && !place.textContent.trim()
                    && !place.getAttribute("aria-labelledby"))
                .map((place) => place.outerHTML);
        """
        self.assertEqual(self.browser.run(unlabelled), [])
        self.assert_policy_kept()

    def test_a_page_of_another_origin_may_connect(self):
        other = Relay(self.server.host, self.server.port)
        self.addCleanup(other.close)
        self.browser.switch(self.second)
        self.browser.open(f"http://localhost:{other.port}/chat/chat.css")
        greeting = """
            const [url] = args;
            const socket = new WebSocket(url);
            return await new Promise((resolve) => {
                socket.onmessage = ({ data }) => resolve(JSON.parse(data).type);
                socket.onclose = ({ code }) => resolve("closed " + code);
            });
        """
        self.assertEqual(self.browser.run(greeting, self.server.url("/chat")), "handshake")


class EndOfTheExample(unittest.TestCase):
    def test_ctrl_c_is_a_good_end(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            example = Example()
            self.addCleanup(example.__exit__)
            with Raw(example).open("/chat"):
                example.process.send_signal(number)
                self.assertEqual(example.process.wait(PATIENCE_S), 0)
