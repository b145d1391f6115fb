"""Finds Autobahn|Testsuite 0.8.2 and runs its cases. A part of `scripts/autobahn`.

The suite needs Python 2.7. It runs on an installed Python 2.7, with its pinned packages in a private folder, or else in its
published container. It writes its index only at the end, and exits with 0 even if no peer answered. A case that is not in the
index did not run.
"""

import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import time

import machine

ROOT = machine.ROOT
HARNESS = os.path.join(ROOT, "tests", "autobahn")
REQUIREMENTS = os.path.join(HARNESS, "requirements.txt")
IMAGE = "crossbario/autobahn-testsuite:0.8.2"
AGENT = "echoring"

# Timeouts of an installation over a slow line, and of a container engine's `info`.
INSTALL_TIMEOUT_S = 600
ENGINE_TIMEOUT_S = 20
# From the start of the container to its listening port.
START_TIMEOUT_S = 120

MISSING = (
    "install Python 2.7 with pip (pyenv install 2.7.18, or set ECHORING_PYTHON27 to its path), "
    "or start docker or podman"
)


class Unavailable(Exception):
    """The suite cannot run here. The message is one line that says what to install."""


def find(target):
    """The suite, ready to run; `target` is the build's folder."""
    python = find_python()
    if python:
        return Native(python, install(python, target))
    for engine in ("docker", "podman"):
        if shutil.which(engine) and succeeds([engine, "info"], ENGINE_TIMEOUT_S):
            return Container(engine)
    raise Unavailable(MISSING)


def find_python():
    """A Python 2.7 with pip: the one in ECHORING_PYTHON27, pyenv's latest, or the one in PATH."""
    named = os.environ.get("ECHORING_PYTHON27")
    if named:
        if not is_python27(named):
            raise Unavailable(f"ECHORING_PYTHON27={named} is no Python 2.7 with pip")
        return named
    pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    installed = glob.glob(os.path.join(pyenv, "versions", "2.7*", "bin", "python2.7"))
    installed.sort(key=lambda path: [int(number) for number in re.findall(r"\d+", path.rsplit("versions", 1)[1])])
    in_path = shutil.which("python2.7")
    for path in installed[::-1] + ([in_path] if in_path else []):
        if is_python27(path):
            return path
    return None


def is_python27(path):
    # PATH may contain a pyenv shim that runs nothing.
    return succeeds([path, "-c", "import sys, pip; sys.exit(sys.version_info[:2] != (2, 7))"], ENGINE_TIMEOUT_S)


def succeeds(command, timeout_s):
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def install(python, target):
    """Returns the folder with the pinned packages. Installs them once per Python and content of the requirements."""
    with open(REQUIREMENTS, "rb") as file:
        content = file.read()
    name = hashlib.sha256(content + python.encode()).hexdigest()[:16]
    packages = os.path.join(target, "autobahn", f"suite-{name}")
    if os.path.isdir(packages):
        return packages
    os.makedirs(os.path.dirname(packages), exist_ok=True)
    unfinished = f"{packages}.{os.getpid()}"
    command = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    command += ["--target", unfinished, "-r", REQUIREMENTS]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=INSTALL_TIMEOUT_S,
        )
        if done.returncode != 0:
            last = (done.stdout.strip().split("\n") or [""])[-1]
            raise Unavailable(f"the suite's packages could not be installed: {last}")
        # Fails if another process has installed them meanwhile.
        with contextlib.suppress(OSError):
            os.rename(unfinished, packages)
    except subprocess.TimeoutExpired:
        raise Unavailable("the suite's packages could not be installed in time") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return packages


class Native:
    """The suite on a Python 2.7 of this machine."""

    def __init__(self, python, packages):
        self.python = python
        self.packages = packages

    def describe(self):
        version = machine.first_line(self.python, "-c", "import platform; print(platform.python_version())")
        with open(REQUIREMENTS) as file:
            pinned = dict(line.strip().split("==") for line in file if "==" in line)
        versions = {name: pinned[name] for name in ("autobahntestsuite", "autobahn", "Twisted")}
        return {**versions, "python": version}

    def start(self, mode, spec, folder, listener=None):
        """Starts `wstest`, with its output in a log in `folder`. The server takes over `listener`."""
        descriptors = [] if listener is None else [listener.fileno()]
        command = [self.python, os.path.join(HARNESS, "run_wstest.py"), self.packages]
        command += [str(descriptors[0]) if descriptors else "-", "-m", mode, "-s", spec, "-u", "0"]
        return spawn(command, folder, descriptors)

    def start_server(self, cases, folder):
        """Starts the fuzzing server. Returns it and its URL. Its port listens already, so clients may connect at once."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            url = f"ws://127.0.0.1:{listener.getsockname()[1]}"
            process = self.start("fuzzingserver", write_spec(folder, cases, url=url), folder, listener)
        return process, url


class Container:
    """The suite in its published container."""

    def __init__(self, engine):
        self.engine = engine

    def describe(self):
        return {"image": IMAGE, "engine": self.engine}

    def start(self, mode, spec, folder):
        command = [self.engine, "run", "--rm", "--network", "host", "--user", f"{os.getuid()}:{os.getgid()}"]
        command += ["--volume", f"{folder}:{folder}", "--workdir", folder, IMAGE]
        return spawn(command + ["wstest", "-m", mode, "-s", spec, "-u", "0"], folder)

    def start_server(self, cases, folder):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        process = self.start("fuzzingserver", write_spec(folder, cases, url=f"ws://127.0.0.1:{port}"), folder)
        deadline = time.monotonic() + START_TIMEOUT_S
        while process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                # The container does not report when it listens, so connecting is the only test.
                time.sleep(0.05)
        return process, f"ws://127.0.0.1:{port}"


RUNNING = set()


def spawn(command, folder, descriptors=()):
    """Starts `wstest`, with its output in a log in `folder`."""
    with open(os.path.join(folder, "wstest.log"), "wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, pass_fds=descriptors
        )
    RUNNING.add(process)
    return process


def stop_all():
    """Stops the processes that other threads wait for, so that those threads end."""
    for process in list(RUNNING):
        process.terminate()


def write_spec(folder, cases, **more):
    """Writes the specification of a run. It lists complete case ids, because the suite treats patterns as prefixes."""
    path = os.path.join(folder, "spec.json")
    with open(path, "w") as file:
        json.dump({"outdir": os.path.join(folder, "reports"), "cases": cases, **more}, file, indent=1)
    return path


def stop(process):
    """Stops a process: by SIGTERM, and by SIGKILL after 15 s."""
    RUNNING.discard(process)
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def read_index(folder):
    """The result of each case; empty if the suite did not finish."""
    try:
        with open(os.path.join(folder, "reports", "index.json")) as file:
            return json.load(file).get(AGENT, {})
    except (OSError, ValueError):
        return {}


def report_path(folder, result):
    """Path of the suite's report on a case."""
    return os.path.relpath(os.path.join(folder, "reports", result["reportfile"]), ROOT)


def against_server(suite, url, cases, folder, timeout_s):
    """Runs cases against a server. Returns results by case, and a problem of the run or None."""
    spec = write_spec(folder, cases, servers=[{"agent": AGENT, "url": url}])
    process = suite.start("fuzzingclient", spec, folder)
    try:
        code = process.wait(timeout=timeout_s)
        problem = None if code == 0 else f"wstest ended with exit code {code}"
    except subprocess.TimeoutExpired:
        problem = f"wstest did not finish within {timeout_s} s"
    finally:
        stop(process)
    return read_index(folder), problem


def against_client(suite, client, flags, driver, cases, folder, timeout_s):
    """Runs a client against a new fuzzing server. The URL goes between the client's command and its flags. Returns the same."""
    process, url = suite.start_server(cases, folder)
    command = [*client, url, *flags, "--agent", AGENT, "--deadline-s", str(timeout_s)]
    try:
        # The client ends itself at its deadline; if it hangs, that is a failure too.
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=timeout_s + 30,
        )
        said = done.stdout.strip()
        agreed = f"client driver={driver} cases={len(cases)}"
        problem = None if done.returncode == 0 and said == agreed else f"the client ended with exit code {done.returncode}: {said}"
    except subprocess.TimeoutExpired:
        problem = f"the client did not end within {timeout_s + 30} s"
    finally:
        # The server writes the reports before it closes the connection that requested them.
        stop(process)
    return read_index(folder), problem
