"""The library's client with foreign servers: every check of `matrix.py` that each server supports."""

import os
import unittest

import matrix
import programs
from harness import BINARY

CLIENT = os.path.join(os.path.dirname(BINARY), "examples", "interop_client")
# Whether the server accepts compression, and whether the client offers it. It is negotiated if both do.
SETTINGS = [(accepts, offers) for accepts in (False, True) for offers in (False, True)]


class Servers:
    """The tests of the client with every server, on tokio and on tokio-uring."""

    # The name in `programs.missing()`.
    name = ""
    # Checks that it does not support.
    cannot = ()
    # Checks that it fails with compressed messages.
    cannot_compressed = ()

    @classmethod
    def setUpClass(cls):
        programs.require(cls.name)
        cls.outcomes = {}
        for accepts, offers in SETTINGS:
            cannot = (*cls.cannot, *(cls.cannot_compressed if accepts and offers else ()))
            checked = [check["name"] for check in matrix.THEIRS if check["name"] not in cannot]
            with programs.Peer(cls.command(), *(["--compress"] if accepts else [])) as peer:
                for runtime in ("tokio", "tokio-uring"):
                    wanted = matrix.checks(checked, compress=offers, compressed=accepts and offers)
                    command = [CLIENT, *(["--uring"] if runtime == "tokio-uring" else [])]
                    cls.outcomes[accepts, offers, runtime] = matrix.run(command, peer.url, wanted)

    def check(self, name):
        problems = {setting: outcome[name] for setting, outcome in self.outcomes.items() if outcome.get(name)}
        self.assertEqual(problems, {})


# Only our server has topics.
COMMON = ("a topic of its own",)


@matrix.with_checks(matrix.THEIRS)
class WithWebsockets(Servers, unittest.TestCase):
    command = staticmethod(lambda: programs.python("websockets_server.py"))
    cannot = COMMON


@matrix.with_checks(matrix.THEIRS)
class WithWs(Servers, unittest.TestCase):
    name = "ws"
    command = staticmethod(lambda: programs.node("ws_server.mjs"))
    cannot = COMMON


@matrix.with_checks(matrix.THEIRS)
class WithBun(Servers, unittest.TestCase):
    """It sends whole messages only, and by default selects the first offered subprotocol."""

    name = "bun"
    command = staticmethod(lambda: programs.bun("bun_server.mjs"))
    cannot = (*COMMON, "fragments back", "subprotocol of the client only")


@matrix.with_checks(matrix.THEIRS)
class WithGorilla(Servers, unittest.TestCase):
    """Its limit applies to the bytes on the wire, so it accepts a compressed message of 1 MiB."""

    name = "gorilla"
    command = staticmethod(lambda: [programs.gorilla(), "server"])
    cannot = COMMON
    cannot_compressed = ("too long",)
