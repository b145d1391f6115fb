"""Runs the rounds of one row: starts and checks servers, measures them in random order, and excludes those that fail.

Completed rounds are never lost, whether a deadline, a signal or a failure ends the row.
"""

import dataclasses
import os
import time

import conformance
import pairs
import process
import samples
from catalogue import OURS, RAWS

CALIBRATIONS = 3
# Maximum time for a server to finish remaining work after a stretch, and the polling interval.
REST_S_MAX, REST_S_STEP = 2, 0.02
# Share of a CPU that counts as rest: collectors and timers continue.
REST_SHARE_MAX = 0.1


class Fleet:
    """A row's servers. A server that fails three times is excluded from the row."""

    FAILURES_MAX = 3

    def __init__(self, row, commands, options):
        self.row, self.commands, self.options = row, commands, options
        self.servers, self.failures, self.out = {}, {}, {}

    def sides(self):
        return [name for name in self.commands if name not in self.out]

    def start_anew(self):
        """Starts and checks new processes, because the placement of a process's memory is part of the noise."""
        self.stop()
        for name in self.sides():
            self.guarded(name, lambda: self.start(name))

    def start(self, name):
        server = pairs.Server(self.commands[name], self.options.server_cpu, name)
        self.servers[name] = server
        try:
            conformance.check(server, self.row.role, self.row, name in RAWS)
        except OSError as error:
            pairs.fail(f"it failed the check before measuring: {error}")

    def guarded(self, name, action):
        """Returns the action's result, or None if it failed. A failure concerns only this server: a run of hours does not end, and
        the record has the reason."""
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
        """Measures one stretch. None if the server failed."""
        if self.row.fresh:
            self.start_fresh(name)
        elif name not in self.servers:
            self.guarded(name, lambda: self.start(name))
        if name not in self.servers:
            return None
        found = self.guarded(name, lambda: samples.KINDS[self.row.kind](self.servers[name], self.row, self.options))
        # Remaining work would be measured with the next server, which has the same CPU.
        if name in self.servers and not at_rest(self.servers[name].pid):
            self.servers.pop(name).stop()
        return found

    def start_fresh(self, name):
        """Starts a process that no client has connected to. Another process of this server has been checked."""
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
    """Waits until the process is idle. False if it is not within REST_S_MAX."""
    until = time.monotonic() + REST_S_MAX
    before = process.cpu_ns(pid)
    while time.monotonic() < until:
        time.sleep(REST_S_STEP)
        now = process.cpu_ns(pid)
        if now - before < REST_SHARE_MAX * REST_S_STEP * 1e9 and not wants_cpu(pid):
            return True
        before = now
    return False


def wants_cpu(pid):
    """Whether a thread of the process is runnable. On a busy machine it may not get a CPU for some time."""
    folder = f"/proc/{pid}/task"
    for thread in os.listdir(folder):
        try:
            with open(f"{folder}/{thread}/stat") as stat:
                # The state follows the name, which is in brackets and may contain anything.
                if stat.read().rpartition(")")[2].split()[0] == "R":
                    return True
        except OSError:
            pass  # The thread has ended meanwhile.
    return False


def slowest_maximum(row, commands, options):
    """Messages/s of each peer in a closed loop, the maximum of some stretches. Raw servers are excluded."""
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
    """Measures `wanted` rounds, or as many as the deadline allows. Passes each completed round to `keep`. Returns the excluded
    servers and the reasons."""
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
