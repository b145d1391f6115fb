"""Measures one stretch of a row against one server, with `echoring bench` and the kernel's accounting.

A sample is a dictionary of numbers. `user_share` is the user part of the server process's CPU time over the whole stretch, opening
included, by the kernel's ticks. `soft_share` is the share of the server CPU's busy time in soft interrupts, for any process.
"""

import argparse
import os
import re
import subprocess
import time

import idle
import pairs
import process
from catalogue import AGAIN, HEAR_THEMSELVES, OURS, RAWS
from workloads import BYTES_BEFORE, COST, IDLE, KEPT, LOST, REPLY_SHARE, SUSTAINED_TIMES, TOGETHER_COST, USER_BYTES, WITNESSED_COST

# Interval of load_test's counts, and the time for connecting and two intervals, with a margin for a busy machine.
WITNESS_S, WITNESS_S_MAX = 4, 60
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def scaled(options, row):
    """The options of a row's stretches."""
    changed = argparse.Namespace(**vars(options))
    changed.seconds, changed.warmup = row.seconds(options), options.warmup * row.scale
    return changed


def stretch(server, row, options):
    """An echo or a broadcast in a closed loop, or at a rate."""
    before = Accounts(server.pid, options)
    run, saturated = pairs.measure(server, load_for(server, row), scaled(options, row), row.path(server.side), row.clean)
    charged = Accounts(server.pid, options).since(before)
    together = charged.pop("together_by_process")
    found = values(run, saturated)
    found |= {TOGETHER_COST: together and found[COST] * together, **charged, LOST: run["integrity"]["lost"]}
    return {**found, KEPT: run["stalled"]["closed_by_code"].get("1000", 0)} if run.get("stalled") else found


def values(run, saturated, cost=COST):
    """The values that a run of any kind has. `cost` is the name of the server's CPU time per message."""
    # A raw server answers without names of messages.
    told = run["response_ns"] or {"count": 0}
    return {
        cost: run["server"]["cpu_ns_per_message"],
        "messages_per_s": run["messages_per_s"],
        "cpu_share": run["server"]["cpu_share"],
        # None if no message arrived.
        **{f"{name}_ns": told[name] if told["count"] else None for name in ("p50", "p99", "p999")},
        "generator_cpu_share": run["generator"]["cpu_share"],
        "generator_saturated": float(saturated),
    }


def load_for(server, row):
    """The row's flags of the generator, and those that this server needs."""
    ours = row.ours_load.split() if server.side in (OURS, AGAIN) else []
    return row.load.split() + ours + (["--allow", "corrupted"] if server.side in HEAR_THEMSELVES else [])


class Accounts:
    """The kernel's accounts so far: user and system time of a server's process, soft interrupts of its CPU, and idle time of both
    CPUs."""

    def __init__(self, pid, options):
        with open(f"/proc/{pid}/stat") as file:
            words = file.read().rsplit(")", 1)[1].split()
        self.user, self.system = int(words[11]), int(words[12])
        with open("/proc/stat") as file:
            lines = dict(line.split(maxsplit=1) for line in file if line.startswith("cpu"))
        # user nice system idle iowait irq softirq steal
        server, generator = (
            [int(word) for word in lines[f"cpu{cpu}"].split()[:8]] for cpu in (options.server_cpu, options.generator_cpu)
        )
        self.soft, self.busy = server[6], sum(server) - sum(server[3:5])
        self.idle = sum(server[3:5]) + sum(generator[3:5])
        self.now = time.monotonic()

    def since(self, before):
        """Shares since `before`, and the ratio of both CPUs' busy time to the process's CPU time. None if too few ticks were charged.
        The kernel samples busy time and measures idle time."""
        user, system = self.user - before.user, self.system - before.system
        soft, busy = self.soft - before.soft, self.busy - before.busy
        awake = 2 * (self.now - before.now) * TICKS_PER_S - (self.idle - before.idle)
        enough = TICKS_PER_S // 10
        return {
            "user_share": user / (user + system) if user + system >= enough else None,
            "soft_share": soft / busy if busy >= enough else None,
            "together_by_process": awake / (user + system) if user + system >= enough else None,
        }


def compressed(server, row, options):
    """Messages that must arrive compressed, and their size."""
    run, saturated = pairs.measure(server, row.load.split(), scaled(options, row), row.path(server.side))
    done = run["compression"]
    if done["agreed"] < run["connections"]["opened"] or done["messages_in"] < run["messages"]:
        pairs.fail(f"not every message was compressed: {done}")
    return {**values(run, saturated), REPLY_SHARE: done["bytes_in"] / done["bytes_in_plain"]}


def connect(server, row, options):
    """Connections that are opened and closed, a fixed number at a time. The row's value is what one of them costs."""
    run, saturated = pairs.measure(server, row.load.split(), scaled(options, row))
    return values(run, saturated, *row.values)


def sustained(server, row, options):
    """Stretches at the rates of the row. The values are the time per message at the highest rate that kept a bound of p99; None if
    none did. A lower rate that missed the bound does not count: the machine may have been busy."""

    def measured(rate):
        load = [*load_for(server, row), "--rate", str(rate)]
        return pairs.measure_once(server, load, scaled(options, row), row.path(server.side), row.clean)[0]

    steps = climbed(row.rates, flag(row, "--connections") - 1, measured)
    return {
        **{name: nanos_each(steps.values(), p99_max) for name, p99_max in SUSTAINED_TIMES.items()},
        **{f"p99_ns_at_{rate}": run["response_ns"]["p99"] for rate, run in steps.items()},
        **{f"messages_per_s_at_{rate}": run["messages_per_s"] for rate, run in steps.items()},
    }


def climbed(rates, subscribers, measured):
    """The runs at each rate, up to the first at which less than half of the messages were delivered. Higher rates would only add
    loss."""
    steps = {}
    for rate in rates:
        steps[rate] = measured(rate)
        if steps[rate]["messages_per_s"] < rate * subscribers / 2:
            break
    return steps


def nanos_each(runs, p99_max):
    kept = [run["messages_per_s"] for run in runs if 0 < run["response_ns"]["p99"] <= p99_max]
    return 1e9 / max(kept) if kept else None


def memory(server, row, options):
    """The growth of a new server with idle connections: its own memory, and the kernel's slabs, which contain both ends of each
    connection. What grows once, with the first connections, is not part of it."""
    time.sleep(process.START_S)
    before = process.settled(server.pid)
    # A raw server answers messages of one length only.
    with idle.opened(*server.address, idle.FIRST, None if server.side in RAWS else idle.TOUCHING):
        first, slab = process.settled(server.pid), process.sizes("/proc/meminfo")["Slab"]
        with idle.opened(*server.address, IDLE - idle.FIRST):
            after = process.settled(server.pid)
            grown = process.sizes("/proc/meminfo")["Slab"] - slab
    return {
        USER_BYTES: (sum(after.values()) - sum(first.values())) / (IDLE - idle.FIRST),
        "slab_bytes_per_connection": grown / (IDLE - idle.FIRST),
        BYTES_BEFORE: sum(before.values()),
    }


def both_generators(server, row, options):
    """One stretch with `echoring bench`, and one with uWebSockets' `load_test`: a closed loop with one message in flight per connection,
    which checks only the number of bytes that come back, and prints its count every four seconds. In the first interval it also connects."""
    ours = stretch(server, row, options)
    command = ["timeout", str(WITNESS_S_MAX), "stdbuf", "-oL", "taskset", "-c", str(options.generator_cpu), options.load_test]
    command += [str(flag(row, "--connections")), "127.0.0.1", str(server.address[1]), "0", "0", str(row.message_bytes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
        told = []
        for line in load.stdout:
            if "Closed" in line:
                pairs.fail("the server closed a connection of load_test")
            if found := re.match(r"Msg/sec: ([\d.]+)", line):
                told.append((float(found[1]), process.cpu_ns(server.pid)))
                if len(told) == 2:
                    break
        load.terminate()
    if len(told) < 2:
        pairs.fail("load_test ended early")
    (_, before), (rate, after) = told
    return {**ours, WITNESSED_COST: (after - before) / (rate * WITNESS_S), "witness_messages_per_s": rate}


def flag(row, name):
    words = row.load.split()
    return int(words[words.index(name) + 1])


KINDS = {
    "stretch": stretch, "compressed": compressed, "connect": connect, "sustained": sustained, "memory": memory,
    "witness": both_generators, "open-loop": stretch,
}
