"""Runs `wstest` of Autobahn|Testsuite under Python 2.7, from the folder that its packages were installed into.

    python2.7 run_wstest.py PACKAGES LISTENER|- -m fuzzingclient|fuzzingserver -s SPEC

LISTENER is the descriptor of a listening socket that the fuzzing server takes over, so that the kernel can choose
its port. It must match the port of the specification's URL. Nothing else of the suite is changed.
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
