"""Parts of documents that scripts generate, between two lines of the document that say so."""

import os

import machine


def replaced(text, path, begin, end, part):
    """The text of a document with another part. The lines belong to none of them."""
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"{os.path.relpath(path, machine.ROOT)} lacks the lines {begin!r} and {end!r}")
    return f"{before}{begin}{part}{end}{after}"


def update(path, begin, end, part, check):
    """Writes a part, unless `check`. Returns whether the document had another one."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    made = replaced(text, path, begin, end, part)
    if made != text and not check:
        with open(path, "w", encoding="utf-8") as file:
            file.write(made)
    return made != text
