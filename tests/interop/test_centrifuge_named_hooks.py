"""Hooks of the application in tables with names, which topics and methods choose, and header fields of their requests."""

import subprocess
import unittest

import test_centrifuge as sdk
from harness import BINARY, PATIENCE_S, Server, text_files
from test_centrifuge_hooks import Service
from test_centrifuge_info import Session
from websockets.sync.client import connect

CONFIGURATION = """
[hooks]
subscribe = "URL/subscribe"
publish = "URL/publish"
rpc = "URL/rpc"
header = ["Cookie", "X-Key"]
headers = {X-Default = "plain"}

[hooks.billing]
subscribe = "URL/billing-subscribe"
rpc = "URL/billing-rpc"
rpc_methods = ["bill:*"]
header = "X-Key"
headers = {X-Key = {file = "KEY"}, X-From = "chat"}
timeout = "9s"

[[topics]]
pattern = "bills.*"
subscribe = "hook"
publish = "hook"
hook = "billing"

[[topics]]
pattern = "others.*"
subscribe = "hook"
"""
FIELDS = ("cookie", "x-key", "x-default", "x-from")


class Application(Service):
    def answer(self, path, body):
        return 200, {"result": {"data": path}}


class NamedHooks(unittest.TestCase):
    def setUp(self):
        self.application = Application()
        self.addCleanup(self.application.close)

    def configuration(self, text):
        """The path of a file, in which `KEY` is that of a file with a secret."""
        text = text.replace("URL", self.application.url(""))
        key, configuration = self.enterContext(text_files(key="secret of billing\n", echoring_toml=""))
        with open(configuration, "w") as file:
            file.write(text.replace("KEY", key))
        return configuration

    def check(self, text):
        command = [BINARY, "serve", "--config", self.configuration(text), "--check"]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)

    def test_topics_and_methods_choose_who_is_asked_and_each_gets_its_own_fields(self):
        server = self.enterContext(Server("--config", self.configuration(CONFIGURATION)))
        socket = connect(server.url(sdk.PATH), additional_headers={"Cookie": "c", "X-Key": "of a client"}, open_timeout=PATIENCE_S)
        self.addCleanup(socket.close)
        session = Session.over(socket)
        billing = (None, "secret of billing", None, "chat")
        default = ("c", "of a client", "plain", None)
        for command, parameters, path, fields in (
            ("subscribe", {"channel": "bills.1"}, "/billing-subscribe", billing),
            ("subscribe", {"channel": "others.1"}, "/subscribe", default),
            # The table has no URL for it.
            ("publish", {"channel": "bills.1", "data": 1}, "/publish", default),
            ("rpc", {"method": "bill:pay", "data": 1}, "/billing-rpc", billing),
            ("rpc", {"method": "pay", "data": 1}, "/rpc", default),
        ):
            session.do(command, **parameters)
            asked, _, headers = self.application.requests.get(timeout=PATIENCE_S)
            self.assertEqual((asked, tuple(headers[field] for field in FIELDS)), (path, fields), command)

    def test_a_table_without_an_effect_is_refused(self):
        table = '[hooks.a]\nsubscribe = "https://a.example"\n'
        for text, problem in (
            ('[[topics]]\npattern = "x"\nhook = "a"', "topics.hook: there is no table"),
            ("[hooks.a]\n", "hooks.a: has no URL"),
            (table + 'rpc = "https://a.example"', "rpc and rpc_methods need each other"),
            (table + "connect = 1", "hooks.a.connect: there is no such key"),
            (table + 'headers = {Host = "a"}', "Host cannot be set"),
            (table + 'headers = {X-A = {file = "/missing"}}', "cannot read /missing"),
            (table + '[[topics]]\npattern = "x"\npublish = "hook"\nhook = "a"', "needs hooks.publish"),
        ):
            checked = self.check(text)
            self.assertNotEqual(checked.returncode, 0, text)
            self.assertIn(problem, checked.stderr, text)
        self.assertEqual(self.check(table + '[[topics]]\npattern = "x"\nsubscribe = "hook"\nhook = "a"').returncode, 0)

    def test_values_of_header_fields_are_not_shown(self):
        checked = self.check(CONFIGURATION)
        self.assertEqual(checked.returncode, 0, checked.stderr)
        self.assertIn('[hooks."billing"]', checked.stdout)
        self.assertIn("X-Key", checked.stdout)
        self.assertIn('hook = "billing"', checked.stdout)
        for secret in ("secret of billing", '"chat"', '"plain"'):
            self.assertNotIn(secret, checked.stdout + checked.stderr)


if __name__ == "__main__":
    unittest.main()
