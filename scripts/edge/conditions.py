"""The conditions by name. Each returns its result, or None with a line that says why it cannot be tried here."""

import contextlib
import glob
import os
import resource
import signal
import socket
import statistics
import subprocess
import threading
import time

from .hostile import SlowClients, hold
from .site import addresses, failures, figures, is_whole, nobody_is_lost, result, served, target

# Threads in the background look this often whether their block is over.
STEP_S = 0.05


@contextlib.contextmanager
def repeated(action, interval_s):
    """Does something again and again beside the block. Its first error ends the block with an error."""
    over, errors = threading.Event(), []

    def work():
        while not over.wait(interval_s):
            try:
                action()
            except Exception as error:  # noqa: BLE001
                errors.append(error)
                return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if errors:
        raise errors[0]


def lowest_of_each_minute(samples):
    """What the server keeps. Between a receive and its send it holds buffers that it frees in the same tick; a sample that meets
    them is up to 350 KiB higher, at any time of the run."""
    minutes = {}
    for sample in samples:
        minutes.setdefault(int(sample[0] // 60), []).append(sample)
    return [min(minute, key=lambda sample: sample[1]) for minute in minutes.values()]


def median_slope(samples):
    """Theil and Sen's estimate in bytes per second: the median slope of all pairs, which single outliers do not move."""
    return statistics.median((b - a) / (t - s) for i, (s, a) in enumerate(samples) for t, b in samples[i + 1:])


def soak(site):
    seconds = int(site.options.minutes * 60)
    with site.server() as server:
        burst = figures(site.bench(server, "-c", "50", "--depth", "16", seconds=5))
        rate = int(0.7 * burst["messages"] / 5)
        load = ["-c", "1000", "--rate", str(rate), "--drain", "30s"]
        quiet = figures(site.bench(server, *load, seconds=min(60, seconds)))
        memory, churned = [], []
        load = site.bench(server, *load, seconds=seconds)
        began = time.monotonic()
        with repeated(lambda: memory.append((time.monotonic() - began, server.resident_bytes())), 1):
            while load.poll() is None and time.monotonic() - began < seconds - 10:
                churned.append(figures(site.bench(server, "--mode", "connect", "--rate", "20", seconds=9)))
        busy = figures(load)
    kept = lowest_of_each_minute(memory)
    slope = median_slope(kept[len(kept) // 4:]) * 3600 / kept[0][1] * 100
    lowest, highest = min(kept, key=lambda sample: sample[1])[1], max(memory, key=lambda sample: sample[1])[1]
    refused = sum(failures(run) for run in churned)
    return result(
        f"{rate} echoes a second on 1,000 TLS connections (70 % of saturation) for {seconds / 60:g} minutes, while 20 other TLS "
        "connections a second come and go",
        [quiet],
        [busy],
        [
            target("0 lost", f"{busy['lost']} of {busy['messages']}", is_whole(busy)),
            target("0 of the other connections refused", f"{refused} of {sum(run['messages'] for run in churned)}", refused == 0),
            target(
                "memory within 1 % an hour",
                f"{slope:+.2f} % an hour from {kept[0][1] >> 10} KiB; samples from {lowest >> 10} to {highest >> 10} KiB",
                abs(slope) <= 1,
            ),
        ],
        memory_bytes_lowest_of_each_minute=kept,
        memory_bytes_highest=highest,
    )


def reconnects(site):
    each, generators = 5_000, 2
    took = []
    with site.server() as server:

        @contextlib.contextmanager
        def crowd():
            # Each connection is opened once, and stays.
            flags = ["--mode", "connect", "-c", str(each), "--depth", str(each), "--hold", "60s", "--warmup", "0s"]
            flags += ["--connect-timeout", "30s", "--no-resumption"]
            # So that no address runs out of ports.
            sources = ["127.0.0.2-127.0.0.5", "127.0.0.6-127.0.0.9"]
            crowds = [site.bench(server, *flags, "--source-addr", source, seconds=25) for source in sources]
            yield
            took.extend(map(figures, crowds))

        without, during = site.turns(server, site.echoes, crowd)
    slowest = max(found["max_ms"] for found in took) / 1000
    failed = sum(each - found["messages"] for found in took)
    return result(
        f"echoes over TLS, while {each * generators} TLS connections are opened at once, without resumption",
        without,
        during,
        [
            target("all of them are back within 20 s", f"{slowest:.1f} s, {failed} failed", slowest <= 20 and failed == 0),
            nobody_is_lost(during),
        ],
        crowds=took,
    )


def slow_loris(site):
    count = 5_000
    with site.server(tls=False) as server, site.server() as secure:
        targets, runs = [], {}
        for name, server in (("plain", server), ("TLS", secure)):
            attack = lambda server=server: SlowClients(server.port, count, secure=server.url.startswith("wss"))  # noqa: E731
            echoes = site.turns(server, site.echoes, attack)
            connects = site.turns(server, site.connects, attack)
            runs[name] = (echoes, connects)
            share = served(echoes[1] + connects[1])
            targets.append(target(f"{name}: at least 99.9 % of the others are served", f"{share:.4%}", share >= 0.999))
    without = [run for echoes, connects in runs.values() for run in echoes[0]]
    during = [run for echoes, connects in runs.values() for run in echoes[1]]
    return result(
        f"echoes and new connections, while {count} others send their request, or their TLS handshake, at 1 byte a second each, and "
        "come again when they are cut",
        without,
        during,
        targets,
        connects={name: connects for name, (_, connects) in runs.items()},
    )


def descriptors(site):
    recovered, burnt = [], []
    with site.server("--driver", "epoll", tls=False) as server:

        @contextlib.contextmanager
        def exhausted():
            used = len(os.listdir(f"/proc/{server.pid}/fd"))
            limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (used + 100, limits[1]))
            with hold(server.port, 200):
                cpu, at = server.cpu_s(), time.monotonic()
                yield
                burnt.append((server.cpu_s() - cpu) / (time.monotonic() - at))
            began = time.monotonic()
            while not is_served(server.port) and time.monotonic() - began < 30:
                pass
            recovered.append(time.monotonic() - began)
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, limits)

        cpu, at = server.cpu_s(), time.monotonic()
        figures(site.echoes(server))
        usual = (server.cpu_s() - cpu) / (time.monotonic() - at)
        without, during = [], []
        for _ in range(site.options.pairs):
            without.append(figures(site.echoes(server)))
            # Its connections are there before the others take every descriptor.
            load = site.echoes(server)
            while server.stats()["node"]["connections"] < 50:
                time.sleep(STEP_S)
            with exhausted():
                during.append(figures(load))
    extra = max(burnt) - usual
    return result(
        "echoes on connections that are there, while further clients take every descriptor of a server on epoll (EMFILE)",
        without,
        during,
        [
            target("a client is served within 1 s of a free descriptor", f"{max(recovered):.2f} s", max(recovered) <= 1),
            target("burns no core", f"{extra:+.1%} of a CPU beside the load's {usual:.1%}", extra < 0.2),
            nobody_is_lost(during),
        ],
    )


def is_served(port):
    """Whether a new connection gets an answer."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.2) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return client.recv(1) != b""
    return False


def full_disk(site):
    if os.geteuid() != 0:
        return print("  skipped: needs root")
    disk = site.path("disk")
    os.mkdir(disk)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], check=True)
    try:
        flags = ["--log", "debug", "--log-file", f"{disk}/log", "--access-log", f"{disk}/access"]
        with site.server(*flags) as server:

            @contextlib.contextmanager
            def full():
                with open(f"{disk}/filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
                    while filler.write(bytes(4096)):
                        pass
                yield
                for name in ("filler", "log", "access"):
                    os.truncate(f"{disk}/{name}", 0)

            without, during = site.turns(server, site.connects, full)
            lost = server.stats()["log"]["dropped"]
            before = os.path.getsize(f"{disk}/access")
            figures(site.connects(server, seconds=2))
            grows = os.path.getsize(f"{disk}/access") > before
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
    return result(
        "new connections, each with a line in the access log and some in the log, while their file system is full",
        without,
        during,
        [
            nobody_is_lost(during, "nobody is refused or lost"),
            target("lost records are counted", f"{lost} of the log", lost > 0),
            target("the access log goes on when there is room", str(grows), grows),
        ],
    )


def clock_steps(site):
    library = next(iter(glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")), None)
    if library is None:
        return print("  skipped: needs libfaketime (Debian: faketime)")
    steps = site.path("step")

    def step(seconds):
        with open(f"{steps}.new", "w") as file:
            file.write(f"{seconds:+d}\n")
        os.replace(f"{steps}.new", steps)

    step(0)
    environment = {
        "LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": steps, "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    tokens = site.path("tokens.toml")
    with open(tokens, "w") as file:
        file.write('[[tokens]]\ntoken = "of-no-ordinary-client"\nsubject = "nobody"\n')
    flags = ["--auth-tokens", tokens, "--auth-anonymous", "--sandbox", "off", "--log", "debug", "--log-file", site.path("log")]
    with site.server(*flags, environment=environment) as server:
        offsets = iter([86_400, -86_400, 3, -3, 31_536_000, 0] * 1_000)

        def step_and_reload():
            step(next(offsets))
            # Each reload leaves a record in the log, with the time that the server believes.
            server.signal(signal.SIGHUP)

        without, during = site.turns(server, site.echoes, lambda: repeated(step_and_reload, 0.5))
        causes = server.stats()["node"]["causes"]
        step(0)
    with open(site.path("log")) as log:
        days = {line[:10] for line in log}
    timeouts = {name: count for name, count in causes.items() if "time" in name}
    return result(
        "echoes over TLS, while the system's clock steps by seconds, days and a year, both ways, twice a second",
        without,
        during,
        [
            nobody_is_lost(during),
            target("no timeout", str(timeouts), not timeouts),
            target("the server's log has the steps", f"{len(days)} days", len(days) > 1),
        ],
    )


def reloads(site):
    config = site.path("config.toml")

    def write(generation):
        with open(f"{config}.new", "w") as file:
            file.write(f'max_message = "{64 + generation % 2}KiB"\nlisten = "{place["listen"]}"\nadmin = "{place["admin"]}"\n')
        os.replace(f"{config}.new", config)

    place, count = addresses(), 0
    write(0)
    with site.server("--config", config, **place) as server:

        def reload():
            nonlocal count
            count += 1
            write(count)
            server.signal(signal.SIGHUP)

        without, during = site.turns(server, site.echoes, lambda: repeated(reload, 0.02))
        reloaded = server.stats()["reloads"]
    return result(
        "echoes over TLS, while the configuration changes and is reloaded, certificates included, 50 times a second",
        without,
        during,
        [
            nobody_is_lost(during),
            target("no reload is refused", f"{reloaded['accepted']} accepted of {count} signals", reloaded["refused"] == 0),
        ],
    )


def upgrades(site):
    count = 0
    with site.server(**addresses()) as server:

        def upgrade():
            nonlocal count
            count += 1
            server.take_over("--drain", "1s")

        without, during = site.turns(server, site.connects, lambda: repeated(upgrade, 0.2))
    return result(
        "new TLS connections, while one server after the other takes over. What subscribers see of it is in upgrade-storm.md",
        without,
        during,
        [nobody_is_lost(during, "none refused or lost", f" in {count} upgrades")],
    )


def kill(site):
    times = []
    with site.server(**addresses(), tls=False) as server:
        without, during = [], []
        for _ in range(site.options.pairs):
            without.append(figures(site.echoes(server)))
            for _ in range(10):
                with hold(server.port, 100):
                    began = time.monotonic()
                    server.kill_and_start()
                    while not is_served(server.port):
                        pass
                    times.append(time.monotonic() - began)
            during.append(figures(site.echoes(server)))
    return result(
        "echoes before, and after ten SIGKILLs of a server with connections, each with a start at the same address",
        without,
        during,
        [
            target("it serves again within 1 s of each SIGKILL", f"{max(times):.2f} s at most in {len(times)}", max(times) <= 1),
            nobody_is_lost(during, "no ordinary client is lost afterwards"),
        ],
    )


ALL = {
    "soak": soak,
    "reconnects": reconnects,
    "slow-loris": slow_loris,
    "descriptors": descriptors,
    "full-disk": full_disk,
    "clock-steps": clock_steps,
    "reloads": reloads,
    "upgrades": upgrades,
    "kill": kill,
}
