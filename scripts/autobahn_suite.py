"""Finds Autobahn|Testsuite 0.8.2 and runs cases of it: the half of `scripts/autobahn` that knows the suite.

The suite is Python 2.7 only. It runs from a Python 2.7 that is present, with its pinned packages in a private
folder, or else from its published container. It writes its index only at the end, and succeeds although nobody
answered: what is missing in the index was not run.
"""

import glob
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HARNESS = os.path.join(ROOT, "tests", "autobahn")
REQUIREMENTS = os.path.join(HARNESS, "requirements.txt")
IMAGE = "crossbario/autobahn-testsuite:0.8.2"
AGENT = "echoring"

# What an installation over a slow line may take, and a container engine to say that it runs.
INSTALL_TIMEOUT_S = 600
ENGINE_TIMEOUT_S = 20
# From starting the containers' server to its port.
START_TIMEOUT_S = 120

MISSING = (
    "install Python 2.7 with pip (pyenv install 2.7.18, or set ECHORING_PYTHON27 to its path), "
    "or start docker or podman"
)


class Unavailable(Exception):
    """The suite cannot be run here; the message is one line that says what to install."""


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
    """A Python 2.7 with pip: the one that is named, pyenv's latest, or the one in PATH."""
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
    # A pyenv shim lies in PATH although it runs nothing.
    return succeeds([path, "-c", "import sys, pip; sys.exit(sys.version_info[:2] != (2, 7))"], ENGINE_TIMEOUT_S)


def succeeds(command, timeout_s):
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=timeout_s
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def install(python, target):
    """The folder with the pinned packages, installed once for each content of the requirements and each Python."""
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
        try:
            os.rename(unfinished, packages)
        except OSError:
            # Somebody else was faster.
            if not os.path.isdir(packages):
                raise
    except subprocess.TimeoutExpired:
        raise Unavailable("the suite's packages could not be installed in time") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return packages


class Native:
    """The suite under a Python 2.7 of this machine."""

    def __init__(self, python, packages):
        self.python = python
        self.packages = packages

    def describe(self):
        version = subprocess.run(
            [self.python, "-c", "import platform; print(platform.python_version())"], stdout=subprocess.PIPE, text=True
        ).stdout.strip()
        with open(REQUIREMENTS) as file:
            pinned = dict(line.strip().split("==") for line in file if "==" in line)
        versions = {name: pinned[name] for name in ("autobahntestsuite", "autobahn", "Twisted")}
        return {**versions, "python": version}

    def start(self, mode, spec, folder, listener=None):
        """`wstest` as a process; its output goes to a log in `folder`. `listener` is taken over by the server."""
        descriptors = [] if listener is None else [listener.fileno()]
        command = [self.python, os.path.join(HARNESS, "run_wstest.py"), self.packages]
        command += [str(descriptors[0]) if descriptors else "-", "-m", mode, "-s", spec, "-u", "0"]
        return spawn(command, folder, descriptors)

    def start_server(self, cases, folder):
        """The fuzzing server and its URL. It answers as soon as it is up: its port is listening already."""
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
                # Nothing tells when it listens but the attempt.
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
    """Ends what other threads wait for, so that they end."""
    for process in list(RUNNING):
        process.terminate()


def write_spec(folder, cases, **more):
    """The specification of a run. Ids are given whole, since the suite takes patterns for prefixes."""
    path = os.path.join(folder, "spec.json")
    with open(path, "w") as file:
        json.dump({"outdir": os.path.join(folder, "reports"), "cases": cases, **more}, file, indent=1)
    return path


def stop(process):
    """Ends a process of ours, kindly at first."""
    RUNNING.discard(process)
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def read_index(folder):
    """What became of each case, or nothing where the suite did not get to its end."""
    try:
        with open(os.path.join(folder, "reports", "index.json")) as file:
            return json.load(file).get(AGENT, {})
    except (OSError, ValueError):
        return {}


def report_path(folder, result):
    """The suite's own report of a case."""
    return os.path.relpath(os.path.join(folder, "reports", result["reportfile"]), ROOT)


def against_server(suite, url, cases, folder, timeout_s):
    """Runs cases against a server. Returns results by case, and what went wrong besides."""
    spec = write_spec(folder, cases, servers=[{"agent": AGENT, "url": url}])
    process = suite.start("fuzzingclient", spec, folder)
    try:
        code = process.wait(timeout=timeout_s)
        problem = None if code == 0 else f"wstest ended with {code}"
    except subprocess.TimeoutExpired:
        problem = f"wstest was not through after {timeout_s} s"
    finally:
        stop(process)
    return read_index(folder), problem


def against_client(suite, client, flags, driver, cases, folder, timeout_s):
    """Runs a client, with the URL between its command and its flags, against a fuzzing server of its own. Returns the same."""
    process, url = suite.start_server(cases, folder)
    command = [*client, url, *flags, "--agent", AGENT, "--deadline-s", str(timeout_s)]
    try:
        # The client ends itself at its deadline; a hang of it is a failure of its own.
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=timeout_s + 30,
        )
        said = done.stdout.strip()
        agreed = f"client driver={driver} cases={len(cases)}"
        problem = None if done.returncode == 0 and said == agreed else f"the client ended with {done.returncode}: {said}"
    except subprocess.TimeoutExpired:
        problem = f"the client hung for {timeout_s + 30} s"
    finally:
        # The reports are written before the server ends the connection that asked for them.
        stop(process)
    return read_index(folder), problem
