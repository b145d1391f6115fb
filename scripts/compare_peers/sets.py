"""The comparisons: the rows and peers of each script, and what its record is called.

`echoring` is in each the server under test, and `echoring-again` the same once more, whose ratio is the noise.
"""

import os
from dataclasses import dataclass, replace

import install
import pairs
from catalogue import (
    AGAIN, BROADCAST, ECHO, FLOOR, OURS, OVERLOAD, PEERS, ROOMS, SERVE, STALLED, WINDOW, Peer, conn_version, ours_version,
    rust, with_window,
)  # fmt: skip
from workloads import ANYONE, COST, KEPT, LOST, ROWS, Row, broadcast, echo, mixed, overload

KNOWN_BIAS = [
    "On loopback the server's CPU time contains the generator's receive path: a send runs it in soft-interrupt context. All "
    "servers pay it alike, which pulls every ratio towards 1.",
    "Queued bytes leave when an acknowledgement arrives, which is charged to the generator, or when a timer fires, which is "
    "charged to nobody where the CPU is idle. A row of large messages therefore also shows the CPU time of both together.",
    "Raw servers neither unmask nor check a payload, and do not speak the protocol: a ratio to them charges echoring for all "
    "of WebSocket. In rows of text they answer with binary frames of the same length.",
    "Another client checks contents before a row; they are not checked while it is measured.",
    "Servers stand ready beside each other while one of them is measured; the CPU time of idle timers is charged to their owner.",
    "Where the generator was the bottleneck, messages a second are its speed; CPU per message is the server's, at that load.",
    "The programs of the peers are ours and follow the libraries' documentation. An expert may get more out of a library.",
]


@dataclass(frozen=True)
class Comparison:
    script: str
    # Of the record.
    name: str
    heading: str
    rows: tuple
    peers: tuple
    known_bias: list
    seconds: float = 1.0
    warmup: float = 0.3
    # Whether a missed target is an error.
    must_meet: bool = True


def named(*names, of=PEERS):
    return [next(one for one in of if one.name == name) for name in names]


# ---- scripts/bench-floor ----

# Limits that nobody reaches, on addresses and on what a connection sends.
LIMITS = (
    "--max-connections-per-address 100000 --handshake-rate-per-address 100000 --message-rate 100000000 --byte-rate 1024GiB "
    "--publish-rate 100000000 --ban-after 1000"
)


def limited():
    return {ECHO: f"{SERVE.replace('--admin off', '--admin 127.0.0.1:0')} {LIMITS}"}


WITHOUT = "without-limits"


def floors(side):
    of = lambda connections, size, target, **more: echo(connections, size, None, targets={side: target}, **more)  # noqa: E731
    return [
        of(100, 16, 1.05), of(100, 64, 1.05), of(1_000, 16, 1.05), of(200, 1024, 1.05), of(50, 16_384, 1.05), of(100, 16, 1.15, depth=16),
    ]  # fmt: skip


DIST = "dist"


def of_dist():
    """The program of packages, beside that of `cargo install`."""
    program = os.path.join(pairs.dist_folder(["-p", "echoring-cli", "--features", "otlp"]), "echoring")
    return dict.fromkeys((ECHO, BROADCAST), SERVE.replace("{echoring}", program))


def of_profiles(row):
    return replace(row, targets={DIST: 1.03})


# ---- scripts/bench-broadcast ----


def topics():
    """What a server does with topics, in each role."""
    plain = SERVE.replace(" --profile benchmark", "")
    # Stalled subscribers meet default socket buffers, which do not grow for a peer that does not read.
    return {BROADCAST: SERVE, OVERLOAD: SERVE, STALLED: plain, ROOMS: "{rooms}"}


def uws(*flags, roles=(BROADCAST, OVERLOAD)):
    return lambda: dict.fromkeys(roles, " ".join([install.uwebsockets("uws_broadcast"), *flags]))


def rooms(members, message_bytes, load):
    """The same server: handlers of a program that subscribe and publish, and the built-in route. The largest room has as many members as one
    generator may have descriptors."""
    return Row(
        f"rooms-{members}x{message_bytes}-{load.removeprefix('--').replace(' ', '')}",
        f"room of {members:,}, {message_bytes} B, {load.removeprefix('--')}", ROOMS,
        f"--mode broadcast --connections {members + 1} --message-bytes {message_bytes} {load}",
        message_bytes=message_bytes, values=(COST, "p99_ns"), targets={"builtin": {COST: 1.05, "p99_ns": 1.10}},
        ours_path="/rooms/{topic}", scale=6.0 if members > 1_000 else 1.0,
    )


def of_topics(row, **more):
    """A row of compare-peers with the targets of this comparison."""
    return replace(row, targets={FLOOR: 1.05, "uws": 1.0, **more})


DEFERRED = "uws-deferred"
BROADCASTS = [
    *(of_topics(broadcast(count, size, depth)) for count in (1_000, 10_000) for size in (64, 1024) for depth in (1, 8)),
    *(
        replace(overload(rate), role=OVERLOAD, targets={"uws": 1 / 1.1, DEFERRED: 1 / 1.1}, also=((WINDOW, {"uws": 1 / 1.5, DEFERRED: 1 / 1.5}),))
        for rate in (400, 800, 1_600)
    ),
    of_topics(*named("topics-1000x10", of=ROWS)),
    # Long enough to fill the sockets and queues of stalled subscribers and reach their deadline.
    Row(
        "stalled", "1 % of 10,000 subscribers stop reading, 16 KiB", STALLED,
        "--mode broadcast --connections 10001 --message-bytes 16KiB --rate 5 --verify off",
        message_bytes=16_384, values=("p99_ns",), targets={"all-read": 1.10}, bounds={LOST: 0, KEPT: 0}, seconds_min=15.0, clean=False,
        ours_load="--slow 100",
    ),
    rooms(1_000, 64, "--depth 1"), rooms(1_000, 64, "--depth 8"), rooms(1_000, 1024, "--depth 8"), rooms(1_000, 64, "--rate 100"),
    rooms(19_000, 64, "--depth 1"),
]  # fmt: skip

# ---- scripts/compare-conn ----

CONN = {"targets": {ANYONE: 1.05, FLOOR: None}}
LIBRARIES = (
    "fastwebsockets", "tokio-websockets", "yawc", "tokio-tungstenite", "tokio-tungstenite-feed", "axum", "sockudo-ws",
)

SETS = {one.name: one for one in (
    Comparison("compare-peers", "peers", "echoring and its peers", ROWS, PEERS, KNOWN_BIAS, must_meet=False),
    Comparison(
        "bench-floor", "floor", "Server CPU per echoed message against a raw TCP echo", floors(FLOOR), named(OURS, AGAIN, FLOOR),
        [*KNOWN_BIAS[:5], "The raw echo's ring is not restricted to the operations it uses, and its waits have no deadline."],
    ),
    Comparison(
        "bench-floor", "limits", "Server CPU per echoed message with limits on clients, against none", floors(WITHOUT),
        [
            Peer(OURS, "echoring, limits", limited, ours_version), Peer(AGAIN, "echoring, limits, again", limited, ours_version),
            Peer(WITHOUT, "without", lambda: {ECHO: SERVE}, ours_version),
        ],
        KNOWN_BIAS[:1],
    ),
    Comparison(
        "bench-floor", "profiles", "Server CPU per message of the profile release, against dist",
        [of_profiles(row) for row in (*floors(DIST), broadcast(1_000, 64, 1), broadcast(1_000, 1024, 1))],
        [
            *(Peer(name, title, lambda: dict.fromkeys((ECHO, BROADCAST), SERVE), ours_version) for name, title in
              ((OURS, "release"), (AGAIN, "release again"))),
            Peer(DIST, "dist", of_dist, ours_version),
        ],
        KNOWN_BIAS[:1], must_meet=False,
    ),
    Comparison(
        "bench-broadcast", "broadcast", "Server CPU per delivery of a topic's messages", BROADCASTS,
        [
            Peer(OURS, "echoring", topics, ours_version), Peer(AGAIN, "echoring again", topics, ours_version),
            Peer(WINDOW, "echoring, window of 2 ms", lambda: {OVERLOAD: with_window()[BROADCAST]}, ours_version),
            *named(FLOOR), Peer("uws", "uWebSockets", uws(), install.uws_version),
            Peer(DEFERRED, "uWebSockets, behind its handler", uws("--deferred", roles=(OVERLOAD,)), install.uws_version),
            Peer("all-read", "echoring, all read", lambda: {STALLED: topics()[STALLED]}, ours_version),
            Peer("builtin", "built-in route", lambda: {ROOMS: "{rooms}"}, ours_version),
        ],
        [
            *KNOWN_BIAS[:2],
            "The raw fan-out implements only frames, has no bounds, and disconnects a subscriber that does not take a batch at once.",
            "uWebSockets publishes in the message handler, as its users do. There, a loop iteration with more than 32 messages for a subscriber "
            "sends each by itself, so that in overload it collapses above a certain backlog. Outside of its handler it does not.",
        ],
    ),
    Comparison(
        "compare-conn", "conn", "Conn and other asynchronous WebSockets of Rust",
        [
            *(echo(100, 16, None, **CONN, depth=depth) for depth in (1, 16)),
            echo(100, 1024, None, **CONN),
            echo(100, 1024, None, kind="text", **CONN),
            mixed(echo(100, 1024, None, kind="text", **CONN)),
            echo(20, 65_536, None, **CONN),
            echo(20, 65_536, None, kind="text", **CONN),
            mixed(echo(20, 65_536, None, kind="text", **CONN)),
            replace(*named("compressed-1KiBx100", of=ROWS), **CONN),
            replace(*named("idle-memory", of=ROWS), bounds={}, **CONN),
        ],
        [
            Peer(OURS, "Conn", rust("conn", compresses=True), conn_version), Peer(AGAIN, "Conn again", rust("conn", compresses=True), conn_version),
            Peer("echoring-write", "Conn, one write each", rust("conn", "--write"), conn_version), *named(*LIBRARIES),
        ],
        [
            KNOWN_BIAS[0],
            "The programs are ours and follow the libraries' documentation: yawc and one form of tokio-tungstenite flush once for messages that "
            "arrived together, as Conn does, and the others for each message.",
            "fastwebsockets, tokio-websockets and tokio-tungstenite do not compress, so they are not in that row.",
        ],
        seconds=0.5, warmup=0.15, must_meet=False,
    ),
)}  # fmt: skip
