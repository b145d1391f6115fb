"""Clients and subscriptions that the application allows until a time, about which it is asked again before; with raw messages."""

import time
import unittest

import test_centrifuge as sdk
from harness import PATIENCE_S, Server, text_file
from test_centrifuge_hooks import Service
from test_centrifuge_info import Session
from websockets.exceptions import ConnectionClosed

CONFIGURATION = """
[[topics]]
pattern = "asked.*"
subscribe = "hook"
presence = "everybody"
publisher_info = true
"""
# The application is asked after half of it.
SHORT_S = 6


def soon():
    return int(time.time()) + SHORT_S


class Application(Service):
    """Allows everything for a short time, and decides again by the user or the channel."""

    def answer(self, path, body):
        match path, body.get("channel", body.get("user")):
            case "/connect", _:
                return 200, {"result": {"user": body["data"], "expire_at": soon(), "info": "before"}}
            case "/subscribe", _:
                return 200, {"result": {"expire_at": soon(), "info": "before"}}
            case _, "asked.stays" | "stays":
                return 200, {"result": {"expire_at": int(time.time()) + 600, "info": "after"}}
            case _, "asked.forever" | "forever":
                return 200, {"result": {}}
            case _, "asked.goes" | "goes":
                return 200, {"result": {"expired": True}}
            case _, "thrown out":
                return 200, {"disconnect": {"code": 4500, "reason": "go away"}}
            case _, "asked.refused" | "refused":
                return 200, {"error": {"code": 1000, "message": "no"}}
        return 500, {}


class Refresh(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.application = Application()
        cls.addClassCleanup(cls.application.close)
        cls.configuration = cls.enterClassContext(text_file(CONFIGURATION))
        cls.server = cls.enterClassContext(Server(*cls.flags("connect", "subscribe", "refresh", "sub_refresh"), "--shards", "2"))

    @classmethod
    def flags(cls, *hooks):
        urls = [f"--hooks-{hook.replace('_', '-')}={cls.application.url(f'/{hook}')}" for hook in hooks]
        return ["--config", cls.configuration, "--auth-anonymous", *urls]

    def session(self, user, server=None):
        return Session(self, server or self.server, data=user)

    def closed(self, session):
        with self.assertRaises(ConnectionClosed):
            while True:
                session.socket.recv(PATIENCE_S)
        return session.socket.close_code

    def test_a_client_stays_as_long_as_the_application_lets_it(self):
        users = ["stays", "forever", "refused", "down"]
        stays, forever, refused, down = [self.session(user) for user in users]
        gone = self.session("thrown out")
        self.assertEqual(self.closed(gone), 4500)
        goes, until = self.session("goes"), soon()
        body, _ = self.application.asked("/refresh", user="stays")
        self.assertTrue(body.pop("node"))
        asked = {"client": stays.client, "transport": "websocket", "protocol": "json", "encoding": "json", "user": "stays"}
        self.assertEqual(body, asked)
        # What nobody extends ends at its time.
        for session in (refused, down):
            self.assertEqual(self.closed(session), 3005)
        self.assertEqual(self.closed(goes), 3005)
        self.assertLess(time.time(), until, "it ends at once")
        for session in (stays, forever):
            self.assertEqual(session.do("ping"), {})
        stays.do("subscribe", channel="asked.quiet")
        self.assertEqual(stays.do("presence", channel="asked.quiet")["presence"][stays.client]["conn_info"], "after")

    def test_a_subscription_goes_on_as_long_as_the_application_lets_it(self):
        session = self.session("forever")
        for channel in ("stays", "forever", "refused", "down", "goes"):
            session.do("subscribe", channel=f"asked.{channel}")
        body, _ = self.application.asked("/sub_refresh", channel="asked.stays")
        self.assertTrue(body.pop("node"))
        asked = {"client": session.client, "transport": "websocket", "protocol": "json", "encoding": "json", "user": "forever"}
        self.assertEqual(body, {**asked, "channel": "asked.stays"})
        for channel in ("goes", "refused", "down"):
            end = session.line(lambda line: line.get("push", {}).get("channel") == f"asked.{channel}" and "unsubscribe" in line["push"])
            self.assertEqual(end["push"]["unsubscribe"]["code"], 2501)
        session.do("publish", channel="asked.stays", data=1)
        self.assertEqual(session.pushed("pub", "asked.stays")["info"]["chan_info"], "after")
        session.do("publish", channel="asked.forever", data=1)
        self.assertEqual(session.pushed("pub", "asked.forever")["info"]["chan_info"], "before")

    def test_without_these_hooks_permissions_end_at_their_time(self):
        with Server(*self.flags("connect", "subscribe")) as server:
            session = self.session("stays", server)
            self.assertEqual(self.closed(session), 3005)

    def test_what_has_moved_to_another_process_is_refreshed_there(self):
        flags = (*self.flags("connect", "subscribe", "refresh", "sub_refresh"), "--drain", "1s")
        first = Server(*flags)
        self.addCleanup(first.__exit__)
        session = self.session("stays", first)
        session.do("subscribe", channel="asked.stays")
        admin, listen = (f"127.0.0.1:{port}" for port in (first.admin[1], first.port))
        with Server(*flags, "--takeover", admin=admin, listen=listen) as successor:
            self.assertEqual(first.wait(), 0)
            ending = self.session("down", successor)
            self.assertEqual(self.closed(ending), 3005)
            session.do("publish", channel="asked.stays", data=1)
            info = session.pushed("pub", "asked.stays")["info"]
            self.assertEqual((info["conn_info"], info["chan_info"]), ("after", "after"))


if __name__ == "__main__":
    unittest.main()
