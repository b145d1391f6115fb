"""Parts of documents that scripts generate, between two lines of the document that say so."""

import os

import machine


def split(text, path, begin, end):
    """A document's text before the part, the part, and the text behind it. The lines belong to none of them."""
    before, found, rest = text.partition(begin)
    part, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"{os.path.relpath(path, machine.ROOT)} lacks the lines {begin!r} and {end!r}")
    return before, part, after


def replaced(text, path, begin, end, part):
    """The text of a document with another part."""
    before, _, after = split(text, path, begin, end)
    return f"{before}{begin}{part}{end}{after}"


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def is_current(path, begin, end, part):
    return split(read(path), path, begin, end)[1] == part


def write(path, begin, end, part):
    text = replaced(read(path), path, begin, end, part)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
