"""Describes the machine and the working tree for records, writes records, and runs busy loops."""

import contextlib
import datetime
import json
import os
import platform
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def first_line(*command):
    """The first line that a command prints; empty if there is no such command."""
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


def tool(name, version):
    """The path of a program of Cargo in this version, which scripts/tool installs. None if it cannot; the reason is on stderr then."""
    done = subprocess.run([os.path.join(ROOT, "scripts", "tool"), name, version], stdout=subprocess.PIPE, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def last_commit_of(paths):
    """The last commit that changed any of these paths."""
    return first_line("git", "log", "-1", "--format=%H", "--", *paths)


def uncommitted_changes(paths=()):
    """Whether any of these paths differ from the last commit; without paths, any file but the records, which a measurement writes."""
    return bool(first_line("git", "status", "--porcelain", "--untracked-files=no", "--", *(paths or (".", ":!results"))))


def results_folder(date=None):
    """Returns results/DATE-MACHINE, and creates it if needed. MACHINE is the name of the CPU."""
    machine = re.sub(r"[^a-z0-9]+", "-", cpu_model().lower()).strip("-")
    folder = os.path.join(ROOT, "results", f"{(date or datetime.date.today()).isoformat()}-{machine}")
    os.makedirs(folder, exist_ok=True)
    return folder


def origin():
    """Where and when the figures of a record were measured. The commit ends with `+` if the working tree differs from it."""
    return {
        "commit": commit() + ("+" if uncommitted_changes() else ""),
        "cpu": f"{cpu_model()}, {os.cpu_count()} CPUs",
        "kernel": platform.release(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def short(commit):
    """A commit as pages show it."""
    return commit[:12] + ("+" if commit.endswith("+") else "")


def keep(name, figures, page, indent=1):
    """Writes a record, NAME.json and NAME.md in results/DATE-MACHINE, and says where. The page is made of the figures."""
    folder = results_folder()
    with open(os.path.join(folder, f"{name}.json"), "w") as file:
        json.dump(figures, file, indent=indent)
        file.write("\n")
    with open(os.path.join(folder, f"{name}.md"), "w") as file:
        file.write(page(figures))
    print(os.path.relpath(folder, ROOT))


@contextlib.contextmanager
def busy(loops):
    """Runs busy loops for the duration of the block. They end when this process ends, however it ends."""
    loop = f"import os\nwhile os.getppid() == {os.getpid()}:\n    for _ in range(1_000_000): pass"
    running = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()
