"""The rows: the workload of each, and echoring's targets.

For every value lower is better: CPU per message, bytes per connection, nanoseconds of latency. A target is the maximum ratio of
echoring's value to a peer's.
"""

import os
import random
from dataclasses import dataclass, field, replace
from pathlib import Path

from catalogue import AGAIN, AIO, BROADCAST, COMPRESSED, COMPRESSED_BROADCAST, ECHO, FLOOR, OURS, SECURED, WINDOW

COST, WITNESSED_COST = "cpu_ns_per_message", "witnessed_cpu_ns_per_message"
HANDSHAKE_COST = "cpu_ns_per_handshake"
# A connection that is opened, sends a message, gets its echo, and is closed.
VISIT_COST = "cpu_ns_per_visit"
# Bytes of compressed messages, as a share of what they contain.
REPLY_SHARE = "reply_share"
# Of a server that no client has connected to.
BYTES_BEFORE = "resident_bytes_before"
# CPU time of server and generator together. The time at which bytes are sent decides which of the two, if any, is charged for the
# work of TCP.
TOGETHER_COST = "both_cpus_ns_per_message"
# In a row with several rates: for each bound of p99, the time per message at the highest rate that kept it.
SUSTAINED_TIMES = {"ns_per_message_p99_10ms": 10_000_000, "ns_per_message_p99_50ms": 50_000_000}
USER_BYTES = "user_bytes_per_connection"
# Messages lost, and subscribers that do not read and stayed connected.
LOST, KEPT = "lost", "stalled_kept"
# Connections of the row that measures idle memory.
IDLE = 10_000
TARGET = Path(__file__).resolve().parents[2] / "target"
# Latin, Greek, Cyrillic, Hebrew, Arabic, Devanagari, Thai, Hiragana, Han and Hangul.
SCRIPTS = (
    (0x61, 0x7A), (0xE0, 0xF6), (0x3B1, 0x3C9), (0x430, 0x44F), (0x5D0, 0x5EA), (0x627, 0x63A), (0x905, 0x939), (0xE01, 0xE2E), (0x3041, 0x3096),
    (0x4E00, 0x9FFF), (0xAC00, 0xD7A3),
)  # fmt: skip
# Key of the target for peers without a target of their own. Raw servers are baselines, not peers.
ANYONE = "*"


@dataclass(frozen=True)
class Row:
    """`load` are flags of the generator, `kind` selects the function in `samples`, `role` selects the peer's command."""

    name: str
    title: str
    role: str
    load: str
    kind: str = "stretch"
    message_bytes: int = 16
    targets: dict = field(default_factory=lambda: {ANYONE: 1.0})
    values: tuple = (COST,)
    # Values that are shown and have no target.
    told: tuple = ()
    # Factor for the times of a stretch that would otherwise have few messages.
    scale: float = 1.0
    # Maximum rounds of a row that varies little or takes long.
    rounds_max: int | None = None
    quick: bool = False
    # Maximum of echoring's own values, independent of the peers.
    bounds: dict = field(default_factory=dict)
    # Targets of other sides than echoring: the side, and its targets.
    also: tuple = ()
    # Whether a loss or a closed connection is a failure; otherwise it is counted and reported.
    clean: bool = True
    # Each sample uses a process that no client has connected to.
    fresh: bool = False
    # Rate of an open loop for all servers, as a share of the slowest peer's maximum.
    rate_share: float | None = None
    # Rates of a sample in messages/s, measured one after the other.
    rates: tuple = ()
    # Included in the geometric mean of the ratios to uWebSockets.
    echo_mean: bool = False
    # Path and further flags of the generator for echoring alone, in a row that compares it with another use of itself.
    ours_path: str = ""
    ours_load: str = ""
    # Minimum seconds of a stretch.
    seconds_min: float = 0.0

    @property
    def shown(self):
        return self.values + self.told

    def path(self, side, role=None):
        """The path at a server. `role` is another one than the row's, for the check before measuring."""
        if (role or self.role) in (ECHO, COMPRESSED, SECURED):
            return "/echo"
        return self.ours_path if self.ours_path and side in (OURS, AGAIN) else "/broadcast/{topic}"

    def seconds(self, options):
        """Measured time of a stretch."""
        return max(options.seconds * self.scale, self.seconds_min)


def sized(message_bytes):
    return f"{message_bytes // 1024 // 1024} MiB" if message_bytes >= 1 << 20 else (
        f"{message_bytes // 1024} KiB" if message_bytes >= 1024 else f"{message_bytes} B"
    )


def short(message_bytes):
    return sized(message_bytes).replace(" B", "").replace(" ", "")


def echo(connections, message_bytes, floor, depth=1, kind="binary", targets=None, **more):
    name = f"echo-{short(message_bytes)}x{connections}" + (f"-depth{depth}" if depth > 1 else "") + ("-text" if kind == "text" else "")
    in_flight = f", {depth} in flight" if depth > 1 else ""
    return Row(
        name,
        f"echo, {sized(message_bytes)} {kind} × {connections:,}{in_flight}",
        ECHO,
        f"--connections {connections} --message-bytes {message_bytes} --depth {depth} --kind {kind} --verify off",
        message_bytes=message_bytes,
        targets={FLOOR: floor, "uws": 1.0, ANYONE: 1.0, **(targets or {})},
        **more,
    )


def mixed(row):
    """The row with text of many scripts instead of ASCII."""
    title = row.title.replace(" text ", " mixed text ")
    load = row.load.replace(f"--message-bytes {row.message_bytes}", f"--payload-file {mixed_lines(row.message_bytes)}")
    return replace(row, name=f"{row.name}-mixed", title=title, load=load)


def mixed_lines(line_bytes):
    """A file with lines of this size, of words of several scripts. The same seed gives the same lines."""
    file = TARGET / f"mixed-text-{line_bytes}.txt"
    if not file.exists():
        dice = random.Random(f"7 {line_bytes}")
        lines = []
        for _ in range(16):
            line = b""
            while len(line) < line_bytes:
                first, last = dice.choice(SCRIPTS)
                line += "".join(chr(dice.randint(first, last)) for _ in range(dice.randint(1, 12))).encode() + b" "
            # A character that was cut goes, and full stops fill the rest.
            lines.append(line[:line_bytes].decode(errors="ignore").encode().ljust(line_bytes, b"."))
        TARGET.mkdir(exist_ok=True)
        file.write_bytes(b"\n".join(lines) + b"\n")
    # Records have the path.
    return os.path.relpath(file)


def broadcast(subscribers, message_bytes, depth, **more):
    return Row(
        f"broadcast-{subscribers}x{short(message_bytes)}" + (f"-depth{depth}" if depth > 1 else ""),
        f"broadcast, {sized(message_bytes)} to {subscribers:,}" + (f", {depth} in flight" if depth > 1 else ""),
        BROADCAST,
        f"--mode broadcast --connections {subscribers + 1} --message-bytes {message_bytes} --depth {depth} --kind binary",
        message_bytes=message_bytes,
        targets={FLOOR: 1.03, "uws": 0.93 if depth == 1 else 0.95, ANYONE: 1.0},
        scale=3.0 if subscribers > 1_000 else 1.0,
        **more,
    )


# With many messages in flight, a server that sends each answer by itself costs fifteen times as much.
TENTH = {name: 0.1 for name in ("tokio-tungstenite", "tokio-websockets", "fastwebsockets", "sockudo-ws", "yawc")}

# Asynchronous Rust libraries, for comparison with the asynchronous connection: each echoes with one task per connection.
LIBRARIES = ("fastwebsockets", "tokio-websockets", "yawc", "tokio-tungstenite", "tokio-tungstenite-feed", "axum")
BESIDE_LIBRARIES = {"also": ((AIO, dict.fromkeys(LIBRARIES, 1.0)),)}

ROWS = [
    echo(100, 16, 1.03, quick=True, echo_mean=True, **BESIDE_LIBRARIES),
    echo(1_000, 16, 1.03, echo_mean=True),
    echo(10_000, 16, 1.05, echo_mean=True, scale=2.0),
    echo(1, 16, 1.05),
    echo(10, 16, 1.05),
    echo(200, 1024, 1.03, quick=True, echo_mean=True, **BESIDE_LIBRARIES),
    echo(50, 16_384, 1.05, quick=True, echo_mean=True, **BESIDE_LIBRARIES),
    echo(20, 65_536, 1.05, **BESIDE_LIBRARIES),
    echo(4, 1 << 20, 1.25, echo_mean=True, scale=2.0, told=(TOGETHER_COST,)),
    echo(100, 16, 1.10, depth=16, quick=True, echo_mean=True, targets=TENTH, **BESIDE_LIBRARIES),
    echo(100, 16, 1.03, kind="text"),
    echo(200, 1024, 1.03, kind="text", **BESIDE_LIBRARIES),
    echo(100, 10_240, 1.05, kind="text"),
    echo(50, 16_384, 1.05, kind="text", **BESIDE_LIBRARIES),
    echo(20, 65_536, 1.05, kind="text", **BESIDE_LIBRARIES),
    broadcast(1_000, 64, 1, quick=True),
    broadcast(1_000, 64, 8),
    broadcast(1_000, 1024, 1),
    broadcast(10_000, 64, 1),
    broadcast(10_000, 1024, 1),
    Row(
        "topics-1000x10", "1,000 topics of 10, 64 B at random", BROADCAST,
        "--mode broadcast --connections 11000 --topics 1000 --publishers 1000 --message-bytes 64 --kind binary "
        "--rate 8000 --arrivals poisson",
        message_bytes=64, targets={FLOOR: 1.03, "uws": 0.93, ANYONE: 1.0}, scale=2.0,
    ),
]


def secured(connections, message_bytes):
    """An echo through TLS 1.3, with the cipher that server and generator negotiate."""
    return Row(
        f"tls-{short(message_bytes)}x{connections}",
        f"echo through TLS, {sized(message_bytes)} binary × {connections:,}",
        SECURED,
        f"--connections {connections} --message-bytes {message_bytes} --depth 1 --kind binary --verify off --insecure",
        message_bytes=message_bytes,
    )


def witnessed(connections, message_bytes):
    return Row(
        f"witness-{short(message_bytes)}x{connections}",
        f"two generators, {sized(message_bytes)} × {connections:,}",
        ECHO,
        f"--connections {connections} --message-bytes {message_bytes} --depth 1 --kind binary --verify off",
        kind="witness", message_bytes=message_bytes, values=(COST, WITNESSED_COST), targets={}, rounds_max=10,
    )


def open_loop(share):
    """An open loop. Latency counts from the time at which each message was due."""
    return Row(
        f"open-loop-{100 * share:.0f}",
        f"open loop, 16 B × 100, {100 * share:.0f} % of the slowest peer's maximum",
        ECHO,
        "--connections 100 --message-bytes 16 --kind binary --verify off",
        kind="open-loop", values=("p50_ns", "p99_ns", "p999_ns"), targets={ANYONE: 1.0}, rate_share=share,
    )


def overload(published):
    """More messages than one send per message can carry. The comparison is by CPU per delivery, with a bound on the 99th
    percentile."""
    return Row(
        f"overload-{published}",
        f"broadcast, 64 B to 1,000, {published:,} published a second",
        BROADCAST,
        f"--mode broadcast --connections 1001 --message-bytes 64 --rate {published} --kind binary --verify off",
        message_bytes=64,
        targets={"uws": 1 / 1.1, "bun": 1 / 1.1, ANYONE: 1.0},
        also=((WINDOW, {"uws": 1 / 1.5, "bun": 1 / 1.5}),),
        bounds={"p99_ns": 10_000_000},
        clean=False,
    )


ROWS += [
    overload(400),
    overload(800),
    # The generator's CPU limits the rates, so this row is of server and generator together.
    Row(
        "sustained-1000x64", "broadcast, 64 B to 1,000, highest sustained rate", BROADCAST,
        "--mode broadcast --connections 1001 --message-bytes 64 --kind binary --verify off --drain 1s",
        kind="sustained", message_bytes=64, values=tuple(SUSTAINED_TIMES), rounds_max=10, clean=False,
        rates=(250, 500, 1_000, 2_000, 3_000, 4_000, 6_000, 8_000),
        targets={"uws": 1 / 1.1, "bun": 1 / 1.1, ANYONE: 1.0}, also=((WINDOW, {"uws": 1 / 1.5, "bun": 1 / 1.5}),),
    ),
    Row(
        "handshakes", "handshakes, 50 at a time", ECHO, "--mode connect --depth 50 --first-message off",
        kind="connect", values=(HANDSHAKE_COST,), targets={"uws": 1 / 1.2, ANYONE: 1.0},
    ),
    Row(
        "compressed-1KiBx100", "compressed echo, 1 KiB JSON × 100", COMPRESSED,
        "--connections 100 --message-bytes 1024 --depth 1 --kind json --compress on",
        kind="compressed", message_bytes=1024, told=(REPLY_SHARE,),
    ),
    Row(
        "visits", "connect, echo 16 B once, close, 50 at a time", ECHO, "--mode connect --depth 50 --message-bytes 16 --kind binary",
        kind="connect", values=(VISIT_COST,), targets={"uws": 1 / 1.2, ANYONE: 1.0},
    ),
    # The generator offers a window that each server may keep.
    Row(
        "compressed-broadcast-1000x200", "compressed broadcast, 200 B JSON to 1,000", COMPRESSED_BROADCAST,
        "--mode broadcast --connections 1001 --message-bytes 200 --depth 1 --kind json --compress server_max_window_bits=15",
        kind="compressed", message_bytes=200, told=(REPLY_SHARE,),
    ),
    Row(
        "idle-memory", f"memory of an idle connection, {IDLE:,} of them", ECHO, "", kind="memory", values=(USER_BYTES,),
        told=(BYTES_BEFORE,), bounds={USER_BYTES: 256, BYTES_BEFORE: 8_000_000}, fresh=True, rounds_max=3,
    ),
    secured(100, 16),
    secured(1_000, 16),
    secured(50, 16_384),
    open_loop(0.5),
    open_loop(0.8),
    witnessed(100, 16),
    witnessed(200, 1024),
]


def of_names(names, quick, rows=tuple(ROWS)):
    """The named rows, or all rows, or those of --quick. What is no row's name may be the first part of several: `tls` of `tls-16x100`."""
    all_names = [row.name for row in rows]
    found = {name: [name] if name in all_names else [full for full in all_names if full.startswith(f"{name}-")] for name in names}
    if unknown := [name for name in names if not found[name]]:
        raise KeyError(", ".join(unknown))
    if names:
        return [row for row in rows if any(row.name in some for some in found.values())]
    return [row for row in rows if row.quick or not quick] or list(rows)
