"""What the program prints for people and for scripts, as committed in `tests/golden/server`: a change of it is seen in a file.

Values that differ from run to run are left out: of figures only their names are kept, of times and ids their kind. With `UPDATE=1` the
tests write the files. The records of `bench` have a test of their own, in `src/load/render/golden.rs`.
"""

import json
import os
import re
import tempfile
import unittest

from harness import Raw, Server, frame, request, text_file, wait_until

GOLDEN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "golden", "server")

# The driver is the one that every host has, and the log has a line for all that happens.
CONFIG = """
shards = 1
driver = "epoll"
sandbox = "off"
log = "debug"
log_format = "json"
max_message = "1KiB"
compress = "on"
access_log = "{access}"
subprotocol = ["echoring.v1.json"]

[[topics]]
pattern = "chat"
history_messages = 8
presence = "everybody"

[[topics]]
pattern = "latest"
slow = "conflate"
"""

# What an operator and a back end ask for, in this order: method, path, body.
ADMIN = [
    ("GET", "/", None),
    ("GET", "/healthz", None),
    ("GET", "/readyz", None),
    ("GET", "/nowhere", None),
    ("DELETE", "/stats", None),
    ("GET", "/topics", None),
    ("GET", "/topics/chat", None),
    ("GET", "/topics/unknown", None),
    ("POST", "/topics/chat", "hello"),
    ("POST", "/topics/chat", '{"messages": [{"text": "a"}, {"json": {"b": 1}}]}'),
    ("POST", "/topics/chat", "{"),
    ("POST", "/broadcast", '{"topics": ["chat", "latest"], "message": {"text": "c"}}'),
    ("POST", "/broadcast", "[]"),
    ("GET", "/connections", None),
    ("GET", "/connections?topic=chat", None),
    ("GET", "/connections?wrong=1", None),
    ("DELETE", "/connections", None),
    ("DELETE", "/connections/0", None),
    ("POST", "/connections/0", "hello"),
    ("POST", "/identities/nobody", "hello"),
    ("GET", "/cluster", None),
    ("GET", "/cluster/topics", None),
    ("GET", "/limits", None),
    ("GET", "/log-level", None),
    ("PUT", "/log-level", "nonsense=loud"),
    ("PUT", "/log-level", "debug"),
    ("POST", "/reload", None),
    ("POST", "/rebalance", None),
    ("POST", "/trace", "{}"),
]
CENTRIFUGO = [
    ("publish", {"channel": "chat", "data": {"d": 1}, "tags": {"t": "u"}}),
    ("publish", {"channel": "chat", "b64data": "aGVsbG8="}),
    ("publish", {"channel": "chat"}),
    ("broadcast", {"channels": ["chat", "latest"], "data": 2}),
    ("history", {"channel": "chat", "limit": 2}),
    ("history", {"channel": "chat", "limit": 1, "since": {"offset": 1, "epoch": "none"}}),
    ("history_remove", {"channel": "chat"}),
    ("presence", {"channel": "chat"}),
    ("presence_stats", {"channel": "chat"}),
    ("presence", {"channel": "latest"}),
    ("channels", {"pattern": "c*"}),
    ("info", {}),
    ("disconnect", {"user": "nobody"}),
    ("subscribe", {"user": "nobody", "channel": "chat"}),
    ("unsubscribe", {"user": "nobody", "channel": "chat"}),
    ("refresh", {"user": "nobody", "expire_at": 9999999999}),
    ("block_user", {"user": "nobody"}),
    ("unblock_user", {"user": "nobody"}),
    ("revoke_token", {"uid": "none"}),
    ("rpc", {}),
]

VOLATILE = [
    (r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "TIME"),
    (r"127\.0\.0\.1:\d+", "ADDRESS"),
    (r'"(epoch|connection|id|client|uid|incarnation|version)": ?"[^"]*"', r'"\1": "ID"'),
    (r'"(\w+_s|uptime|rate|uid|pid|round_trip_us|segments_sent|segments_retransmitted)": ?[0-9.e-]+', r'"\1": N'),
    (r'target="[^"]*"', 'target="HOST"'),
    (r"(pid|after|in)[= ]\d+(\.\d+)?( ?m?s)?", r"\1 N"),
]


def without_volatile(text):
    for pattern, kind in VOLATILE:
        text = re.sub(pattern, kind, text)
    return text


def shape(value):
    """A JSON value with the kinds of its figures and texts instead of them. Of a list, each shape once."""
    match value:
        case dict():
            return {key: shape(inner) for key, inner in value.items()}
        case list():
            shapes = [json.dumps(shape(inner)) for inner in value]
            return [json.loads(each) for each in dict.fromkeys(shapes)]
        case bool() | None:
            return value
        case int() | float():
            return "number"
    return "text"


def exchanges(server):
    """The requests and their answers, as text."""
    batch = [{method: parameters} for method, parameters in CENTRIFUGO[:3]]
    requests = ADMIN + [("POST", f"/api/{method}", json.dumps(parameters)) for method, parameters in CENTRIFUGO]
    requests += [("POST", "/api/batch", json.dumps({"commands": batch})), ("GET", "/api/info", None)]
    for method, path, body in requests:
        status, headers, answer = request(server.admin, method, path, body)
        kind = headers["Content-Type"]
        text = "a page" if kind.startswith("text/html") else answer.decode()
        if kind == "application/json":
            # Documents one after another.
            text = "\n".join(json.dumps(json.loads(each), ensure_ascii=False) for each in re.split(r"\n(?=[{\[])", text))
        yield f"{method} {path}{f' {body}' if body else ''}\n{status} {kind}\n{text.strip()}\n"


class Golden(unittest.TestCase):
    maxDiff = None

    def check(self, name, text):
        path = os.path.join(GOLDEN, name)
        if os.environ.get("UPDATE"):
            with open(path, "w") as file:
                file.write(text)
        with open(path) as file:
            self.assertEqual(text, file.read(), f"{name} differs: run this test with UPDATE=1")

    def setUp(self):
        self.access = os.path.join(self.enterContext(tempfile.TemporaryDirectory()), "access.log")
        config = self.enterContext(text_file(CONFIG.format(access=self.access)))
        self.server = self.enterContext(Server("--config", config))

    def talk(self):
        """What clients of every kind do: one that is well, and one for each way in which they are not."""
        with Raw(self.server).open("/echo") as peer:
            peer.send(frame(1, b"hello"))
            peer.read_frame()
            peer.send(frame(8, b"\x03\xe8"))
            peer.read_end()
        for path, data in [
            ("/echo", frame(1, b"unmasked", mask=None)),
            ("/echo", frame(1, b"\xff")),
            ("/echo", frame(1, bytes(1025))),
            ("/broadcast/chat", frame(1, b"\xff")),
        ]:
            with Raw(self.server).open(path) as peer:
                peer.send(data)
                peer.read_end()
        with Raw(self.server) as peer:
            peer.upgrade("/nowhere")
            peer.read_end()
        wait_until(lambda: len(self.ends().splitlines()) == 6, "the ends of all six connections")

    def ends(self):
        with open(self.access) as file:
            return file.read()

    def test_the_http_interfaces(self):
        with Raw(self.server).open("/broadcast/chat"):
            self.check("http.txt", without_volatile("\n".join(exchanges(self.server))))

    def test_the_figures(self):
        self.talk()
        self.check("stats.json", json.dumps(shape(self.server.stats()), indent=1) + "\n")
        _, _, metrics = self.server.get("/metrics")
        # Their help is in docs/reference/metrics.md.
        lines = [line for line in metrics.decode().splitlines() if not line.startswith("# HELP")]
        names = dict.fromkeys(re.sub(r'(,?le="[^"]*")|( \S+$)', "", line) if line[0] != "#" else line for line in lines)
        self.check("metrics.txt", without_volatile("\n".join(names) + "\n"))

    def test_the_logs(self):
        self.talk()
        for method, path, body in ADMIN:
            request(self.server.admin, method, path, body)
        self.server.terminate()
        self.server.wait()
        # Threads write their lines in any order, and what the sandbox says depends on who runs the tests.
        lines = sorted(dict.fromkeys(without_volatile("".join(self.server.log) + self.ends()).splitlines()))
        lines = [line for line in lines if "echoring::sandbox" not in line]
        self.check("log.txt", "\n".join(lines) + "\n")
