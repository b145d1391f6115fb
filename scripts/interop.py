"""The modules of tests/interop that scripts use, for a program."""

import importlib
import os
import sys

import machine

RELEASE = os.path.join(machine.ROOT, "target", "release", "echoring")


def modules(program, *names):
    """Imports modules, which start this program and NATS. Ends with one line that says what is missing."""
    script = os.path.basename(sys.argv[0])
    if not os.path.exists(program):
        raise SystemExit(f"{script}: there is no {program}; build it with cargo build --release")
    os.environ["ECHORING"] = program
    sys.path.insert(0, os.path.join(machine.ROOT, "tests", "interop"))
    try:
        found = [importlib.import_module(name) for name in ("test_cluster", *names)]
    except ImportError as error:
        raise SystemExit(f"{script}: {error}; pip install -r tests/interop/requirements.txt") from error
    if found[0].NATS is None:
        raise SystemExit(f"{script}: there is no nats-server; apt install nats-server")
    return found
