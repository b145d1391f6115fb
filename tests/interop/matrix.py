"""The table of checks that every WebSocket implementation runs, and the checks that a peer does not support.

A check is data, so that clients in any language can run it. A small program in `peers` reads

    {"url": "ws://127.0.0.1:9001", "checks": [{"name": …, "path": …, "steps": [[…], …]}, …]}

from its standard input, makes one connection per check, and answers each with a line of JSON: `{"name": …}`, with a `problem` if the
check failed. The fields of a check:

    path          the path of the URL
    subprotocols  offered by the client, best first        subprotocol  the expected result, "" for none
    compress      whether the client offers compression;   compressed   whether it is then expected
                  absent: the client's default
    refused       the expected status of a refused upgrade; there are no steps then
    steps         run one after the other; after the last the client closes with 1000, unless a step closed

and the steps, where KIND is "text" or "binary" and a CONTENT is [UNIT, TIMES], with a binary unit in hexadecimal:

    ["send", KIND, CONTENT]
    ["fragments", KIND, [CONTENT, …]]     one message, each content in a frame of its own
    ["expect", KIND, CONTENT]             the next message must be this one
    ["ping", TEXT]                        the client sends a ping and expects a pong with the same payload
    ["close", CODE, REASON]               the client starts closing, and the server answers with the same code
    ["expect_close", CODE, REASON|null]   the server closes
"""

import json
import subprocess

# Longer than all checks of one run on a slow machine.
RUN_S_MAX = 60

# Characters of one to four bytes, and all byte values. The masking key's length divides none of the lengths.
TEXT = "smørrebrød 🥪 €5, "
BYTES = bytes(range(0, 256, 2)).hex() + "ff00ff"
MIB = 1 << 20


def echo(kind, unit, times=1):
    return [["send", kind, [unit, times]], ["expect", kind, [unit, times]]]


def lengths(kind, *numbers):
    """A message of each length in bytes, one after the other."""
    unit = "x" if kind == "text" else "a5"
    return [step for number in numbers for step in echo(kind, unit, number)]


BORDERS = (0, 1, 125, 126, 127, 65535, 65536)
IN_FLIGHT = [["text", [f"message {i} ", i]] for i in range(1, 101)]

CHECKS = [
    {"name": "text", "steps": [*echo("text", TEXT), *echo("text", TEXT, 200), *lengths("text", *BORDERS)]},
    {"name": "binary", "steps": [*echo("binary", BYTES), *lengths("binary", *BORDERS)]},
    {"name": "one MiB of text", "steps": echo("text", "ü", MIB // 2)},
    {"name": "one MiB of binary", "steps": echo("binary", "00ff8001", MIB // 4)},
    {"name": "a hundred in flight", "steps": [["send", *m] for m in IN_FLIGHT] + [["expect", *m] for m in IN_FLIGHT]},
    {
        "name": "fragments",
        "steps": [
            ["fragments", "text", [["one ", 1], ["", 1], ["zwei ", 40], ["thr€€", 7]]],
            ["expect", "text", ["one " + "zwei " * 40 + "thr€€" * 7, 1]],
            ["fragments", "binary", [["01", 70_000], ["02", 70_000], ["03", 1]]],
            ["expect", "binary", ["01" * 70_000 + "02" * 70_000 + "03", 1]],
            *echo("text", "and a whole one"),
        ],
    },
    {"name": "pings", "steps": [["ping", ""], ["ping", "here?"], *echo("text", "between"), ["ping", "p" * 125]]},
    {"name": "closing without a word", "steps": []},
    {"name": "closing with 1000", "steps": [*echo("text", "last words"), ["close", 1000, "done"]]},
    {"name": "closing with 1001", "steps": [["close", 1001, "going away"]]},
    {"name": "closing with 3000", "steps": [["close", 3000, "€ 3000"]]},
    {"name": "closing with 4999", "steps": [["close", 4999, "r" * 123]]},
    {
        "name": "too long",
        "steps": [*echo("binary", "00", MIB), ["send", "binary", ["00", MIB + 1]], ["expect_close", 1009, None]],
    },
    {"name": "subprotocol", "subprotocols": ["superchat", "chat"], "subprotocol": "chat", "steps": echo("text", "a")},
    {"name": "subprotocol of the client only", "subprotocols": ["other"], "subprotocol": "", "steps": echo("text", "a")},
    {"name": "a topic of its own", "path": "/broadcast/matrix?self=1", "steps": echo("text", TEXT, 50)},
    {"name": "no such path", "path": "/nowhere", "refused": 404},
]

# Checks for servers with test paths only.
ASKED_FOR = [
    {"name": "closed with 1000", "path": "/close?code=1000&reason=enough", "steps": [["expect_close", 1000, "enough"]]},
    {"name": "closed with 1001", "path": "/close?code=1001", "steps": [["expect_close", 1001, ""]]},
    {"name": "closed with 1011", "path": "/close?code=1011&reason=oh", "steps": [["expect_close", 1011, "oh"]]},
    {"name": "closed with 4999", "path": "/close?code=4999&reason=%E2%82%AC", "steps": [["expect_close", 4999, "€"]]},
    {
        "name": "fragments back",
        "path": "/fragment?parts=3",
        "steps": [*echo("text", TEXT, 200), *echo("binary", BYTES, 100), *echo("text", TEXT)],
    },
    {"name": "refused with 403", "path": "/reject?status=403", "refused": 403},
    {"name": "refused with 503", "path": "/reject?status=503", "refused": 503},
]
# With a server that reports pongs, and with ours, which pings while it echoes.
PINGED = {
    "name": "pinged",
    "path": "/ping",
    "steps": [["expect", "text", ["pong: are you there?", 1]], *echo("text", "and on")],
}
PINGED_OFTEN = {
    "name": "pinged often",
    "path": "/ping-storm?rate=200",
    "steps": [step for number in range(50) for step in echo("text", f"{number} ", 300)],
}

# The checks of our server, and those of foreign servers.
OURS = [*CHECKS, *ASKED_FOR, PINGED_OFTEN]
THEIRS = [*CHECKS, *ASKED_FOR, PINGED]


def checks(names, **settings):
    """The checks with these names. `settings` such as `compress` apply to each."""
    known = [*CHECKS, *ASKED_FOR, PINGED, PINGED_OFTEN]
    return [{"path": "/echo", **settings, **check} for check in known if check["name"] in names]


def with_checks(table):
    """Adds a test to a class for each check of the table, except those in `cannot`."""

    def test_of(name):
        return lambda self: self.check(name)

    def decorate(case):
        for check in table:
            if check["name"] not in case.cannot:
                setattr(case, f"test_{check['name'].replace(' ', '_')}", test_of(check["name"]))
        return case

    return decorate


def judge(results, wanted):
    """The result of each wanted check: None, or its problem."""
    problems = {result["name"]: result.get("problem") for result in results}
    return {check["name"]: problems.get(check["name"], "it gave no result") for check in wanted}


def run(command, url, wanted, **options):
    """Runs a program of `peers` as the client. Returns the result of each check, by name."""
    job = json.dumps({"url": url, "checks": wanted})
    ended = subprocess.run(
        command, input=job, capture_output=True, text=True, encoding="utf-8", timeout=RUN_S_MAX, **options
    )
    if ended.returncode != 0:
        raise AssertionError(f"{command} ended with {ended.returncode}:\n{ended.stdout[-500:]}{ended.stderr[-2000:]}")
    return judge([json.loads(line) for line in ended.stdout.splitlines()], wanted)
