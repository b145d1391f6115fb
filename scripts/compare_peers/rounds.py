"""The rounds of one row: servers started, looked at, measured in turns in random order, and left out when they fail.

A round that is over is never lost: whatever ends a row, a deadline, a signal or a failure, leaves those before it.
"""

import dataclasses
import os
import time

import conformance
import pairs
import samples
from catalogue import OURS, RAWS

CALIBRATIONS = 3
# For a server to be done with what a stretch has left it, looked at so often.
REST_S_MAX, REST_S_STEP = 2, 0.02
# Of a CPU: collectors and timers go on.
REST_SHARE_MAX = 0.1


class Fleet:
    """A row's servers. One that fails three times is out of the row."""

    FAILURES_MAX = 3

    def __init__(self, row, commands, options):
        self.row, self.commands, self.options = row, commands, options
        self.servers, self.failures, self.out = {}, {}, {}

    def sides(self):
        return [name for name in self.commands if name not in self.out]

    def start_anew(self):
        """New processes, each of them looked at: where a process's memory happens to lie is part of the noise."""
        self.stop()
        for name in self.sides():
            self.guarded(name, lambda: self.start(name))

    def start(self, name):
        server = pairs.Server(self.commands[name], self.options.server_cpu, name)
        self.servers[name] = server
        try:
            conformance.check(server, self.row.role, self.row, name in RAWS)
        except OSError as error:
            pairs.fail(f"it is not fit to be measured: {error}")

    def guarded(self, name, action):
        """What the action returns, or None when it failed. Whatever goes wrong with one server is that server's affair: a
        run of hours does not end for it, and the record says why."""
        try:
            return action()
        except (SystemExit, Exception) as error:
            if server := self.servers.pop(name, None):
                server.stop()
            self.failures[name] = self.failures.get(name, 0) + 1
            why = pairs.reason(error)
            pairs.progress(f"{self.row.name}: {name} failed: {why}")
            if self.failures[name] >= self.FAILURES_MAX:
                self.out[name] = why
            return None

    def sample(self, name):
        """None where there is none."""
        if self.row.fresh:
            self.start_fresh(name)
        elif name not in self.servers:
            self.guarded(name, lambda: self.start(name))
        if name not in self.servers:
            return None
        found = self.guarded(name, lambda: samples.KINDS[self.row.kind](self.servers[name], self.row, self.options))
        # What it still did would be in the time of the next one, which has the same CPU.
        if name in self.servers and not at_rest(self.servers[name].pid):
            self.servers.pop(name).stop()
        return found

    def start_fresh(self, name):
        """A process that has not been looked at: another of its kind has."""
        if server := self.servers.pop(name, None):
            server.stop()
        started = self.guarded(name, lambda: pairs.Server(self.commands[name], self.options.server_cpu, name))
        if started:
            self.servers[name] = started

    def stop(self):
        for server in self.servers.values():
            server.stop()
        self.servers = {}


def at_rest(pid):
    """Whether the process has nothing to do any more, or has not within some time."""
    until = time.monotonic() + REST_S_MAX
    before = cpu_seconds(pid)
    while time.monotonic() < until:
        time.sleep(REST_S_STEP)
        now = cpu_seconds(pid)
        if now - before < REST_SHARE_MAX * REST_S_STEP and not wants_cpu(pid):
            return True
        before = now
    return False


def wants_cpu(pid):
    """Whether a thread of the process runs, or would if there were a CPU for it: on a busy machine it may get none for long."""
    folder = f"/proc/{pid}/task"
    for thread in os.listdir(folder):
        try:
            with open(f"{folder}/{thread}/stat") as stat:
                # Behind the name, which is in brackets and may contain anything.
                if stat.read().rpartition(")")[2].split()[0] == "R":
                    return True
        except OSError:
            pass  # It has ended meanwhile.
    return False


def cpu_seconds(pid):
    """What a process has taken, by its clock of CPU time: the kernel makes the clock's number of the process's."""
    return time.clock_gettime(~pid << 3 | 2)


def slowest_maximum(row, commands, options):
    """Messages a second that each peer answers in a closed loop, the most of some stretches; raw servers are no peers."""
    closed = dataclasses.replace(row, load=f"{row.load} --depth 1", kind="stretch")
    fleet = Fleet(closed, {name: command for name, command in commands.items() if name not in RAWS}, options)
    found = {}
    try:
        fleet.start_anew()
        for name in fleet.sides():
            told = [sample["messages_per_s"] for _ in range(CALIBRATIONS) if (sample := fleet.sample(name))]
            if told:
                found[name] = max(told)
    finally:
        fleet.stop()
    return found


def run(row, commands, wanted, options, random_source, keep):
    """Measures `wanted` rounds, or as many as the deadline allows; `keep` gets each as it is over. Returns who is out of
    the row and why."""
    fleet = Fleet(row, commands, options)
    started = time.monotonic()
    try:
        for number in range(wanted):
            if time.monotonic() > options.deadline or time.monotonic() - started > options.row_minutes * 60:
                pairs.progress(f"{row.name}: out of time after {number} rounds")
                break
            if number % options.restart == 0:
                fleet.start_anew()
            order = fleet.sides()
            random_source.shuffle(order)
            found = {name: sample for name in order if (sample := fleet.sample(name)) is not None}
            if OURS in fleet.out:
                pairs.fail(f"{row.name}: {fleet.out[OURS]}")
            # Without echoring a round has no ratio.
            if OURS in found:
                keep({name: found[name] for name in fleet.commands if name in found})
            pairs.progress(f"{row.name}: round {number + 1} of {wanted}")
    finally:
        fleet.stop()
    return fleet.out
