"""A server of the released build, and its ordinary clients."""

import contextlib
import http.client
import json
import os
import shlex
import socket
import statistics
import subprocess

import machine
import pairs
import process

BINARY = os.environ.get("ECHORING") or os.path.join(machine.ROOT, "target", "dist", "echoring")
SERVER_CPU, CLIENT_CPU = "0", "1"
# Messages and connections per second of ordinary clients: far from saturation on any machine.
RATE, CONNECT_RATE, CONNECTIONS = 1_000, 100, 50
PATIENCE_S = 60


def addresses():
    """Two free addresses for a server that starts again."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return {name: f"127.0.0.1:{port}" for name, port in zip(("listen", "admin"), ports)}


class Site:
    """A folder for one condition's files, and the options of the run."""

    def __init__(self, folder, options):
        self.folder, self.options = folder, options
        process.raise_descriptors()
        self.certificate, self.key = process.certificate(folder)

    def path(self, name):
        return os.path.join(self.folder, name)

    def server(self, *flags, tls=True, **options):
        secure = ["--tls-cert", self.certificate, "--tls-key", self.key] if tls else []
        return Server([*secure, *flags], **options)

    def bench(self, server, *flags, seconds=None, path="/echo"):
        """Starts `echoring bench`; call `figures` on what is returned."""
        command = [BINARY, "bench", server.url + path, "-d", f"{seconds or self.options.seconds}s", "--json", "-"]
        command += ["--allow-saturated", "--cpus", CLIENT_CPU, "--threads", "1", *flags]
        command += ["--insecure"] if server.url.startswith("wss:") else []
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def echoes(self, server, seconds=None):
        flags = ["-c", str(CONNECTIONS), "--rate", str(RATE), "--drain", "30s"]
        return self.bench(server, *flags, seconds=seconds)

    def connects(self, server, seconds=None):
        return self.bench(server, "--mode", "connect", "--rate", str(CONNECT_RATE), "--drain", "30s", seconds=seconds)

    def turns(self, server, clients, condition):
        """Ordinary clients without and with the condition, in turns. Returns the figures of both."""
        without, during = [], []
        for _ in range(self.options.pairs):
            without.append(figures(clients(server)))
            with condition():
                during.append(figures(clients(server)))
        return without, during


class Server:
    """`echoring serve`, ended with the block. `pid` changes with `replace`."""

    def __init__(self, flags, environment=None, listen="127.0.0.1:0", admin=None):
        self.flags = ["--shards", "1", "--cpus", SERVER_CPU, *flags]
        self.environment = {**os.environ, **(environment or {})}
        self.listen, self.admin = listen, admin or addresses()["admin"]
        self.running = self._start()

    def _start(self, *flags):
        command = [BINARY, "serve", "--listen", self.listen, "--admin", self.admin, *self.flags, *flags]
        return pairs.Server(shlex.join(command), env=self.environment, stderr=subprocess.DEVNULL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.running.process.kill()
        self.running.stop()

    @property
    def pid(self):
        return self.running.pid

    @property
    def url(self):
        return self.running.origin

    @property
    def port(self):
        return self.running.address[1]

    def signal(self, number):
        self.running.process.send_signal(number)

    def kill_and_start(self):
        self.__exit__()
        self.running = self._start()

    def take_over(self, *flags):
        """Starts the next server in this one's place, and waits until this one has ended."""
        before, self.running = self.running, self._start("--takeover", *flags)
        before.process.wait(PATIENCE_S)
        before.stop()

    def get(self, path):
        connection = http.client.HTTPConnection(self.admin, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return connection.getresponse().read()

    def stats(self):
        return json.loads(self.get("/stats"))

    def resident_bytes(self):
        return sum(process.resident(self.pid).values())

    def cpu_s(self):
        return process.cpu_ns(self.pid) / 1e9


def figures(load):
    """What a load generator found."""
    out, err = load.communicate(timeout=3 * 3600)
    try:
        run = json.loads(out)["runs"][0]
    except (ValueError, LookupError):
        raise RuntimeError(f"the load generator failed: {err.strip()}") from None
    times = run["response_ns"]
    return {
        "messages": run["messages"],
        "p99_ms": round(times["p99"] / 1e6, 3) if times else None,
        "max_ms": round(times["max"] / 1e6, 3) if times else None,
        "lost": run["integrity"]["lost"],
        "wrong": sum(run["integrity"][name] for name in ("duplicated", "reordered", "corrupted")),
        "ended_early": run["connections"]["ended_early"],
        "errors": run["errors"],
    }


def is_whole(figures):
    """Whether nothing was lost, wrong, refused or cut."""
    return not (figures["lost"] or figures["wrong"] or figures["ended_early"] or figures["errors"])


def failures(figures):
    return figures["lost"] + figures["ended_early"] + sum(figures["errors"].values())


def median_p99_ms(runs):
    times = [run["p99_ms"] for run in runs if run["p99_ms"] is not None]
    return round(statistics.median(times), 2) if times else None


def nobody_is_lost(during, what="no ordinary client is lost", seen=""):
    """The target that all conditions have, over the runs during one."""
    return target(what, f"{served(during):.4%} served{seen}", all(map(is_whole, during)))


def served(runs):
    """The part of the messages or connections that were answered."""
    answered = sum(run["messages"] for run in runs)
    return answered / max(1, answered + sum(failures(run) for run in runs))


def target(what, seen, met):
    return {"what": what, "seen": seen, "met": bool(met)}


def result(what, without, during, targets, **more):
    return {
        "what": what,
        "p99_ms_without": median_p99_ms(without),
        "p99_ms_during": median_p99_ms(during),
        "targets": targets,
        "without": without,
        "during": during,
        **more,
    }
