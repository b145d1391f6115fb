"""What a record says of the machine and the tree that it was made on, where records go, and a machine that is busy."""

import contextlib
import datetime
import os
import platform
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def first_line(*command):
    """The first line that a command prints, or nothing where there is no such command."""
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.strip().split("\n")[0]
    except OSError:
        return ""


def cpu_model():
    with open("/proc/cpuinfo") as info:
        match = re.search(r"^model name\s*:\s*(.*)$", info.read(), re.MULTILINE)
    return match[1] if match else platform.machine()


def commit():
    return first_line("git", "rev-parse", "HEAD")


def last_commit_of(paths):
    """The last one that changed any of these: what they are is the same ever since."""
    return first_line("git", "log", "-1", "--format=%H", "--", *paths)


def uncommitted_changes(paths=()):
    """Whether any of these files differ from the last commit, or any at all."""
    return bool(first_line("git", "status", "--porcelain", "--untracked-files=no", "--", *paths))


def results_folder(date=None):
    """results/<date>-<machine>, made if need be; the machine is named after its CPU."""
    machine = re.sub(r"[^a-z0-9]+", "-", cpu_model().lower()).strip("-")
    folder = os.path.join(ROOT, "results", f"{(date or datetime.date.today()).isoformat()}-{machine}")
    os.makedirs(folder, exist_ok=True)
    return folder


@contextlib.contextmanager
def busy(loops):
    """So many processes that keep the machine busy meanwhile. They end with this one, however that ends."""
    loop = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(1_000_000): pass"
    running = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()
