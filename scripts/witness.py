"""Runs uWebSockets' `load_test` as a second generator, and measures the CPU time of the generator and the server.

`load_test` echoes in a closed loop with one message in flight per connection, checks only the number of bytes that come back, and
prints its count every four seconds. Only the standard library is needed.
"""

import re
import subprocess

import pairs
import process as processes

# Interval at which it prints its count. In the first interval it also connects.
SECONDS = 4
# Time for connecting and two intervals, with a margin for a busy machine.
WATCH_S_MAX = 60


def stretch(binary, server, cpu, connections, message_bytes):
    """Runs one stretch. Returns messages/s over the second interval, and the CPU time of generator and server in it."""
    port = server.origin.rsplit(":", 1)[1]
    process = subprocess.Popen(
        ["timeout", str(WATCH_S_MAX), "stdbuf", "-oL", "taskset", "-c", str(cpu), binary]
        + [str(connections), "127.0.0.1", port, "0", "0", str(message_bytes)],
        stdout=subprocess.PIPE, text=True,
    )
    try:
        told, marks = [], []
        for line in process.stdout:
            if "Closed" in line:
                pairs.fail("the server closed a connection of load_test")
            if found := re.match(r"Msg/sec: ([\d.]+)", line):
                told.append(float(found[1]))
                marks.append((processes.cpu_ns(child_of(process.pid)), processes.cpu_ns(server.pid)))
                if len(told) == 2:
                    break
        if len(told) < 2:
            pairs.fail("load_test ended early")
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
    generator_ns, server_ns = (after - before for before, after in zip(*marks))
    messages = told[1] * SECONDS
    return {
        "messages_per_s": told[1],
        "cpu_share": generator_ns / 1e9 / SECONDS,
        "cpu_ns_per_message": generator_ns / messages,
        "server_cpu_ns_per_message": server_ns / messages,
    }


def child_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return int(file.read().split()[0])
