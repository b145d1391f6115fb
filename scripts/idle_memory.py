"""Opens WebSocket connections to a new server and measures the server's memory per idle connection. See scripts/idle-memory."""

import asyncio
import contextlib
import datetime
import json
import os
import platform
import re
import resource
import subprocess
import sys
import zlib

sys.dont_write_bytecode = True
import machine  # noqa: E402

TARGET_BYTES = 256
# Opened before the others, because some memory grows once, with the first connections.
FIRST = 1_000
# Several source addresses, so that no address runs out of ports. The number of concurrent handshakes fits the backlog.
SOURCES = [f"127.0.0.{i}" for i in range(2, 10)]
OPENING_AT_ONCE = 200
PATIENCE_S = 60
# With compression: the setting, and the window bits of both directions.
COMPRESSION = [
    ("off", 15),
    ("on", 15),
    *((f"server_max_window_bits={bits}; client_max_window_bits={bits}; memory=8GiB", bits) for bits in (9, 11, 13, 15)),
]
# Limits that nobody reaches, on addresses and on what a connection sends.
LIMITS = [
    "--max-connections-per-address=100000",
    "--handshake-rate-per-address=100000",
    "--message-rate=100000000",
    "--byte-rate=1024GiB",
    "--publish-rate=100000000",
    "--ban-after=1000",
]
MESSAGE = b"".join(
    b'{"id":%d,"symbol":"ECHO","bid":%d.25,"ask":%d.27,"venue":"XNAS","open":true}' % (i, 101 + i, 102 + i)
    for i in range(60)
)


def resident_bytes(pid):
    """RssAnon and RssFile of a process, in bytes."""
    with open(f"/proc/{pid}/status") as status:
        fields = dict(re.findall(r"^(\w+):\s+(\d+) kB$", status.read(), re.MULTILINE))
    return {name: int(fields[name]) * 1024 for name in ("RssAnon", "RssFile")}


def slab_caches():
    """Bytes in use in each of the kernel's slab caches; None without the permission to read them."""
    try:
        with open("/proc/slabinfo") as file:
            lines = [line.split() for line in file.readlines()[2:]]
    except PermissionError:
        return None
    return {words[0]: int(words[1]) * int(words[3]) for words in lines}


def slab_growth(before, after, count):
    """Growth of each cache in bytes per connection, the largest first; small ones are omitted."""
    if before is None or after is None:
        return None
    grown = {name: (bytes - before.get(name, 0)) / count for name, bytes in after.items()}
    return {name: round(bytes) for name, bytes in sorted(grown.items(), key=lambda one: -one[1]) if bytes >= 24}


async def settled_bytes(pid):
    """Resident memory of the process once it has not changed for a second."""
    last, same = None, 0
    for _ in range(PATIENCE_S * 4):
        now = resident_bytes(pid)
        same = same + 1 if now == last else 0
        if same == 4:
            return now
        last = now
        await asyncio.sleep(0.25)
    return last


def compressed_frame(bits):
    deflater = zlib.compressobj(wbits=-bits)
    payload = deflater.compress(MESSAGE) + deflater.flush(zlib.Z_SYNC_FLUSH)
    payload = payload.removesuffix(b"\0\0\xff\xff")
    # A masking key of zeros leaves the payload unchanged.
    return b"\xc1\xfe" + len(payload).to_bytes(2, "big") + bytes(4) + payload


async def open_one(gate, host, port, source, frame):
    async with gate:
        reader, writer = await asyncio.open_connection(host, port, local_addr=(source, 0), limit=4096)
        writer.write(
            f"GET /echo HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n".encode()
        )
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        if not head.startswith(b"HTTP/1.1 101 "):
            raise SystemExit(f"the server refused the upgrade: {head!r}")
        if frame is not None:
            if b"permessage-deflate" not in head:
                raise SystemExit(f"no compression but {head!r}")
            writer.write(frame)
            answer = await asyncio.wait_for(reader.readexactly(4), PATIENCE_S)
            if answer[:2] != b"\xc1\x7e":
                raise SystemExit(f"the answer is not compressed: {answer!r}")
            await asyncio.wait_for(reader.readexactly(int.from_bytes(answer[2:], "big")), PATIENCE_S)
        return reader, writer


@contextlib.asynccontextmanager
async def opened(host, port, count, frame=None):
    """Opens `count` idle connections to `/echo` for the duration of the block."""
    gate = asyncio.Semaphore(OPENING_AT_ONCE)
    opening = (open_one(gate, host, port, SOURCES[i % len(SOURCES)], frame) for i in range(count))
    connections = await asyncio.gather(*opening)
    try:
        yield
    finally:
        for _, writer in connections:
            writer.transport.abort()


async def measure(binary, count, flags=(), frame=None):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if count <= FIRST:
        raise SystemExit(f"{count} connections are too few: the first {FIRST} are measured separately")
    if count + 100 > hard:
        raise SystemExit(f"{count} connections need as many descriptors, the limit is {hard}; raise it with ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server = subprocess.Popen(
        [binary, "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log", "warn", *flags],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = server.stdout.readline()
        match = re.match(r"listening ws://([0-9.]+):(\d+) (.*)", line)
        if not match:
            raise SystemExit(f"the server did not start: {line!r}")
        before, slabs_before = await settled_bytes(server.pid), slab_caches()
        address = match[1], int(match[2])
        async with opened(*address, FIRST, frame):
            first = await settled_bytes(server.pid)
            async with opened(*address, count - FIRST, frame):
                after, slabs_after = await settled_bytes(server.pid), slab_caches()
    finally:
        server.terminate()
        server.wait()
    return match[3].split(" pid=")[0], {
        "bytes_per_connection": round((sum(after.values()) - sum(before.values())) / count, 1),
        "bytes_per_further_connection": round((sum(after.values()) - sum(first.values())) / (count - FIRST), 1),
        "resident_before": before,
        "resident_with_the_first": first,
        "resident_after": after,
        "kernel_slab_bytes_per_connection": slab_growth(slabs_before, slabs_after, count),
    }


def write_record(name, **figures):
    record = {
        "schema": "echoring.idle-memory/1",
        **figures,
        "commit": machine.commit() + ("+" if machine.uncommitted_changes() else ""),
        "cpu": machine.cpu_model(),
        "kernel": platform.release(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "known_bias": "Includes memory that grows once, with the first connections (pages of tables, pools and code touched "
        f"for the first time), so it overstates; the figure after the first {FIRST} does not. Slabs include both ends, and "
        "other work of the machine: halve those of sockets (TCP, sock_inode_cache, dentry, filp); those of io_uring are the "
        "server's.",
    }
    path = os.path.join(machine.results_folder(), name)
    with open(path, "w") as file:
        json.dump(record, file, indent=2)
        file.write("\n")
    print(os.path.relpath(path, machine.ROOT))
    return path, record


def measure_default(binary, count, limits=()):
    driver, figures = asyncio.run(measure(binary, count, limits))
    per_connection = figures["bytes_per_connection"]
    verdict = "met" if per_connection <= TARGET_BYTES else "missed"
    print(
        f"{per_connection:.0f} B of user memory per idle connection ({verdict}: target {TARGET_BYTES}); "
        f"{figures['bytes_per_further_connection']:.0f} B per connection after the first {FIRST}"
    )
    write_record(
        "idle-memory-limits.json" if limits else "idle-memory.json",
        scenario=f"{count} open and idle connections to /echo, {' '.join(limits) or 'default configuration'}",
        target_bytes=TARGET_BYTES,
        connections=count,
        server=driver,
        **figures,
    )


def measure_compression(binary, count):
    settings = []
    for compress, bits in COMPRESSION:
        frame = None if compress == "off" else compressed_frame(bits)
        driver, figures = asyncio.run(measure(binary, count, ["--compress", compress], frame))
        print(f"--compress {compress!r}: {figures['bytes_per_connection']:.0f} B of user memory per idle connection")
        settings.append({"compress": compress, **figures})
    path, record = write_record(
        "compressed-memory.json",
        scenario=f"{count} idle connections to /echo that have exchanged one compressed text message of "
        f"{len(MESSAGE)} bytes (none with compression off)",
        connections=count,
        server=driver,
        settings=settings,
    )
    with open(path.removesuffix("json") + "md", "w") as file:
        file.write(table_of(record))


def table_of(record):
    lines = [
        "# User memory per idle connection, by `--compress`",
        "",
        "| setting | bytes |",
        "|---|---|",
        *(f"| `{s['compress']}` | {s['bytes_per_connection']:,.0f} |" for s in record["settings"]),
        "",
        record["scenario"][0].upper() + record["scenario"][1:] + ".",
        "",
        f"Commit {record['commit'][:12]}, {record['cpu']}, Linux {record['kernel']}. {record['known_bias']}",
        "",
    ]
    return "\n".join(lines)


def main():
    binary, count, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if kind == "compression":
        measure_compression(binary, count)
    else:
        measure_default(binary, count, LIMITS if kind == "limits" else ())


if __name__ == "__main__":
    main()
