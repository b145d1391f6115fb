"""The table of log messages in docs/contributing/metrics-to-code.md, by file.

    log_lines.py            writes the table
    log_lines.py --check    fails if the source has other messages

The messages are those of `tracing`'s macros outside tests. A part in braces is filled in at run time. Only the standard library is needed.
"""

import glob
import os
import re
import sys

sys.dont_write_bytecode = True
import generated  # noqa: E402
from machine import ROOT  # noqa: E402

PAGE = os.path.join(ROOT, "docs", "contributing", "metrics-to-code.md")
BEGIN = "<!-- log lines: made by scripts/log_lines.py from src, do not edit. -->"
END = "<!-- log lines: end of the part that scripts/log_lines.py made. -->"
MACRO = re.compile(r"(?:tracing::|\b)(error|warn|info|debug)!\(")
LITERAL = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)


def production(text):
    """The text without comments and without the tests at its end."""
    text = re.split(r"^#\[cfg\(test\)\]\nmod tests \{", text, maxsplit=1, flags=re.MULTILINE)[0]
    return re.sub(r"^\s*//[^\n]*", "", text, flags=re.MULTILINE)


def texts(text, at):
    """The arguments of a macro that are texts, and not values of fields. The macro's parenthesis ends before `at`."""
    found, depth, before = [], 1, ","
    while depth and at < len(text):
        literal = LITERAL.match(text, at)
        if literal:
            if depth == 1 and before == ",":
                found.append(literal[1])
            at, before = literal.end(), '"'
            continue
        depth += {"(": 1, "{": 1, "[": 1, ")": -1, "}": -1, "]": -1}.get(text[at], 0)
        before = before if text[at].isspace() else text[at]
        at += 1
    return found


def messages(path):
    """Level and message of each log record of a file, in its order."""
    with open(path, encoding="utf-8") as file:
        text = production(file.read())
    for found in MACRO.finditer(text):
        # The first text is the message; others are values for its braces.
        message = re.sub(r"\\\n\s*", "", next(iter(texts(text, found.end())), ""))
        # Some calls only pass on a text that was made elsewhere.
        if re.sub(r"\{\w*\}", "", message):
            yield found[1], message.replace('\\"', '"').replace("|", "\\|")


def table():
    lines = ["| file | level: message |", "|---|---|"]
    for path in sorted(glob.glob(os.path.join(ROOT, "src", "**", "*.rs"), recursive=True)):
        name = os.path.relpath(path, ROOT)
        if "/tests/" in name or name.endswith("tests.rs"):
            continue
        found = list(dict.fromkeys(messages(path)))
        if found:
            lines.append(f"| `{name}` | " + "<br>".join(f"{level}: `{message}`" for level, message in found) + " |")
    return "\n".join(lines)


def main():
    check = "--check" in sys.argv
    if generated.update(PAGE, BEGIN, END, f"\n\n{table()}\n\n", check) and check:
        sys.exit("log_lines: docs/contributing/metrics-to-code.md does not match src; run scripts/docs --update")


if __name__ == "__main__":
    main()
