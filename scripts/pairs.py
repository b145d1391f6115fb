"""Servers measured in turns: what the scripts that compare programs share.

Servers run pinned to one CPU, the load generator to another. Each round is one measured stretch against each of them, in random order.
Only ratios within a round are compared, because the machine may change its speed between rounds. Only the standard library is needed.
"""

import argparse
import functools
import json
import os
import platform
import random
import re
import select
import shlex
import statistics
import subprocess
import sys

import machine

ROOT = machine.ROOT
# The server of most comparisons, on one CPU.
SERVE = "{echoring} serve --listen 127.0.0.1:0 --admin off --shards 1 --cpus {cpu} --profile benchmark --log error"
# From starting a server to its first line.
START_S_MAX = 30


class Failed(SystemExit):
    """What ends a comparison with one line, unless somebody goes on without it."""


def fail(text):
    raise Failed(f"{os.path.basename(sys.argv[0])}: {text}")


class Server:
    """A server process, pinned to a CPU if one is given. `side` is what it is called in pairs."""

    def __init__(self, command, cpu=None, side="", **settings):
        self.side = side
        pinned = [] if cpu is None else ["taskset", "-c", str(cpu)]
        self.process = subprocess.Popen(pinned + shlex.split(command), stdout=subprocess.PIPE, text=True, **settings)
        try:
            found = self.first_line()
        except BaseException:
            # An interrupt, too: nobody knows of the process yet.
            self.stop()
            raise
        # `about` is what echoring says of itself: its driver and its shards.
        self.origin, self.about = found[1], found[2].strip()
        # Of one that works for the process that was started, where there is such a one.
        self.pid = int(found[3] or self.process.pid)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def address(self):
        address, port = self.origin.partition("://")[2].rsplit(":", 1)
        return address, int(port)

    def first_line(self):
        """What the server says once it accepts connections."""
        ready, _, _ = select.select([self.process.stdout], [], [], START_S_MAX)
        line = self.process.stdout.readline() if ready else ""
        found = re.match(r"listening (\S+:\S+)(.*?)(?: pid=(\d+))?$", line)
        if not found:
            fail(f"{shlex.join(self.process.args)!r} did not say where it listens, but {line!r}")
        return found

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def measure(server, load, options, path="/echo", clean=True):
    """One measured stretch of `echoring bench` with the flags `load`: its record, and whether the generator was the
    bottleneck. One whose samples of CPU time do not lie near the ends of the measured time, because the machine was busy
    elsewhere and the generator was not scheduled, is repeated. Unless `clean`, errors and losses are part of what is
    measured."""
    for _ in range(5):
        run, saturated = measure_once(server, load, options, path, clean)
        found = run["server"]
        if found["cpu_ns_per_message"] and abs(found["sampled_s"] / run["duration_s"] - 1) < 0.1:
            return run, saturated
    fail(f"the generator could not tell the server's CPU time, at last only {found}")


def measure_once(server, load, options, path, clean):
    times = ["--duration", f"{options.seconds * 1000:.0f}ms", "--warmup", f"{options.warmup * 1000:.0f}ms"]
    command = [
        options.echoring, "bench", server.origin + path, *load, *times, "--cpus", str(options.generator_cpu),
        "--server-pid", str(server.pid), "--threads", "1", "--json", "-",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    # 4 says that the generator was the bottleneck, which a server that does next to nothing makes it.
    if done.returncode not in ((0, 4) if clean else (0, 1, 4)):
        fail(f"the generator failed with exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    run = json.loads(done.stdout)["runs"][0]
    if clean and (run["errors"] or run["integrity"]["lost"]):
        fail(f"the run was not clean: {run['errors']} {run['integrity']}")
    return run, done.returncode == 4


def one_round(sides, measure, random_source):
    """What `measure` returns of each side, in a random order."""
    order = list(sides)
    random_source.shuffle(order)
    return {side: measure(side) for side in order}


def interval(ratios, echoring=None):
    """The 95 % interval of the median, as `echoring compare --pairs` computes it."""
    found = compared(list(ratios), echoring)
    return found["ratio_low"], found["ratio_high"]


def summary(rounds, others, figure, echoring=None):
    """The medians of a side's figures, and its ratio in one of them to the same rounds of another side."""
    ratios = [one[figure] / other[figure] for one, other in zip(rounds, others)]
    low, high = interval(ratios, echoring)
    medians = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    return medians | {"ratio": statistics.median(ratios), "low": low, "high": high, "rounds": rounds}


def compared(pairs, echoring=None):
    """What `echoring compare --pairs` says of ratios, of pairs of values, or of the rows of several workloads."""
    command = [echoring or binary(), "compare", "--pairs", "-"]
    done = subprocess.run(command, input=json.dumps(pairs), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        fail(f"echoring compare --pairs failed ({done.returncode}): {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


@functools.cache
def binary():
    """The newest binary that was built, or else a release build."""
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
    built = [path for path in (os.path.join(target, kind, "echoring") for kind in ("dist", "release", "debug")) if os.path.exists(path)]
    return max(built, key=os.path.getmtime) if built else program()


def verdict(low, high, target):
    if high <= target:
        return "met"
    return "missed" if low > target else "undecided"


def bare(command):
    """A command without the folders of this machine."""
    return re.sub(r"\S*/", "", command)


def reason(error):
    """Why something failed, in one line and without the folders of this machine. What a program told on its way stands
    before the reason."""
    return re.sub(r"/\S*/", "", (str(error) or type(error).__name__).strip().split("\n")[-1])


def progress(text):
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


def environment(options):
    congestion = ""
    try:
        with open("/proc/sys/net/ipv4/tcp_congestion_control") as file:
            congestion = file.read().strip()
    except OSError:
        pass
    return {
        "commit": machine.commit(),
        "uncommitted_changes": machine.uncommitted_changes(),
        "cpu": machine.cpu_model(),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "congestion_control": congestion,
        "rustc": machine.first_line("rustc", "--version"),
        "echoring": machine.first_line(options.echoring, "--version"),
        "python": platform.python_version(),
        "load_average_before": os.getloadavg()[0],
        "cpu_time_source": "the generating thread reads the CPU clock of the server's process (nanoseconds, user and "
        "system) and counts the messages in one breath, at both ends of the measured stretch",
    }


def provenance(about):
    """The environment in one paragraph."""
    changes = " with uncommitted changes" if about["uncommitted_changes"] else ""
    return (
        f"Commit {about['commit'][:12]}{changes}, {about['echoring']}, {about['rustc']}; {about['cpu']}, "
        f"{about['cpus']} CPUs, Linux {about['kernel']}, {about['congestion_control']}; load average "
        f"{about['load_average_before']:.1f} before and {about['load_average_after']:.1f} after. CPU time: "
        f"{about['cpu_time_source']}.\n\n"
    )


def parser(doc):
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_machine_arguments(parser, recording=True):
    parser.add_argument("--server-cpu", type=int, default=0)
    parser.add_argument("--generator-cpu", type=int, default=1)
    parser.add_argument("--echoring", help="the binary (default: build it)")
    if recording:
        parser.add_argument("--no-record", action="store_true", help="write nothing")


def dist_folder(targets):
    """Builds these targets as they are released. Returns where they are then."""
    if subprocess.run(["cargo", "build", "--profile", "dist", *targets], cwd=ROOT).returncode != 0:
        fail("the build failed")
    return os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "dist")


@functools.cache
def program():
    """The program that ECHORING names, or a build as it is released."""
    return os.environ.get("ECHORING") or os.path.join(dist_folder(["--bin", "echoring"]), "echoring")


def build(options, **examples):
    """Builds the program, and examples by the names of their options, unless a flag names them."""
    missing = {name: example for name, example in examples.items() if not getattr(options, name)}
    targets = [] if options.echoring else ["--bin", "echoring"]
    targets += [word for example in missing.values() for word in ("--example", example)]
    if not targets:
        return
    folder = dist_folder(targets)
    options.echoring = options.echoring or os.path.join(folder, "echoring")
    for name, example in missing.items():
        setattr(options, name, os.path.join(folder, "examples", example))


def record_of(schema, options, compare_all, known_bias):
    """Runs `compare_all` with a source of randomness; its results and all that belongs to them."""
    settings = {"pairs": options.pairs, "seconds": options.seconds, "warmup_s": options.warmup, "seed": options.seed}
    about, started_at = environment(options), machine.now()
    results = compare_all(random.Random(options.seed))
    about["load_average_after"] = os.getloadavg()[0]
    return {
        "schema": schema, "started_at": started_at, **settings, "environment": about, "known_bias": known_bias, "results": results,
    }  # fmt: skip


def keep(record, options, name, heading, text, notes=""):
    """Writes NAME.json and NAME.md, unless nothing is to be recorded. `notes` stand behind the environment."""
    if not options.no_record:
        end = f"{provenance(record['environment'])}{notes}{machine.bias(record['known_bias'])}"
        machine.keep(name, record, lambda _: f"# {heading}\n\n{text}{end}")
