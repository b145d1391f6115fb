"""Runs `wstest` of Autobahn|Testsuite on Python 2.7, from the folder of its packages.

    python2.7 run_wstest.py PACKAGES LISTENER|- -m fuzzingclient|fuzzingserver -s SPEC

LISTENER is the descriptor of a listening socket that the fuzzing server takes over, so that the kernel can choose its port. The
port must be that of the specification's URL. The suite is otherwise unchanged.
"""

import site
import socket
import sys

packages, listener = sys.argv[1:3]
del sys.argv[1:3]
site.addsitedir(packages)  # zope's namespace package needs its .pth file, which PYTHONPATH would not read

from autobahntestsuite import fuzzing, wstest  # noqa: E402 (chooses the reactor: before any other use of it)
from twisted.internet import reactor  # noqa: E402


def adopt(factory, _context):
    return reactor.adoptStreamPort(int(listener), socket.AF_INET, factory)


if listener != "-":
    fuzzing.listenWS = adopt
wstest.run()
