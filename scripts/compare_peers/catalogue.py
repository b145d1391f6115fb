"""The peers: their titles, roles, versions and commands.

A peer's program prints `listening ws://ADDRESS:PORT` once it accepts connections, on a loopback port that the kernel chooses. It
serves every path: it echoes, or, if started for broadcasts, treats each path as a topic and sends each message to all other clients
of that path. All use one thread, TCP_NODELAY, no compression except in rows about it, messages of up to 16 MiB, and check UTF-8 if
the library can.
"""

import os
from dataclasses import dataclass
from typing import Callable

import install
import machine
import pairs
import records

ECHO, COMPRESSED, SECURED, BROADCAST = "echo", "compressed", "secured", "broadcast"
# Subscribers that each server compresses for in the way that makes the fewest bytes.
COMPRESSED_BROADCAST = "compressed-broadcast"
# Roles of scripts/bench-broadcast: more messages than a send can carry, subscribers that stop reading, and rooms of handlers.
OVERLOAD, STALLED, ROOMS = "overload", "stalled", "rooms"
OURS, AGAIN, WINDOW = "echoring", "echoring-again", "echoring-window"
FLOOR = "raw-uring"
# Both are the asynchronous connection over tokio.
AIO, AIO_WRITE = "aio", "aio-write"
GORILLA, NCHAN = "golang-github-gorilla-websocket-dev", "libnginx-mod-nchan"


def serving(shards):
    return (
        f"{{echoring}} serve --listen 127.0.0.1:0 --admin off {shards} --profile benchmark "
        "--max-message 16MiB --log error"
    )


SERVE = serving("--shards 1 --cpus {cpu}")
# The second shard shares the generator's CPU, which the server would otherwise not be allowed.
SERVE_TWO = "taskset -c {cpu},{generator_cpu} " + serving("--shards 2 --cpus {cpu},{generator_cpu}")


@dataclass(frozen=True)
class Peer:
    """One peer. `commands` installs what it needs and returns the command for each role; names in braces are filled in for each
    row."""

    name: str
    title: str
    commands: Callable[[], dict]
    version: Callable[[], str]
    # A raw server copies bytes and speaks no protocol.
    raw: bool = False
    # It sends a publisher its own messages too, which the generator counts as corrupted.
    hears_itself: bool = False


def serve(*flags):
    command = " ".join([SERVE, *flags])

    def commands():
        found = {
            ECHO: command, BROADCAST: command, COMPRESSED: f"{command} --compress on", COMPRESSED_BROADCAST: f"{command} --compress shared",
        }  # fmt: skip
        if files := install.certificate():
            found[SECURED] = f"{command} --tls-cert {files[0]} --tls-key {files[1]}"
        return found

    return commands


def with_window():
    return {BROADCAST: f"{SERVE} --config {os.path.join(install.PROGRAMS, 'coalesce.toml')}"}


def two_shards():
    return {ECHO: SERVE_TWO, BROADCAST: SERVE_TWO}


def raw(driver):
    return lambda: {
        ECHO: f"{{raw_echo}} --driver {driver} --message-bytes {{bytes}} --cpu {{cpu}}",
        BROADCAST: f"{{raw_fanout}} --driver {driver} --cpu {{cpu}}",
    }


def uws():
    return {
        ECHO: install.uwebsockets("uws_echo"),
        BROADCAST: install.uwebsockets("uws_broadcast"),
        COMPRESSED: install.uwebsockets("uws_echo", compression=True) + " --compress",
        COMPRESSED_BROADCAST: install.uwebsockets("uws_broadcast", compression=True) + " --compress",
    }


def bun():
    command = f"{install.bun()} {os.path.join(install.PROGRAMS, 'bun_server.mjs')}"
    found = {ECHO: command, BROADCAST: f"{command} --broadcast", COMPRESSED: f"{command} --compress"}
    if files := install.certificate():
        found[SECURED] = f"{command} --tls {' '.join(files)}"
    return found


def ws():
    modules, program = install.node_modules(), os.path.join(install.PROGRAMS, "ws_server.mjs")
    command = f"env NODE_MODULES={modules} NODE_ENV=production {install.node()} {program}"
    return {
        ECHO: command, BROADCAST: f"{command} --broadcast", COMPRESSED: f"{command} --compress",
        COMPRESSED_BROADCAST: f"{command} --broadcast --compress",
    }  # fmt: skip


def gorilla():
    command = f"env GOMAXPROCS=1 {install.go('gorilla', GORILLA)}"
    return {
        ECHO: command, BROADCAST: f"{command} -broadcast", COMPRESSED: f"{command} -compress",
        COMPRESSED_BROADCAST: f"{command} -broadcast -compress",
    }  # fmt: skip


def picows():
    command = f"{install.python()} {os.path.join(install.PROGRAMS, 'picows_server.py')}"
    return {ECHO: command, BROADCAST: f"{command} --broadcast"}


def beast():
    command = install.cpp("beast", packages=("libboost-dev",))
    return {ECHO: command, COMPRESSED: f"{command} --compress"}


def nchan():
    install.debian("nginx-light", NCHAN)
    folder = os.path.join(install.FOLDER, "nchan")
    return {BROADCAST: f"{install.python()} {os.path.join(install.PROGRAMS, 'nchan.py')} {folder}"}


def rust(name, *flags, compresses=False):
    def commands():
        command = " ".join([os.path.join(install.cargo(), name), *flags])
        return {ECHO: command, COMPRESSED: f"{command} --compress"} if compresses else {ECHO: command}

    return commands


def locked(crate):
    return lambda: f"{crate} {install.locked_version(crate)}, tokio {install.locked_version('tokio')}"


def ours_version():
    return f"commit {records.commit()[:12]}"


def conn_version():
    return f"{ours_version()}, tokio {install.locked_version('tokio')}"


PEERS = [
    Peer(OURS, "echoring", serve(), ours_version),
    Peer(AGAIN, "echoring again", serve(), ours_version),
    Peer("echoring-epoll", "echoring, epoll", serve("--driver epoll"), ours_version),
    Peer(WINDOW, "echoring, window of 2 ms", with_window, ours_version),
    Peer("echoring-two", "echoring, two shards", two_shards, ours_version),
    Peer(FLOOR, "raw io_uring", raw("uring"), ours_version, raw=True),
    Peer("raw-epoll", "raw epoll", raw("epoll"), ours_version, raw=True),
    Peer(AIO, "echoring's Conn", rust("conn", compresses=True), conn_version),
    Peer(AIO_WRITE, "echoring's Conn, one write each", rust("conn", "--write"), conn_version),
    Peer("uws", "uWebSockets", uws, install.uws_version),
    Peer("bun", "Bun", bun, lambda: f"Bun {machine.first_line(install.bun(), '--version')}"),
    Peer("beast", "Boost.Beast", beast, lambda: f"Boost {install.version_of('libboost-dev')}, {install.compiler()}"),
    Peer("fastwebsockets", "fastwebsockets", rust("fastwebsockets"), locked("fastwebsockets")),
    Peer("tokio-websockets", "tokio-websockets", rust("tokio-websockets"), locked("tokio-websockets")),
    Peer("tokio-tungstenite", "tokio-tungstenite", rust("tokio-tungstenite"), locked("tokio-tungstenite")),
    Peer(
        "tokio-tungstenite-feed", "tokio-tungstenite, one flush", rust("tokio-tungstenite-feed"),
        locked("tokio-tungstenite"),
    ),
    Peer("axum", "axum", rust("axum"), locked("axum")),
    Peer("sockudo-ws", "sockudo-ws", rust("sockudo-ws", compresses=True), locked("sockudo-ws")),
    Peer("yawc", "yawc", rust("yawc", compresses=True), locked("yawc")),
    Peer(
        "gorilla", "gorilla", gorilla,
        lambda: f"gorilla/websocket {install.version_of(GORILLA)}, {machine.first_line('go', 'version')}",
    ),
    Peer(
        "ws", "npm ws", ws,
        lambda: f"ws {install.npm_version('ws')}, Node {machine.first_line(install.node(), '--version')}",
    ),
    Peer(
        "picows", "picows", picows,
        lambda: f"picows {install.pip_version('picows')}, {machine.first_line(install.python(), '--version')}",
    ),
    Peer(
        "nchan", "nginx, nchan", nchan,
        lambda: f"nchan {install.version_of(NCHAN)}, nginx {install.version_of('nginx-light')}",
        hears_itself=True,
    ),
]


RAWS = frozenset(peer.name for peer in PEERS if peer.raw)
HEAR_THEMSELVES = frozenset(peer.name for peer in PEERS if peer.hears_itself)


def of_names(names, peers):
    """The named peers, in their order; all if no name is given. Always includes echoring and its noise."""
    known = {peer.name for peer in peers}
    if unknown := [name for name in names if name not in known]:
        pairs.fail(f"--peers: no peer {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return [peer for peer in peers if not names or peer.name in names or peer.name in (OURS, AGAIN)]


def prepare(chosen):
    """Builds and installs peers. Returns the commands of the available ones, and the reasons for the others."""
    had, skipped = {}, {}
    for peer in chosen:
        try:
            had[peer.name] = peer.commands()
        except install.Unavailable as error:
            skipped[peer.name] = pairs.reason(error)
            print(f"skipped {peer.name}: {error}", flush=True)
    return had, skipped


def versions(names, peers):
    """Titles and versions of these peers."""
    return {peer.name: {"title": peer.title, "version": peer.version()} for peer in peers if peer.name in names}


def binaries(options, chosen, rows):
    """Builds the programs of this repository that the chosen peers need in these rows and no flag names."""
    examples = {"raw_echo": "raw_echo", "raw_fanout": "raw_fanout"} if any(peer.raw for peer in chosen) else {}
    pairs.build(options, **examples, **({"rooms": "bench_rooms"} if any(row.role == ROOMS for row in rows) else {}))
