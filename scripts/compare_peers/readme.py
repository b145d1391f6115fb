"""README's table and picture of the peers, made from the newest record and never typed."""

import os

import machine
import records
import tables
from catalogue import FLOOR, OURS, RAWS

README = os.path.join(machine.ROOT, "README.md")
BEGIN = "<!-- Made by scripts/compare-peers --readme from results/, do not edit. -->"
END = "<!-- End of what scripts/compare-peers made. -->"
SHOWN = (FLOOR, "uws", "bun")
NONE = "No run has been recorded yet; `scripts/compare-peers --quick` shows a first look at the machine at hand."


def block():
    """What stands between the marks."""
    record = records.newest()
    if not record:
        return f"{BEGIN}\n{NONE}\n{END}"
    folder = os.path.relpath(os.path.dirname(record.path), machine.ROOT)
    found = tables.summaries(record)
    parts = [table(found)]
    if os.path.exists(os.path.join(machine.ROOT, folder, "peers.svg")):
        parts.append(f"![What the rows cost with each server]({folder}/peers.svg)")
    parts.append(about(record, found, folder))
    return "\n".join([BEGIN, "\n\n".join(parts), END])


def table(found):
    lines = [
        f"| | echoring | {' | '.join(f'by {tables.TITLES[side]}' for side in SHOWN)} | by the best of all others |",
        "|---" * (len(SHOWN) + 3) + "|",
    ]
    for row, result in found:
        for name in row.values:
            what, unit, scale = tables.VALUES[name]
            ours = result["sides"].get(OURS, {}).get(name)
            if not ours:
                continue
            title = row.title if len(row.values) == 1 else f"{row.title}: {what}"
            cells = [tables.cell(result, side, name) for side in SHOWN]
            lines.append(
                f"| {title} | {tables.number(ours['median'], scale)} {unit} | {' | '.join(cells)} | {best(result, name)} |"
            )
    return "\n".join(lines)


def best(result, name):
    """The nearest of those that have no column, echoring's own drivers and raw servers apart."""
    others = [
        found for found in result["ratios"]
        if found["of"] == OURS and found["value"] == name and found["to"] not in (*SHOWN, *RAWS)
        and not found["to"].startswith(OURS)
    ]
    if not others:
        return "–"
    nearest = max(others, key=lambda found: found["median"])
    return f"{tables.cell(result, nearest['to'], name)} {tables.TITLES[nearest['to']]}"


def about(record, found, folder):
    counts = {verdict: 0 for verdict in ("met", "missed", "undecided")}
    for _, result in found:
        for told in [*result["ratios"], *result["bounds"]]:
            if told["verdict"]:
                counts[told["verdict"]] += 1
    last = max(record.rows.values(), key=lambda row: row["started_at"])
    noise = [result["noise"] for _, result in found if result["noise"] is not None]
    told = [
        "What echoring takes, of the server's CPU per message unless the row says otherwise, and that by what the others take: "
        "below 1 it is less. ✓ the target is met, ✗ missed, ? undecided.",
        f"Of all targets {counts['met']} are met, {counts['missed']} missed and {counts['undecided']} undecided.",
    ]
    if noise:
        told.append(f"echoring beside itself reaches up to {100 * max(noise):.1f} % from 1.")
    told.append(
        f"Commit {last['commit'][:12]}, {last['environment']['cpu']}, Linux {last['environment']['kernel']}, "
        f"{last['started_at'][:10]}: [{folder}/peers.md]({folder}/peers.md)."
    )
    return " ".join(told)


def made():
    """README as it is, and as it has to be."""
    with open(README) as file:
        text = file.read()
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"compare-peers: README.md lacks the lines {BEGIN!r} and {END!r}")
    return text, before + block() + after


def write():
    text, wanted = made()
    if text != wanted:
        with open(README, "w") as file:
            file.write(wanted)


def is_current():
    text, wanted = made()
    return text == wanted
