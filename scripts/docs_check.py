"""Checks the documentation, for scripts/docs.

    docs_check.py adopt     copy files of the repository that the built book links to into the book
    docs_check.py check     check links and anchors of the sources and of the built book, command lines of shell blocks, that the flags,
                            tests, limits and files exist which pages name, and that limits and records have the values that pages state
    docs_check.py items     check that each item of the facade has an example, in its page of target/doc

Only the standard library is needed.
"""

import functools
import glob
import html.parser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.parse

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DOCS = os.path.join(ROOT, "docs")
BOOK = os.path.join(ROOT, "target", "book")
FACADE = os.path.join(ROOT, "target", "doc", "echoring")
# Folder within the book for copied files of the repository.
ADOPTED = "repository"
PAGES_BESIDE = ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md")
SHELL = {"", "sh", "shell", "bash", "console"}
PROGRAM = os.environ.get("ECHORING", os.path.join(ROOT, "target", "debug", "echoring"))
FENCE = re.compile(r"^(\s*)(```+|~~~+)\s*([\w-]*)[^\n]*\n(.*?)^\s*\2\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?([^()\s<>]+(?:\([^()\s]*\))?)>?(?:\s+\"[^\"]*\")?\)")
# A new command begins after each of these words.
SEPARATORS = {"|", "||", "&", "&&", ";", "(", ")", "do", "then", "exec", "time"}


def sources():
    return (
        [os.path.join(ROOT, name) for name in PAGES_BESIDE]
        + sorted(glob.glob(os.path.join(ROOT, "results", "*.md")))
        + sorted(glob.glob(os.path.join(DOCS, "**", "*.md"), recursive=True))
    )


@functools.cache
def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def shown(path):
    return os.path.relpath(path, ROOT)


def is_external(target):
    return bool(re.match(r"[a-z][a-z0-9+.-]*:|//", target))


# ---- sources ----


def without_code(text):
    """The text without fenced blocks and code spans, whose links do not count."""
    return re.sub(r"(`+).+?\1", "", FENCE.sub("", text), flags=re.DOTALL)


@functools.cache
def anchors(path):
    """Anchors of a page's headings, as git hosts and mdBook make them."""
    found = set()
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*#*\s*$", FENCE.sub("", read(path)), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number, unique = 0, name
        while unique in found:
            number += 1
            unique = f"{name}-{number}"
        found.add(unique)
    return found


def source_links():
    for path in sources():
        text = without_code(read(path))
        targets = LINK.findall(text) + re.findall(r"(?:src|href|srcset)=\"([^\"]+)\"", text)
        yield from dead(path, targets, "/", ".md", anchors, "heading with this anchor")


def dead(path, targets, root, ending, ids, missing):
    """Problems: links of a page to files that do not exist, or to pages without such an anchor."""
    for target in targets:
        if is_external(target):
            continue
        name, _, anchor = urllib.parse.unquote(target.partition("?")[0]).partition("#")
        base = root if name.startswith("/") else os.path.dirname(path)
        to = os.path.normpath(os.path.join(base, name.lstrip("/"))) if name else path
        if not os.path.exists(to):
            yield f"{shown(path)}: {target}: there is no {shown(to)}"
        elif anchor and to.endswith(ending) and anchor not in ids(to):
            yield f"{shown(path)}: {target}: {shown(to)} has no {missing}"


def chapters():
    """Problems: pages of docs that SUMMARY.md does not list."""
    listed = set(re.findall(r"\]\(([^)]+\.md)\)", read(os.path.join(DOCS, "SUMMARY.md"))))
    for path in sorted(glob.glob(os.path.join(DOCS, "**", "*.md"), recursive=True)):
        name = os.path.relpath(path, DOCS)
        if name != "SUMMARY.md" and name not in listed:
            yield f"docs/SUMMARY.md: {name} is not listed"


# ---- the built book ----


class Page(html.parser.HTMLParser):
    """Identifiers and links of a built page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id" or name == "name" and tag == "a":
                self.ids.add(value)
            elif name in ("href", "src") and value and tag != "base":
                self.links.append(value)


@functools.cache
def page(path):
    return Page(read(path))


def built():
    return sorted(glob.glob(os.path.join(BOOK, "**", "*.html"), recursive=True))


def book_links():
    if not built():
        yield f"{shown(BOOK)}: no page is built"
    for path in built():
        # The links of the 404 page begin at the root.
        yield from dead(path, page(path).links, BOOK, ".html", lambda to: page(to).ids, "such id")


def adopt():
    """Redirects links that leave docs to a copy of the file within the book. mdBook has changed their `.md` to `.html`."""
    for path in built():
        source = os.path.join(DOCS, os.path.relpath(os.path.dirname(path), BOOK))

        def inside(found, path=path, source=source):
            attribute, target = found[1], found[2]
            name, mark, anchor = target.partition("#")
            if not name or name.startswith("/") or is_external(target):
                return found[0]
            file = os.path.normpath(os.path.join(source, urllib.parse.unquote(name)))
            if file.startswith(DOCS + os.sep) or not file.startswith(ROOT + os.sep):
                return found[0]
            if not os.path.exists(file):
                file = re.sub(r"\.html$", ".md", file)
            if not os.path.isfile(file):
                return found[0]
            copy = os.path.join(BOOK, ADOPTED, shown(file))
            os.makedirs(os.path.dirname(copy), exist_ok=True)
            shutil.copyfile(file, copy)
            return f'{attribute}="{os.path.relpath(copy, os.path.dirname(path))}"'

        text = read(path)
        changed = re.sub(r'(href|src)="([^"]*)"', inside, text)
        if changed != text:
            with open(path, "w", encoding="utf-8") as file:
                file.write(changed)


# ---- command lines ----


@functools.cache
def flags(command):
    """The flags in `--help` of a command of the program."""
    done = subprocess.run([PROGRAM, *command.split(), "--help"], capture_output=True, text=True)
    if done.returncode != 0:
        return None
    return set(re.findall(r"(?<![\w-])(--?[A-Za-z][\w-]*)", done.stdout)) | {"--help", "-h"}


def shell_lines():
    """Path and command lines of all shell blocks. A line that ends with a backslash continues on the next."""
    for path in sources():
        for _, _, language, body in FENCE.findall(read(path)):
            if language not in SHELL:
                continue
            # A here-document is not a command.
            body = re.sub(r"<<'?(\w+)'?\n.*?^\1$", "", body, flags=re.MULTILINE | re.DOTALL)
            for line in body.replace("\\\n", " ").split("\n"):
                yield path, line.strip().removeprefix("$ ")


def commands(line):
    """The commands of a line, as lists of words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;()<>")
    lexer.whitespace_split = True
    found = [[]]
    for word in lexer:
        if word in SEPARATORS or set(word) <= set("|&;()"):
            found.append([])
        else:
            found[-1].append(word)
    return [words for words in found if words]


def command_lines():
    for path, line in shell_lines():
        if "echoring" not in line and "scripts/" not in line:
            continue
        try:
            found = commands(line)
        except ValueError as error:
            yield f"{shown(path)}: `{line}`: {error}"
            continue
        for words in found:
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words = words[1:]
            if words and words[0].startswith("scripts/") and not os.path.exists(os.path.join(ROOT, words[0])):
                yield f"{shown(path)}: `{line}`: there is no {words[0]}"
            if len(words) > 1 and words[0] == "echoring":
                yield from unknown(path, line, words[1:])


def unknown(path, line, words):
    command = "" if words[0].startswith("-") else words[0]
    known = flags(command)
    if known is None:
        yield f"{shown(path)}: `{line}`: echoring has no command `{command}`"
        return
    for word in words:
        if re.fullmatch(r"--?[A-Za-z][\w-]*(=.*)?", word, re.DOTALL) and word.partition("=")[0] not in known:
            yield f"{shown(path)}: `{line}`: echoring {command} has no {word.partition('=')[0]}"


SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
FLAG = re.compile(r"--[a-z][\w-]*\b")
# Decisions and results may name flags that were removed later.
DATED = (os.path.join(DOCS, "decisions"), os.path.join(ROOT, "results"))


@functools.cache
def program_flags():
    """The flags of all commands of the program, and the names of its commands."""
    listed = lambda command: re.findall(  # noqa: E731
        r"^  ([a-z][\w-]+) ", subprocess.run(
            [PROGRAM, *command, "--help"], capture_output=True, text=True, check=True
        ).stdout.partition("Commands:\n")[2].partition("\n\n")[0], re.MULTILINE)
    names = [name for name in listed([]) if name != "help"]
    commands = names + [f"{name} {below}" for name in names for below in listed([name]) if below != "help"]
    return set().union(*(flags(command) or set() for command in commands)), names


def script_flags(text):
    """The flags of the scripts that a page names, which their comments or code have."""
    named = {os.path.join(ROOT, name) for name in re.findall(r"scripts/[\w-]+", text)}
    return {flag for path in named if os.path.isfile(path) for flag in FLAG.findall(read(path))}


def named_flags():
    """Problems: flags in code spans that neither the program nor a script has. A flag of another program stands behind its name."""
    known, names = program_flags()
    for path in sources():
        if path.startswith(DATED):
            continue
        of_scripts = script_flags(read(path))
        for span in SPAN.findall(FENCE.sub("", read(path))):
            first = span.split(" ")[0]
            is_of_program = first == "echoring" or first in names
            for flag in FLAG.findall(span) if is_of_program or first.startswith("--") else ():
                if flag not in known and (is_of_program or flag not in of_scripts):
                    yield f"{shown(path)}: `{span}`: there is no {flag}"


# ---- the tests that hold what reference pages promise ----


HELD = re.compile(r"<!-- held by:(.*?)-->", re.DOTALL)
RUST_TEST = re.compile(r"#\[(?:tokio::)?test\](?:\s*#\[[^\n]*\])*\s*(?:async\s+)?fn\s+(\w+)")
PYTHON_TEST = re.compile(r"^ +(?:async )?def (test_\w+)", re.MULTILINE)
# Folders of the repository that have tests.
TESTED = ("src", "tests")


@functools.cache
def tests():
    """The files of all tests, by the name of the test. A file is the list of the parts of its path."""
    found = {}
    for folder in TESTED:
        for ending, pattern in (("rs", RUST_TEST), ("py", PYTHON_TEST)):
            for path in glob.glob(os.path.join(ROOT, folder, "**", f"*.{ending}"), recursive=True):
                parts = shown(path).removesuffix(f".{ending}").split(os.sep)
                for name in pattern.findall(read(path)):
                    found.setdefault(name, []).append(parts)
    return found


def promises():
    """Problems of reference pages: names of tests that do not exist, and, on pages that name tests, sections that name none. A test is
    named like `rates::publications_are_limited_per_connection`: parts of its file's path, as far as it needs them, and its name."""
    for path in sources():
        text = read(path)
        for names in HELD.findall(text):
            for name in names.replace(",", " ").split():
                *places, test = re.split(r"::|\.", name)
                if not any(set(places) <= set(file) for file in tests().get(test, [])):
                    yield f"{shown(path)}: held by {name}: there is no such test"
        if not HELD.search(text):
            continue
        for section in re.split(r"^(?=## )", FENCE.sub("", text), flags=re.MULTILINE)[1:]:
            if not HELD.search(section):
                yield f"{shown(path)}: no test holds `{section.partition(chr(10))[0]}`"


# ---- the limits that hold what pages state ----


LIMITS = re.compile(r"<!-- limits:(.*?)-->", re.DOTALL)
CONSTANT = re.compile(r"^pub(?:\(crate\))? const (\w+): [^=]+ =\s*([^;]+);", re.MULTILINE)
# Seconds and bytes of the units that pages use. Times are compared in nanoseconds.
UNITS = {
    "ns": 1, "µs": 10**3, "ms": 10**6, "s": 10**9, "min": 60 * 10**9, "h": 3600 * 10**9,
    "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "": 1,
}


@functools.cache
def constants():
    """The expressions of all constants in `limits.rs`, by name. Crates may have the same name."""
    found = {}
    for path in glob.glob(os.path.join(ROOT, "src", "**", "limits.rs"), recursive=True):
        for name, expression in CONSTANT.findall(read(path)):
            found.setdefault(name, set()).add(expression)
    return found


@functools.cache
def values(name):
    """The values of a constant: a number, or nanoseconds. Empty if its expression is no product, sum or quotient of numbers."""
    return {value for value in map(evaluated, constants().get(name, ())) if value is not None}


def evaluated(expression):
    text = re.sub(r"Duration::from_secs\(([\d_]+)\)", r"(\1 * SECOND)", expression)
    text = re.sub(r"Duration::from_millis\(([\d_]+)\)", r"(\1 * MILLISECOND)", text)
    text = re.sub(r"\b(?:\w+::)+(?=[A-Z])", "", re.sub(r"\bas \w+", "", text)).replace("/", "//")
    for name in set(re.findall(r"\b[A-Z][A-Z0-9_]+\b", text)):
        if len(values(name)) != 1:
            return None
        text = re.sub(rf"\b{name}\b", str(next(iter(values(name)))), text)
    return eval(text) if re.fullmatch(r"[\d_\s*+/<>()-]+", text) else None  # noqa: S307: digits and operators only


def stated():
    """Problems of limits that a page names with their values, like `<!-- limits: SEND_TIMEOUT = 30 s, TOPICS_DEFAULT = 65,536 -->`: the
    constant does not exist or has another value, or the rest of the section does not state it."""
    for path in sources():
        text = read(path)
        for found in LIMITS.finditer(text):
            section = re.split(r"^## ", text[found.end():], maxsplit=1, flags=re.MULTILINE)[0]
            section = " ".join(section.split())
            for name, value in re.findall(r"(\w+) = (\d(?:[\d.,]*\d)?(?: [a-zµA-Z]+)?)", " ".join(found[1].split())):
                number, _, unit = value.partition(" ")
                exact = round(float(number.replace(",", "")) * UNITS[unit])
                if not constants().get(name):
                    yield f"{shown(path)}: there is no limit {name} in a limits.rs of src"
                elif exact not in values(name):
                    yield f"{shown(path)}: {name} is not {value}: {sorted(values(name))}"
                elif value not in section:
                    yield f"{shown(path)}: the section behind {name} = {value} does not state this value"


# ---- the records that hold what pages state ----


RECORDS = re.compile(r"<!-- records: (results/\S+) (.*?)-->", re.DOTALL)


def recorded():
    """Problems of figures of a record that a page states, like `<!-- records: results/DAY/idle-memory.json bytes_per_connection = 232 -->`:
    the record has no such figure or another, or the rest of the section does not state it. `steps.1.count` is a figure within others."""
    for path in sources():
        text = read(path)
        for found in RECORDS.finditer(text):
            section = re.split(r"^## ", text[found.end():], maxsplit=1, flags=re.MULTILINE)[0]
            with open(os.path.join(ROOT, found[1]), encoding="utf-8") as file:
                record = json.load(file)
            for name, value in re.findall(r"([\w.]+) = ([\d,]+)", found[2]):
                figure = functools.reduce(lambda of, key: of[int(key) if key.isdigit() else key], name.split("."), record)
                if round(figure) != int(value.replace(",", "")):
                    yield f"{shown(path)}: {name} in {found[1]} is not {value}: {figure}"
                elif not re.search(rf"(?<![\d,]){value}(?![\d,])", section):
                    yield f"{shown(path)}: the section behind {name} = {value} does not state this value"


# Measured figures: times and instructions that something takes, comparisons, memory for each connection. Bounds do not count.
MEASURED = re.compile(
    r"(?<!than )(?<!most )(?<!every )(?<!within )(?<!or )(?<!from )(?<![\w.,])\d[\d,.]* (?:"
    r"(?:µs|ns|instructions)\b|(?:times|%) (?:as|less|more|fewer|faster|slower)\b|(?:bytes|B|KiB|MB|kB) (?:per|for each) (?:idle )?connection)"
)
GENERATED = re.compile(r"<!-- [^>]*made by.*?<!-- [^>]*end of the part.*?-->", re.DOTALL)


def unrecorded():
    """Sections that state a measured figure, and name no record that has it."""
    for path in sources():
        if shown(path).startswith(("docs/decisions", "results")):
            continue
        text = GENERATED.sub("", FENCE.sub("", read(path)))
        for section in re.split(r"^##+ ", text, flags=re.MULTILINE):
            if "results/" not in section and (found := MEASURED.search(section)):
                yield f"{shown(path)}: '{found[0]}' is in no record: name one in this section, as a link or as <!-- records: … -->"


# ---- the files that pages name ----


# Folders of the repository in code spans, such as `src/proto/limits.rs` or `results/*/floor.json`.
NAMED_FILE = re.compile(r"`((?:src|tests|scripts|bench|packaging|examples|results|docs)/[\w./*-]+)`")


def named_files():
    for path in sources():
        for name in NAMED_FILE.findall(FENCE.sub("", read(path))):
            # A part in capitals stands for any name.
            pattern = re.sub(r"(?<=/)[A-Z]{3,}(?=/|$)", "*", name)
            if not glob.glob(os.path.join(ROOT, pattern)):
                yield f"{shown(path)}: there is no {name}"


def metrics_without_code():
    """Metrics of the reference for which the page for contributors names no file."""
    listed = re.findall(r"^\| `((?:echoring|process)_\w+)`", read(os.path.join(DOCS, "reference", "metrics.md")), re.MULTILINE)
    page = os.path.join(DOCS, "contributing", "metrics-to-code.md")
    for name in listed:
        if f"`{name}`" not in read(page):
            yield f"{shown(page)}: {name} is missing"
    for name in set(re.findall(r"`((?:echoring|process)_\w+)`", read(page))) - set(listed):
        yield f"{shown(page)}: there is no metric {name}"


# ---- the documentation of the crate ----


def items():
    """Each type, trait, function and macro of the facade shows an example, of its own or in one of its methods. Modules group items,
    and constants need none."""
    with open(os.path.join(FACADE, "all.html"), encoding="utf-8") as file:
        listed = re.findall(r'href="((?:\w+/)*(?:struct|enum|union|trait|fn|macro|type|derive|attr)\.\w+\.html)"', file.read())
    without = [name for name in listed if "rust-example-rendered" not in read(os.path.join(FACADE, name))]
    for name in without:
        print(f"{shown(os.path.join(FACADE, name))}: no example")
    print(f"{len(listed)} items, {len(without)} without an example")
    # No item at all means that the pages look different.
    sys.exit(1 if without or not listed else 0)


def check():
    wrong = [*source_links(), *chapters(), *book_links(), *promises(), *stated(), *recorded(), *unrecorded(), *named_files(), *metrics_without_code()]
    if os.access(PROGRAM, os.X_OK):
        wrong += [*command_lines(), *named_flags()]
    else:
        wrong.append(f"{shown(PROGRAM)}: cannot check flags: there is no such program; build it, or set ECHORING to its path")
    for problem in wrong:
        print(problem)
    count = len(sources())
    print(f"{count} pages, {len(built())} built pages: {f'{len(wrong)} problems' if wrong else 'all links, anchors, commands, flags, tests, limits, records and files hold'}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    {"adopt": adopt, "check": check, "items": items}[sys.argv[1]]()
