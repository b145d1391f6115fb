"""Describes the machine and the working tree for records, writes records and their pages, and runs busy loops."""

import contextlib
import datetime
import json
import os
import platform
import re
import shutil
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
    """The path of a program of Cargo in this version, which scripts/tool installs. Ends with exit code 3 if it cannot."""
    done = subprocess.run([os.path.join(ROOT, "scripts", "tool"), name, version], stdout=subprocess.PIPE, text=True)
    return done.stdout.strip() if done.returncode == 0 else cannot(f"there is no {name} {version}")


def cannot(line):
    """Ends with exit code 3 and one line that says what is missing."""
    print(f"{os.path.basename(sys.argv[0])}: {line}", file=sys.stderr)
    sys.exit(3)


def needs_valgrind():
    if not shutil.which("valgrind"):
        cannot("valgrind is missing: apt-get install valgrind")


def commits_since(commit):
    """Commits from this one to the present one; None if the history does not have it."""
    count = first_line("git", "rev-list", "--count", f"{commit}..HEAD")
    return int(count) if count else None


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


def marked_commit():
    """The commit, with `+` behind it if the working tree differs."""
    return commit() + ("+" if uncommitted_changes() else "")


def now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def origin():
    """Where and when the figures of a record were measured. The commit ends with `+` if the working tree differs from it."""
    return {
        "commit": marked_commit(),
        "cpu": f"{cpu_model()}, {os.cpu_count()} CPUs",
        "kernel": platform.release(),
        "date": now(),
    }


def short(commit):
    """A commit as pages show it."""
    return commit[:12] + ("+" if commit.endswith("+") else "")


def sentence(figures, *tools, commit=None):
    """The origin of a record in one sentence of its page. `tools` are versions; `commit` is the commit with more about the build."""
    about = [f"{figures['cpu']}, Linux {figures['kernel']}", *tools, figures["date"]]
    return f"Commit {commit or short(figures['commit'])}; {'; '.join(about)}."


def bias(known_bias):
    """The last part of a page. `known_bias` is a text or several."""
    texts = [known_bias] if isinstance(known_bias, str) else known_bias
    return "Known bias:\n\n" + "".join(f"- {text}\n" for text in texts)


def table(heads, rows, align="---"):
    """A table in Markdown, without the end of its last line. Each cell is a text or a number. `align` is that of each column, or of all
    but the first."""
    line = lambda cells: "|" + "".join(f" {cell} |" if cell != "" else " |" for cell in cells)  # noqa: E731
    aligns = ["---", *[align] * (len(heads) - 1)] if isinstance(align, str) else align
    return "\n".join([line(heads), f"|{'|'.join(aligns)}|", *map(line, rows)])


def keep_json(name, figures, indent=2):
    """Writes NAME.json in results/DATE-MACHINE. Returns its path, and says where it is."""
    path = os.path.join(results_folder(), f"{name}.json")
    with open(path, "w") as file:
        json.dump(figures, file, indent=indent)
        file.write("\n")
    print(f"written to {os.path.relpath(path, ROOT)}")
    return path


def keep(name, figures, page, indent=1):
    """Writes a record, NAME.json and NAME.md in results/DATE-MACHINE. The page is made of the figures."""
    path = keep_json(name, figures, indent)
    with open(path.removesuffix("json") + "md", "w") as file:
        file.write(page(figures))


def executable(cargo_build, name, **settings):
    """Runs `cargo build` with these arguments. Returns the path of the program NAME, which it built."""
    command = ["cargo", "build", *cargo_build, "--message-format=json-render-diagnostics"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, **{"cwd": ROOT, **settings})
    messages = map(json.loads, done.stdout.splitlines())
    return next(of["executable"] for of in messages if of.get("executable") and of["target"]["name"] == name)


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
