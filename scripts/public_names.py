"""What the facade shows of the other crates, and which types the signatures of that name; for scripts/public-api.

Reads the JSON that rustdoc writes of each crate. A type is known by its definition: the crate, and the modules in which it is
written, whatever other paths lead to it.
"""

import functools
import json
import pathlib

FACADE = "echoring"
# The words that begin items, and what rustdoc calls these.
WORDS = {
    "const": "constant",
    "enum": "enum",
    "fn": "function",
    "mod": "module",
    "static": "static",
    "struct": "struct",
    "trait": "trait",
    "type": "type_alias",
    "union": "union",
    "use": "use",
}


class Crate:
    """The public items of a crate."""

    def __init__(self, path):
        told = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        self.index, self.paths, self.root = told["index"], told["paths"], told["root"]
        self.name = self.item(self.root)["name"]

    def item(self, number):
        return self.index.get(str(number))

    def definition(self, number):
        """Where an item is written; `None` for one that has no path of its own."""
        told = self.paths.get(str(number))
        return told and "::".join(told["path"])

    def below(self, module, prefix):
        """The public items below a module, with their paths: those that are written there, and those that `use` shows."""
        for number in content(self.item(module))["items"]:
            item = self.item(number)
            if item is None:
                continue
            if kind(item) == "use":
                used = content(item)
                if not used["is_glob"]:
                    yield from self.named(used["id"], f"{prefix}::{used['name']}")
                elif self.item(used["id"]):
                    yield from self.below(used["id"], prefix)
            else:
                yield from self.named(number, f"{prefix}::{item['name']}")

    def named(self, number, path):
        yield path, number
        item = self.item(number)
        if item is not None and kind(item) == "module":
            yield from self.below(number, path)

    @functools.cached_property
    def public(self):
        """The numbers of all public items by path."""
        return dict(self.below(self.root, self.name))

    def begins(self, word, path):
        """Whether the line of a list that has this path after this word begins an item, and is not about a part of one."""
        item = self.item(self.public.get(path))
        return word == "use" or item is not None and kind(item) == WORDS[word]

    @functools.cached_property
    def defined(self):
        """The numbers of the items of this crate by definition."""
        return {self.definition(number): number for number in self.index if self.paths.get(number, {}).get("crate_id") == 0}


def kind(item):
    return next(iter(item["inner"]))


def content(item):
    return item["inner"][kind(item)]


def mentioned(node):
    """The numbers of the types and traits that a part of a signature names."""
    if isinstance(node, dict):
        if "path" in node and "id" in node:
            yield node["id"]
        for part in node.values():
            yield from mentioned(part)
    elif isinstance(node, list):
        for part in node:
            yield from mentioned(part)


def signatures(crate, item):
    """What a program sees of an item: the name of a part, and its signature."""
    inner = content(item)
    match kind(item):
        case "struct":
            yield from fields(crate, item["name"], inner["kind"])
        case "enum":
            for number in inner["variants"]:
                variant = crate.item(number)
                yield from fields(crate, f"{item['name']}::{variant['name']}", content(variant)["kind"])
        case "trait":
            yield item["name"], inner["bounds"]
            for number in inner["items"]:
                yield f"{item['name']}::{crate.item(number)['name']}", crate.item(number)["inner"]
        case _:
            yield item["name"], inner
    if kind(item) in ("struct", "enum", "trait", "union"):
        yield item["name"], inner["generics"]
    for number in inner.get("impls", ()) if isinstance(inner, dict) else ():
        yield from implemented(crate, item["name"], crate.item(number))


def fields(crate, name, shape):
    """The public fields of a struct or a variant."""
    numbers = []
    if isinstance(shape, dict):
        numbers = shape["tuple"] if "tuple" in shape else (shape.get("plain") or shape["struct"])["fields"]
    for number in numbers:
        field = crate.item(number) if number is not None else None
        if field is not None:
            yield f"{name}::{field['name']}", field["inner"]


def implemented(crate, name, item):
    """The methods of a type. Those of traits are the traits' own: of these, the arguments and the associated types count."""
    inner = content(item)
    if inner["is_synthetic"] or inner["blanket_impl"] is not None:
        return
    yield name, inner["generics"]
    yield name, inner["trait"]
    for number in inner["items"]:
        part = crate.item(number)
        if part is not None and (inner["trait"] is None or kind(part) in ("assoc_type", "assoc_const")):
            yield f"{name}::{part['name']}", part["inner"]


def is_growing(item):
    """Whether an item is `#[non_exhaustive]`."""
    return "non_exhaustive" in item["attrs"]


def is_open(item):
    """Whether other crates can write all of a struct, because each field is public."""
    shape = content(item)["kind"]
    if "tuple" in shape:
        return None not in shape["tuple"]
    return shape != "unit" and not shape["plain"]["has_stripped_fields"]


class Facade:
    """What programs see of the crates through the facade."""

    def __init__(self, folder, names):
        files = (pathlib.Path(folder) / f"{name.replace('-', '_')}.json" for name in names)
        self.crates = {crate.name: crate for crate in map(Crate, files)}
        self.shown = {}
        facade = self.crates[FACADE]
        for path, number in facade.public.items():
            self.show(path, facade.definition(number))

    def show(self, path, definition):
        """Notes that a path leads to what is defined there, and with a module of another crate all that is in it."""
        owner, number = self.find(definition)
        if owner is None:
            return
        self.shown.setdefault(definition, path)
        item = owner.item(number)
        if kind(item) == "module" and owner.name != FACADE:
            for below, inner in owner.below(number, path):
                self.show(below, owner.definition(inner))

    def find(self, definition):
        """The crate of ours that defines something, and its number there."""
        owner = self.crates.get(definition.split("::")[0])
        number = owner and owner.defined.get(definition)
        return (owner, number) if number is not None else (None, None)

    def paths_of(self, crate):
        """The public paths, within their crate, of what is shown of it."""
        return {path for path, number in crate.public.items() if crate.definition(number) in self.shown}

    def items(self):
        """What is shown, with its path in the facade."""
        for definition, path in self.shown.items():
            crate, number = self.find(definition)
            if crate.name != FACADE:
                yield path, crate, crate.item(number)

    def open_structs(self):
        for path, _, item in self.items():
            if kind(item) == "struct" and is_open(item) and not is_growing(item):
                yield path

    def nameless(self):
        """The parts of signatures that name what is not shown, and the definition of that."""
        found = set()
        for path, crate, item in self.items():
            for part, signature in signatures(crate, item):
                for number in mentioned(signature):
                    definition = crate.definition(number)
                    if definition and definition.startswith(FACADE) and definition not in self.shown:
                        found.add((f"{path.rpartition('::')[0]}::{part}", definition))
        return sorted(found)
