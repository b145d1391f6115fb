"""`examples/token_stream`: its page in a browser, while connections are lost and servers replaced."""

import contextlib
import importlib.util
import json
import os
import queue
import re
import subprocess
import sys
import threading
import unittest
from unittest import mock

from harness import PATIENCE_S, Program, Server, first_line, request, text_file, wait_until
from relay import Relay
from webdriver import Browser, available

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FOLDER = os.path.join(ROOT, "examples", "token_stream")
CONFIG = os.path.join(FOLDER, "echoring.toml")


def load(name):
    specification = importlib.util.spec_from_file_location(name, os.path.join(FOLDER, f"{name}.py"))
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


backend = load("backend")


class Model:
    """A model whose tokens the test gives."""

    def __init__(self):
        self.tokens, self.text = queue.Queue(), ""

    def __call__(self, _):
        while (token := self.tokens.get(timeout=PATIENCE_S)) is not None:
            yield token

    def give(self, *tokens):
        for token in tokens:
            self.text += token
            self.tokens.put(token)

    def end(self):
        self.tokens.put(None)


class Stage:
    """A server with the example's configuration, the example's back end, and a relay between pages and the server."""

    def __init__(self, config=CONFIG):
        self.config, self.model = config, Model()
        self.backend = backend.Backend(("127.0.0.1", 0), None, None, lambda prompt: self.model(prompt))
        self.url = f"http://127.0.0.1:{self.backend.server_port}/"
        self.server = self.start()
        self.relay = Relay(self.server.host, self.server.port)
        self.backend.echoring = f"{self.relay.host}:{self.relay.port}"
        self.backend.publisher = backend.Publisher(*self.server.admin)
        self.backend.publisher.start()
        threading.Thread(target=self.backend.serve_forever, daemon=True).start()

    def start(self, *flags, **addresses):
        origin = self.url.rstrip("/")
        return Server("--config", self.config, "--allow-origin", origin, "--shards", "2", *flags, **addresses)

    def again(self, *flags):
        """Another process at the same addresses."""
        listen, admin = f"{self.server.host}:{self.server.port}", f"127.0.0.1:{self.server.admin[1]}"
        before, self.server = self.server, self.start(*flags, listen=listen, admin=admin)
        return before

    def close(self):
        self.model.end()
        self.backend.shutdown()
        self.backend.server_close()
        self.relay.close()
        self.server.__exit__()


@unittest.skipUnless(available(), "chromium and chromedriver are not installed")
class Pages(unittest.TestCase):
    HEAVY = True
    SECONDS = 60

    @classmethod
    def setUpClass(cls):
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.close)

    def stage(self, **options):
        stage = Stage(**options)
        self.addCleanup(stage.close)
        # Before the servers end: a page that was left would try to return.
        self.addCleanup(self.browser.open, "about:blank")
        return stage

    def ask(self, stage, transport):
        self.browser.open(stage.url)
        self.browser.run("document.querySelector('#transport').value = args[0]", transport)
        self.browser.click("#ask")
        stage.model.give("The answer ", "begins.\n")
        self.shows(stage)
        self.streams(transport)
        return self.browser.run("return location.href")

    def streams(self, transport):
        over = {"ws": "Streaming over a WebSocket", "sse": "Streaming over an event stream"}[transport]
        self.browser.until(f"document.querySelector('#status').textContent === {json.dumps(over)}")

    def shows(self, stage, end=None):
        """Waits until the page shows the text of the model, and nothing else."""
        self.browser.until(f"document.querySelector('#text').textContent === {json.dumps(stage.model.text)}")
        if end:
            self.browser.until(f"document.querySelector('#text').dataset.end === {json.dumps(end)}")

    def complete(self, stage):
        stage.model.give("It ", "ends ", "here.")
        stage.model.end()
        self.shows(stage, "complete")

    def over_both(self, test):
        for transport in ("ws", "sse"):
            with self.subTest(transport):
                stage = self.stage()
                test(stage, transport, self.ask(stage, transport))
                self.complete(stage)

    def test_a_reload_in_the_middle_continues(self):
        def test(stage, transport, _):
            for number in range(3):
                stage.model.give(*(f"{number}.{token} " for token in range(50)))
                self.browser.run("location.reload()")
                self.browser.until("document.readyState === 'complete' && location.hash")
                self.shows(stage)
                if transport == "sse":
                    # A page begins with a WebSocket. The other transport continues at the same place.
                    self.browser.run(
                        "const choice = document.querySelector('#transport');"
                        "choice.value = 'sse'; choice.dispatchEvent(new Event('change'));"
                    )
                self.streams(transport)

        self.over_both(test)

    def test_a_second_device_shows_the_whole_text(self):
        def test(stage, transport, url):
            first = self.browser.tab()
            self.browser.new_tab()
            try:
                self.browser.open(url)
                self.shows(stage)
                stage.model.give("Both ", "see ", "this. ")
                self.shows(stage)
            finally:
                self.browser.close_tab()
                self.browser.switch(first)
            self.shows(stage)

        self.over_both(test)

    def test_a_lost_connection_is_resumed(self):
        def test(stage, transport, _):
            for fault in (stage.relay.cut, stage.relay.reset):
                before = len(stage.relay.pairs)
                with fault():
                    stage.model.give("said ", "while ", "nobody ", "listens. ")
                    wait_until(lambda: self.state(stage)["text"] == stage.model.text, "it is published")
                self.shows(stage)
                self.assertGreater(len(stage.relay.pairs), before, "the page has connected again")

        self.over_both(test)

    def test_a_takeover_in_the_middle_is_not_noticed(self):
        def test(stage, transport, _):
            pairs = len(stage.relay.pairs)
            replaced = threading.Event()

            def talk():
                number = 0
                while not replaced.is_set():
                    stage.model.give(f"{number} ")
                    number += 1
                    # No faster than they are published.
                    wait_until(stage.model.tokens.empty, "the token is taken")

            talking = threading.Thread(target=talk)
            talking.start()
            before = stage.again("--takeover")
            self.assertEqual(before.wait(), 0, "its connections have moved")
            before.__exit__()
            replaced.set()
            talking.join()
            self.shows(stage)
            self.assertEqual(len(stage.relay.pairs), pairs, "the page has kept its connection")

        self.over_both(test)

    def test_a_server_that_is_killed_costs_nothing(self):
        def test(stage, transport, _):
            stage.server.process.kill()
            stage.server.wait()
            stage.model.give("said ", "to nobody. ")
            stage.again().__exit__()
            self.shows(stage)

        self.over_both(test)

    def test_what_the_history_has_lost_comes_from_the_back_end(self):
        with open(CONFIG) as file:
            short, count = re.subn("history_messages = .*", "history_messages = 2", file.read())
        self.assertEqual(count, 1)
        for transport in ("ws", "sse"):
            with self.subTest(transport), text_file(short) as config:
                stage = self.stage(config=config)
                self.ask(stage, transport)
                with stage.relay.cut():
                    for number in range(5):
                        stage.model.give(f"{number} ")
                        # Each is a message of its own.
                        wait_until(lambda: self.state(stage)["text"] == stage.model.text, "it is published")
                self.shows(stage)
                self.complete(stage)

    def test_the_stop_button_ends_the_text(self):
        for transport in ("ws", "sse"):
            with self.subTest(transport):
                stage = self.stage()
                self.ask(stage, transport)
                self.browser.click("#stop")
                wait_until(lambda: self.answer(stage).is_stopped.is_set(), "the back end knows")
                # The model makes one more token, which nobody gets.
                stage.model.tokens.put("too much")
                self.shows(stage, "stopped")
                self.assertEqual(self.state(stage)["end"], "stopped")

    def answer(self, stage):
        (answer,) = stage.backend.answers.values()
        return answer

    def state(self, stage):
        return self.answer(stage).state()


class Backend(unittest.TestCase):
    def test_the_tokens_of_all_answers_share_one_connection(self):
        stage = Stage()
        self.addCleanup(stage.close)
        with contextlib.ExitStack() as cleanups:
            models = [Model() for _ in range(20)]
            for model in models:
                cleanups.callback(model.end)
            waiting = iter(models)
            stage.backend.model = lambda _: next(waiting)(_)
            answers = [stage.backend.ask("a prompt") for _ in models]
            for number in range(50):
                for model in models:
                    model.give(f"{number} ")
        texts = {model.text for model in models}
        self.assertEqual(len(texts), 1)
        wait_until(lambda: all(answer.state()["end"] == "complete" for answer in answers), "all are complete")
        self.assertEqual({answer.text for answer in answers}, texts)
        accepted = stage.server.stats()["node"]["publications"]["accepted"]
        self.assertEqual(accepted, sum(answer.offset for answer in answers))

    @unittest.skipUnless(available(), "chromium and chromedriver are not installed")
    def test_the_program_of_the_guide_shows_the_answer_of_its_model(self):
        with Server("--config", CONFIG, "--allow-origin", "*") as server:
            addresses = ["--echoring", f"{server.host}:{server.port}", "--admin", f"127.0.0.1:{server.admin[1]}"]
            command = [sys.executable, os.path.join(FOLDER, "backend.py"), "--port", "0", *addresses]
            with Program(*command, stdout=subprocess.PIPE) as program, Browser() as browser:
                url = re.fullmatch(r"listening on (http://\S+)\n", first_line(program.process))[1]
                browser.open(url)
                browser.type("#prompt", "two words")
                browser.click("#ask")
                browser.until("document.querySelector('#text').dataset.end === 'complete'")
                shown = browser.run("return document.querySelector('#text').textContent")
                with mock.patch.object(backend.time, "sleep"):
                    self.assertEqual(shown, "".join(backend.fake_model("two words")))
                identity = browser.run("return location.hash.slice(1)")
                address = ("127.0.0.1", int(url.rsplit(":", 1)[1].rstrip("/")))
                status, _, body = request(address, "GET", f"/answers/{identity}")
                self.assertEqual((status, json.loads(body)["text"]), (200, shown))
                browser.open("about:blank")
