"""The programs of `peers`, and how each is started."""

import functools
import os
import shutil
import subprocess
import sys

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers")
TARGET = os.path.abspath("target/interop")
NODE_MODULES = os.path.join(TARGET, "node_modules")
# Debian's golang-github-gorilla-websocket-dev puts the source here.
GO_PATH = "/usr/share/gocode"
GO_BUILD_S_MAX = 300


def environment():
    return os.environ | {"NODE_MODULES": NODE_MODULES, "PYTHONDONTWRITEBYTECODE": "1"}


def python(name):
    return [sys.executable, os.path.join(HERE, name)]


def node(name):
    """The Node of this Python environment, which is of a known version."""
    return [os.path.join(os.path.dirname(sys.executable), "node"), os.path.join(HERE, name)]


def bun(name):
    """The binary itself: what is called `bun` in its package fetches this on first use."""
    packages = os.path.join(NODE_MODULES, "@oven")
    for package in sorted(os.listdir(packages)):
        binary = os.path.join(packages, package, "bin", "bun")
        # There may be one for each C library; that of this machine runs.
        if subprocess.run([binary, "--version"], capture_output=True).returncode == 0:
            return [binary, os.path.join(HERE, name)]
    raise FileNotFoundError(f"no bun in {packages} that runs here")


def missing():
    """What is not installed, by the name of the peer."""
    lacks = {}
    if not os.path.isdir(os.path.join(NODE_MODULES, "ws")):
        lacks |= {"ws": "npm's ws", "bun": "npm's bun"}
    if not os.path.exists(node("")[0]):
        lacks |= {"ws": "node", "node": "node"}
    if shutil.which("go") is None or not os.path.isdir(f"{GO_PATH}/src/github.com/gorilla/websocket"):
        lacks["gorilla"] = "golang-go and golang-github-gorilla-websocket-dev"
    return lacks


@functools.cache
def gorilla():
    """The path of the program that uses gorilla, built if it is older than its source."""
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
