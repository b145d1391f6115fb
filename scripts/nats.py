"""Runs a NATS server on a port of its choice."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time

import pairs

# Debian installs it where only root looks.
PROGRAM = shutil.which("nats-server") or shutil.which("/usr/sbin/nats-server")
START_S_MAX = 30


class Nats:
    def __init__(self, *flags):
        if PROGRAM is None:
            pairs.fail("nats-server is not installed: apt-get install nats-server")
        self.folder = tempfile.TemporaryDirectory()
        log = os.path.join(self.folder.name, "log")
        command = [PROGRAM, "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", self.folder.name, "-l", log, *flags]
        self.process = subprocess.Popen(command)
        self.pid = self.process.pid
        try:
            self.port = self.await_port(os.path.join(self.folder.name, f"nats-server_{self.pid}.ports"))
        except BaseException:
            self.__exit__()
            raise
        self.url = f"nats://127.0.0.1:{self.port}"

    def await_port(self, path):
        until = time.monotonic() + START_S_MAX
        while time.monotonic() < until:
            with contextlib.suppress(OSError, ValueError), open(path) as file:
                return int(json.load(file)["nats"][0].rpartition(":")[2])
            time.sleep(0.01)
        pairs.fail("nats-server does not start")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()
