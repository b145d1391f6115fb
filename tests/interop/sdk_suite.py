"""Runs the tests of PyPI's `centrifuge-python` itself against this server.

    python tests/interop/sdk_suite.py [--checkout DIRECTORY] [--tag TAG] [--compress shared]

The package does not contain its tests, so they come from a checkout of its repository, which is cloned if none is given. They expect a
server at port 8000 of localhost. Its tokens have a secret that is too short for this server, and no expiry: they are signed with another
one here. Nothing else of the tests is changed.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import jwt
from harness import PATIENCE_S, Server

REPOSITORY = "https://github.com/centrifugal/centrifuge-python"
SECRET = "a secret of at least thirty-two bytes"
# What the tests expect of their server.
CONFIGURATION = """
[topic_defaults]
delta = "fossil"
presence = "everybody"
history_messages = 100

[[topics]]
pattern = "smallhistory:*"
history_messages = 2
"""


def token(user, channel=""):
    claims = {"sub": user, "exp": int(time.time()) + 600}
    return jwt.encode(claims | ({"channel": channel} if channel else {}), SECRET, "HS256")


class Result(unittest.TextTestResult):
    """Ends a test that waits for what does not come."""

    def startTest(self, test):
        super().startTest(test)
        signal.alarm(PATIENCE_S)

    def stopTest(self, test):
        signal.alarm(0)
        super().stopTest(test)


def give_up(*_):
    raise TimeoutError("no end within the time of a test")


def main():
    parser = argparse.ArgumentParser(description="Runs the tests of centrifuge-python against this server.")
    parser.add_argument("--checkout", help="a checkout of its repository")
    parser.add_argument("--tag", default="0.5.0", help="the tag to clone otherwise")
    parser.add_argument("--compress", default="off", help="the server's compression, such as shared (default: off)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        checkout = options.checkout or os.path.join(directory, "centrifuge-python")
        if not options.checkout:
            subprocess.run(["git", "clone", "--depth=1", f"--branch={options.tag}", REPOSITORY, checkout], check=True)
        files = {"echoring.toml": CONFIGURATION, "secret": SECRET}
        for name, content in files.items():
            with open(os.path.join(directory, name), "w") as file:
                file.write(content)
        # The library is that of the checkout, too.
        sys.path.insert(0, os.path.abspath(checkout))
        from tests import test_client, test_filter, test_fossil, test_state_invalidation

        test_client.generate_jwt = token
        signal.signal(signal.SIGALRM, give_up)
        modules = [test_client, test_filter, test_fossil, test_state_invalidation]
        suite = unittest.TestSuite(map(unittest.defaultTestLoader.loadTestsFromModule, modules))
        configuration, secret = (os.path.join(directory, name) for name in files)
        flags = ("--config", configuration, "--auth-jwt-key", secret, "--compress", options.compress)
        with Server(*flags, "--listen", "127.0.0.1:8000"):
            result = unittest.TextTestRunner(verbosity=2, resultclass=Result).run(suite)
    return not result.wasSuccessful()


if __name__ == "__main__":
    sys.exit(main())
