"""Reads what the kernel counts of processes and of memory, and prepares what servers need: descriptors and a certificate."""

import os
import re
import resource
import subprocess
import time

PATIENCE_S = 60
# After this long, a server has unmapped the code of its start (START_DURATION_MAX).
START_S = 3


def cpu_ns(pid):
    """CPU time of a process with all its threads, user and system, by its clock (see clock_getcpuclockid(3))."""
    return time.clock_gettime_ns((~pid) << 3 | 2)


def sizes(path):
    """The sizes in /proc/meminfo or /proc/PID/status in bytes, by name."""
    with open(path) as file:
        return {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", file.read(), re.MULTILINE)}


def resident(pid):
    """RssAnon and RssFile of a process, in bytes."""
    found = sizes(f"/proc/{pid}/status")
    return {name: found[name] for name in ("RssAnon", "RssFile")}


def settled(pid):
    """The same, once it has not changed for a second."""
    samples = [resident(pid)]
    while len(samples) < PATIENCE_S * 4 and samples[-5:] != samples[-1:] * 5:
        time.sleep(0.25)
        samples.append(resident(pid))
    return samples[-1]


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


def certificate(folder):
    """Makes a self-signed certificate for 127.0.0.1 and localhost. Returns the paths of its file and its key's."""
    files = os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem")
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=127.0.0.1 -addext"
    command = [*command.split(), names, "-out", files[0], "-keyout", files[1]]
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=60)
    return files


def raise_descriptors(needed=0):
    """Raises the limit of descriptors, which servers inherit: some need one for each connection."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if needed + 100 > hard:
        raise SystemExit(f"{needed} connections need as many descriptors, the limit is {hard}; raise it with ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
