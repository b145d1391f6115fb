"""The page on `/broadcast` in a browser: it shows a topic, can be paused, and reports missed messages."""

import json
import os
import pathlib
import tempfile
import unittest

from harness import Server
from relay import Relay
from test_chat import CONTRAST, SCREENSHOTS
from test_v1 import RawClient
from webdriver import Browser, available

CONFIGURATION = """
[[topics]]
pattern = "oldest.*"
slow = "drop-oldest"

[[topics]]
pattern = "latest.*"
slow = "conflate"

[[topics]]
pattern = "short.*"
history_messages = 10

[[topics]]
pattern = "who.*"
presence = "everybody"
"""
# Maximum number of 16 kB messages in a flood, many times what all buffers on the path to the page hold.
FLOOD_MAX = 4000


@unittest.skipUnless(available(), "chromium and chromedriver are not installed")
class Page(unittest.TestCase):
    HEAVY = True

    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        configuration = os.path.join(directory.name, "echoring.toml")
        with open(configuration, "w") as file:
            file.write(CONFIGURATION)
        cls.server = Server("--shards", "2", "--config", configuration)
        cls.addClassCleanup(cls.server.__exit__)
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.close)

    def setUp(self):
        self.publisher = RawClient(self.server).open()
        self.addCleanup(self.publisher.close)
        self.addCleanup(self.browser.open, "about:blank")

    def watch(self, topic, place=None):
        place = place or self.server
        self.browser.open(f"http://{place.host}:{place.port}/broadcast")
        self.state("open")
        self.browser.press("#topic", topic + "\n")
        self.state("live")

    def state(self, state):
        self.browser.until(f"document.querySelector('#state').dataset.state === {json.dumps(state)}")

    def fact(self, name):
        return self.browser.run("return document.getElementById(args[0]).textContent", name)

    def shows_fact(self, name, text):
        self.browser.until(f"document.getElementById({name!r}).textContent === {json.dumps(text)}")

    def shows(self, text, kind):
        """Waits for an item of this kind and with this text in the log."""
        items = f"[...document.querySelectorAll('#log .{kind}')]"
        self.browser.until(f"{items}.some((item) => item.textContent.includes({json.dumps(text)}))")

    def publish(self, topic, **fields):
        self.publisher.ask(type="publish", id=1, topic=topic, **fields)
        published = self.publisher.hear()
        self.assertEqual(published["type"], "published", published)
        return published

    def deliveries(self):
        return self.server.stats()["node"]["deliveries"]

    def unsent(self):
        deliveries = self.deliveries()
        return deliveries["offered"] - deliveries["sent"]

    def disconnected(self):
        return self.deliveries()["dropped"]["disconnect"]

    def flood(self, topic, measure, growth, **fields):
        """Publishes until `measure` has grown by `growth`. Returns the offset of the last message."""
        before = measure()
        for number in range(1, FLOOD_MAX):
            offset = self.publish(topic, data=[number, "x" * 16_000], **fields)["offset"]
            if number % 20 == 0 and measure() - before >= growth:
                return offset
        self.fail(f"{FLOOD_MAX} messages were all sent to a page that does not read")

    def assert_policy_kept(self):
        offences = [line for line in self.browser.log() if "Content Security Policy" in line or "TrustedHTML" in line]
        self.assertEqual(offences, [])

    def test_it_shows_what_is_published_with_its_offset(self):
        self.watch("who.watches")
        self.shows_fact("count", "1")
        published = self.publish("who.watches", data={"a": 1}, key="k")
        self.shows('1{"a":1}key k', "message")
        self.shows_fact("position", f"{published['epoch']}:1")
        self.browser.press("#text", "from the page\n")
        self.shows("2from the page", "message")
        self.browser.until("document.querySelector('#notice').textContent.startsWith('Published at')")
        markup = "<img src=x onerror=document.title=1>"
        self.publish("who.watches", text=markup)
        self.shows(markup, "message")
        self.assertEqual(self.browser.run("return document.querySelectorAll('#log img').length"), 0)
        # In JSON mode, only valid JSON is published.
        self.browser.run("document.querySelector('#form').value = 'data'")
        self.browser.press("#text", "{half\n")
        self.browser.until("document.querySelector('#notice').textContent.startsWith('Not JSON')")
        self.browser.type("#text", "[1, 2]\n")
        self.shows("4[1,2]", "message")
        self.assertEqual((self.fact("received"), self.fact("missed")), ("4", "0"))
        self.browser.click("#subscribe")
        self.state("open")
        self.shows("Unsubscribed from who.watches", "note")
        self.assert_policy_kept()

    def test_paused_it_does_not_read_and_resumed_it_tells_what_it_missed(self):
        topic = "oldest.flood"
        self.watch(topic)
        self.publish(topic, data=0)
        self.shows_fact("received", "1")
        self.browser.click("#pause")
        self.state("paused")
        self.assertEqual(self.browser.text("#pause"), "Resume")
        # The server's backlog shows that the page stopped reading from the socket, not only drawing. It is many
        # times what a subscriber may lag behind.
        last = self.flood(topic, self.unsent, 100)
        self.assertEqual(self.fact("received"), "1")
        self.assertFalse(self.browser.run("return document.querySelector('#gap').checkVisibility()"))
        self.browser.click("#pause")
        self.state("live")
        self.browser.until(f"document.querySelector('#position').textContent.endsWith(':{last}')")
        self.shows("this page read too slowly", "gap")
        self.assertTrue(self.browser.run("return document.querySelector('#gap').checkVisibility()"))
        self.assertRegex(self.browser.text("#gap"), r"^Messages \d+ to \d+ are lost: this page read too slowly$")
        received, missed = int(self.fact("received")), int(self.fact("missed"))
        self.assertEqual(received + missed, last)
        self.assertGreater(missed, 50)
        self.publish(topic, text="all is well")
        self.shows("all is well", "message")
        self.screenshots("Gap")
        self.assert_policy_kept()

    def test_states_are_conflated_while_it_is_paused(self):
        topic = "latest.flood"
        self.watch(topic)
        self.browser.click("#pause")
        self.state("paused")
        last = self.flood(topic, self.unsent, 100, key="only")
        self.browser.click("#pause")
        self.browser.until(f"document.querySelector('#position').textContent.endsWith(':{last}')")
        self.shows("stands for", "message")
        self.assertEqual(int(self.fact("received")) + int(self.fact("conflated")), last)
        self.assertEqual(self.fact("missed"), "0")

    def test_unsubscribed_for_being_slow_it_comes_back_and_tells_what_it_missed(self):
        topic = "strict"
        self.watch(topic)
        self.browser.click("#pause")
        self.state("paused")
        last = self.flood(topic, self.disconnected, 1)
        self.browser.click("#pause")
        self.shows(f"Unsubscribed from {topic}: this page read too slowly", "note")
        self.browser.until(f"document.querySelector('#position').textContent.endsWith(':{last}')")
        self.shows("they are no longer kept", "gap")
        self.assertEqual(int(self.fact("received")) + int(self.fact("missed")), last)

    def test_without_streams_it_unsubscribes_instead(self):
        script = {"source": "delete window.WebSocketStream"}
        added = self.browser._devtools("Page.addScriptToEvaluateOnNewDocument", script)
        self.addCleanup(self.browser._devtools, "Page.removeScriptToEvaluateOnNewDocument", added)
        topic = "short.plain"
        self.watch(topic)
        self.assertFalse(self.browser.run("return 'WebSocketStream' in window"))
        self.publish(topic, data=1)
        self.shows_fact("received", "1")
        self.browser.click("#pause")
        self.state("paused")
        self.shows(f"Unsubscribed from {topic}", "note")
        for number in range(2, 32):
            self.publish(topic, data=number)
        self.browser.click("#pause")
        self.state("live")
        self.shows("Messages 2 to 21 are lost: they are no longer kept", "gap")
        self.shows_fact("received", "11")
        self.assertEqual(self.fact("missed"), "20")

    def test_a_lost_connection_is_recovered_from_its_position(self):
        relay = Relay(self.server.host, self.server.port)
        self.addCleanup(relay.close)
        topic = "recovered"
        self.watch(topic, relay)
        self.publish(topic, text="before")
        self.shows("before", "message")
        with relay.reset():
            self.state("lost")
            for number in range(5):
                self.publish(topic, text=f"meanwhile {number}")
        self.state("live")
        self.shows("meanwhile 4", "message")
        self.shows_fact("received", "6")
        self.assertEqual(self.fact("missed"), "0")

    def test_it_is_legible_in_any_light_and_on_any_screen(self):
        topic = "short.looks"
        self.watch(topic)
        self.publish(topic, data={"bid": 1.0842, "ask": 1.0843}, key="EUR")
        self.publish(topic, text="two\nlines")
        self.publish(topic, text="x" * 300)
        self.browser.click("#pause")
        self.state("paused")
        self.browser.click("#pause")
        self.browser.press("#text", "and one from here\n")
        self.shows("and one from here", "message")
        self.screenshots("Watch")
        unlabelled = """
            return [...document.querySelectorAll("input, select, textarea, button, ol")]
                .filter((place) => !(place.labels && place.labels.length) && !place.textContent.trim()
                    && !place.getAttribute("aria-labelledby"))
                .map((place) => place.outerHTML);
        """
        self.assertEqual(self.browser.run(unlabelled), [])
        self.assert_policy_kept()

    def screenshots(self, name):
        """Checks that the contrast suffices, and that no element is wider than the screen."""
        for width, height in ((1100, 760), (360, 700)):
            for scheme in ("light", "dark"):
                self.browser.look(width, height, scheme)
                self.assertEqual(self.browser.run(CONTRAST), [], f"{scheme}, {width} pixels wide")
                inside = "return document.documentElement.scrollWidth <= innerWidth"
                self.assertTrue(self.browser.run(inside), f"{width} pixels are enough")
                if SCREENSHOTS:
                    self.browser.screenshot(pathlib.Path(SCREENSHOTS) / f"{name}-{width}-{scheme}.png")
