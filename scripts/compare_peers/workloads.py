"""The rows: what is asked of every peer, and what echoring is to reach in each.

Every value is the less the better: CPU per message, bytes per connection, nanoseconds of latency. A target is what the
ratio of echoring's value to a peer's may be at most.
"""

from dataclasses import dataclass, field

from catalogue import AIO, BROADCAST, COMPRESSED, ECHO, FLOOR, SECURED, WINDOW

COST, WITNESSED_COST = "cpu_ns_per_message", "witnessed_cpu_ns_per_message"
HANDSHAKE_COST = "cpu_ns_per_handshake"
# All that the CPUs of server and generator did: which of the two is charged for TCP's work, or neither, depends on when bytes
# are sent.
TOGETHER_COST = "both_cpus_ns_per_message"
# Of a row that is measured at several rates: for each bound of p99 the time for a message at the highest that kept it.
SUSTAINED_TIMES = {"ns_per_message_p99_10ms": 10_000_000, "ns_per_message_p99_50ms": 50_000_000}
USER_BYTES = "user_bytes_per_connection"
# Connections of the row that tells what an idle one takes.
IDLE = 10_000
# Of a target that holds for all peers that have none of their own; raw servers are floors and no peers.
ANYONE = "*"


@dataclass(frozen=True)
class Row:
    """`load` are flags of the generator, `kind` says which module measures, `role` which of a peer's servers."""

    name: str
    title: str
    role: str
    load: str
    kind: str = "stretch"
    message_bytes: int = 16
    targets: dict = field(default_factory=lambda: {ANYONE: 1.0})
    values: tuple = (COST,)
    # Values that are told beside and have no target.
    told: tuple = ()
    # Times of a stretch by as much, where it would otherwise have few messages.
    scale: float = 1.0
    # Of a row that varies little or takes long; else as many as asked for.
    rounds_max: int | None = None
    quick: bool = False
    # What a value of echoring's own may be at most, whatever the peers take.
    bounds: dict = field(default_factory=dict)
    # What others than echoring itself are to reach: the side, and its targets.
    also: tuple = ()
    # Whether a loss or a closed connection is a failure; else it is counted and told.
    clean: bool = True
    # Each sample is of a process that nobody has connected to.
    fresh: bool = False
    # Of the slowest peer's maximum, the rate at which all are measured in an open loop.
    rate_share: float | None = None
    # Messages a second at which a sample measures, one after the other.
    rates: tuple = ()
    # Counts in the geometric mean beside uWebSockets.
    echo_mean: bool = False

    @property
    def shown(self):
        return self.values + self.told


def sized(message_bytes):
    return f"{message_bytes // 1024 // 1024} MiB" if message_bytes >= 1 << 20 else (
        f"{message_bytes // 1024} KiB" if message_bytes >= 1024 else f"{message_bytes} B"
    )


def echo(connections, message_bytes, floor, depth=1, kind="binary", targets=None, **more):
    size = sized(message_bytes).replace(" B", "").replace(" ", "")
    name = f"echo-{size}x{connections}" + (f"-depth{depth}" if depth > 1 else "") + ("-text" if kind == "text" else "")
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


def broadcast(subscribers, message_bytes, depth, **more):
    size = sized(message_bytes).replace(" B", "").replace(" ", "")
    return Row(
        f"broadcast-{subscribers}x{size}" + (f"-depth{depth}" if depth > 1 else ""),
        f"broadcast, {sized(message_bytes)} to {subscribers:,}" + (f", {depth} outstanding" if depth > 1 else ""),
        BROADCAST,
        f"--mode broadcast --connections {subscribers + 1} --message-bytes {message_bytes} --depth {depth} --kind binary",
        message_bytes=message_bytes,
        targets={FLOOR: 1.03, "uws": 0.93 if depth == 1 else 0.95, ANYONE: 1.0},
        scale=3.0 if subscribers > 1_000 else 1.0,
        **more,
    )


# With as many in flight whoever sends each answer by itself costs fifteen times as much.
TENTH = {name: 0.1 for name in ("tokio-tungstenite", "tokio-websockets", "fastwebsockets", "sockudo-ws", "yawc")}

# Asynchronous libraries of Rust, which `aio` is measured beside: all are an echo by a task for each connection.
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
    """Through TLS 1.3, with the cipher that server and generator agree on."""
    size = sized(message_bytes).replace(" B", "").replace(" ", "")
    return Row(
        f"tls-{size}x{connections}",
        f"echo through TLS, {sized(message_bytes)} binary × {connections:,}",
        SECURED,
        f"--connections {connections} --message-bytes {message_bytes} --depth 1 --kind binary --verify off --insecure",
        message_bytes=message_bytes,
    )


def witnessed(connections, message_bytes):
    size = sized(message_bytes).replace(" B", "").replace(" ", "")
    return Row(
        f"witness-{size}x{connections}",
        f"both generators, {sized(message_bytes)} × {connections:,}",
        ECHO,
        f"--connections {connections} --message-bytes {message_bytes} --depth 1 --kind binary --verify off",
        kind="witness", message_bytes=message_bytes, values=(COST, WITNESSED_COST), targets={}, rounds_max=10,
    )


def open_loop(share):
    """Latency counts from when each message was due."""
    return Row(
        f"open-loop-{100 * share:.0f}",
        f"open loop, 16 B × 100, {100 * share:.0f} % of the slowest peer's maximum",
        ECHO,
        "--connections 100 --message-bytes 16 --kind binary --verify off",
        kind="open-loop", values=("p50_ns", "p99_ns", "p999_ns"), targets={ANYONE: 1.0}, rate_share=share,
    )


def overload(published):
    """More than one send for each message carries. What a server gets out of a second of CPU counts, as long as its 99th
    percentile stays bearable."""
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
    # Nobody is asked for more than the generator's CPU can prove, so that this is of server and generator together.
    Row(
        "sustained-1000x64", "broadcast, 64 B to 1,000, as many as hold", BROADCAST,
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
        kind="compressed", message_bytes=1024,
    ),
    Row(
        "idle-memory", f"memory of an idle connection, {IDLE:,} of them", ECHO, "", kind="memory", values=(USER_BYTES,),
        bounds={USER_BYTES: 256}, fresh=True, rounds_max=3,
    ),
    secured(100, 16),
    secured(50, 16_384),
    open_loop(0.5),
    open_loop(0.8),
    witnessed(100, 16),
    witnessed(200, 1024),
]


def of_names(names, quick):
    """Rows named, or all, or those of a quick look."""
    unknown = [name for name in names if name not in {row.name for row in ROWS}]
    if unknown:
        raise KeyError(", ".join(unknown))
    if names:
        return [row for row in ROWS if row.name in names]
    return [row for row in ROWS if row.quick or not quick]
