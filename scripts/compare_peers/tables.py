"""The tables of a comparison: one of all rows and peers, and one per row."""

import judge
import machine
import records
from catalogue import AGAIN, OURS, PEERS, RAWS
from workloads import (
    BYTES_BEFORE, COST, HANDSHAKE_COST, KEPT, LOST, REPLY_SHARE, ROWS, SUSTAINED_TIMES, TOGETHER_COST, USER_BYTES, VISIT_COST, WITNESSED_COST,
)  # fmt: skip

TITLES = {peer.name: peer.title for peer in PEERS}
VALUES = {
    COST: ("CPU per message", "µs", 1_000),
    TOGETHER_COST: ("CPU of server and generator per message", "µs", 1_000),
    HANDSHAKE_COST: ("CPU per handshake", "µs", 1_000), VISIT_COST: ("CPU per connection", "µs", 1_000),
    REPLY_SHARE: ("compressed to", "%", 0.01), BYTES_BEFORE: ("memory before the first connection", "MB", 1_000_000),
    **{name: (f"time per message with p99 ≤ {p99_max // 1_000_000} ms", "ns", 1) for name, p99_max in SUSTAINED_TIMES.items()},
    WITNESSED_COST: ("CPU per message by load_test", "µs", 1_000), USER_BYTES: ("user memory", "B", 1),
    LOST: ("losses", "messages", 1), KEPT: ("those that stopped reading and stayed connected", "subscribers", 1),
    "p50_ns": ("p50", "µs", 1_000), "p99_ns": ("p99", "µs", 1_000), "p999_ns": ("p99.9", "µs", 1_000),
}
WORDS = {"met": "met", "missed": "**missed**", "undecided": "undecided"}


def summaries(record, rows=tuple(ROWS)):
    """Each row of the record with its summary, in the order of the workloads."""
    found = []
    for row in rows:
        if (kept := record.rows.get(row.name)) and kept["rounds"]:
            found.append((row, judge.summary(row, records.rounds_of(kept), RAWS)))
    return found


def number(value, scale=1.0):
    """Formats a value with three significant digits."""
    if not value:
        return "–" if value is None else "0"
    value /= scale
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 1 else f"{value:.3f}"


def share(value):
    return "–" if value is None else f"{100 * value:.0f} %"


def ratio(found):
    return f"{found['median']:.3f}" if found["median"] >= 0.1 else f"{found['median']:.4f}"


def matrix(found):
    """Ratios of echoring to each peer, one line per row and value."""
    sides = [name for name in TITLES if any(name in result["sides"] for _, result in found)]
    sides.remove(OURS)
    rows = []
    for row, result in found:
        for name in shown(row, result):
            _, unit, scale = VALUES[name]
            ours = result["sides"][OURS][name]
            cells = [cell(result, side, name) for side in sides]
            rows.append([title(row, name), f"{number(ours and ours['median'], scale)} {unit}", *cells])
    return machine.table(["workload", "echoring", *(f"÷ {TITLES[side]}" for side in sides)], rows, "--:")


def shown(row, result):
    """The values of a row. Old records lack values without a target."""
    return [name for name in row.shown if name in row.values or result["sides"][OURS][name]]


def title(row, name):
    """Title of a line. It names the value if the row has several, or if the value has no target."""
    return f"{row.title}: {VALUES[name][0]}" if len(row.values) > 1 or name in row.told else row.title


def of_ours(result, side, name):
    """The ratio of echoring to a side; None if there is none."""
    wanted = (OURS, side, name)
    return next((found for found in result["ratios"] if (found["of"], found["to"], found["value"]) == wanted), None)


def cell(result, side, name):
    if not (found := of_ours(result, side, name)):
        return "–"
    return ratio(found) + {"missed": " ✗", "met": " ✓"}.get(found["verdict"], " ?" if found["target"] else "")


def of_row(row, result):
    """The table of one row with all servers."""
    names = shown(row, result)
    several = len(names) > 1
    heads = ["server", *(["value"] if several else []), "median (quartiles; least)", "user", "soft interrupts", "messages/s"]
    rows = []
    for side, told in result["sides"].items():
        for name in names:
            what, unit, scale = VALUES[name]
            figures = told[name]
            if figures is None:
                continue
            took = (
                f"{number(figures['median'], scale)} {unit} ({number(figures['low'], scale)} – "
                f"{number(figures['high'], scale)}; {number(figures['least'], scale)})"
            )
            rows.append([
                TITLES.get(side, side), *([what] if several else []), took, share(told.get("user_share")), share(told.get("soft_share")),
                number(told.get("messages_per_s")), *judged(result, side, name),
            ])  # fmt: skip
    return machine.table([*heads, "echoring ÷ server", "95 % interval", "target", "verdict"], rows)


def judged(result, side, name):
    if not (found := of_ours(result, side, name)):
        return ["–"] * 4
    fewer = f", {found['rounds']} rounds" if found["rounds"] < result["rounds"] else ""
    interval = f"{found['low']:.3f} – {found['high']:.3f}{fewer}"
    return [ratio(found), interval, f"≤ {found['target']:.2f}" if found["target"] else "–", WORDS.get(found["verdict"], "–")]


def means(record):
    """The geometric mean of echoring ÷ uWebSockets over the echo rows; None unless all of them were measured."""
    rows = [row.name for row in ROWS if row.echo_mean]
    if not all(name in record.rows and record.rows[name]["rounds"] for name in rows):
        return None
    return judge.geometric_mean([records.rounds_of(record.rows[name]) for name in rows], "uws")


def warnings(found):
    return [
        f"{row.title}: noise (echoring against itself) is {100 * result['noise']:.1f} %; smaller differences decide nothing"
        for row, result in found
        if result["noise"] is not None and result["noise"] > judge.NOISE_MAX
    ]


def overview(record, found):
    """The output of a run. `found` are the record's summaries."""
    if not found:
        return "no row has a round"
    parts = [
        "Each cell is echoring ÷ peer, the median of the ratios within rounds; below 1, echoring is cheaper. ✓ the 95 % interval "
        f"lies below the target, ✗ above it, ? neither, or fewer than {judge.ROUNDS_JUDGED_MIN} rounds. `÷ {TITLES[AGAIN]}` "
        "is the noise.",
        matrix(found),
    ]
    notes = [text for row, result in found for text in remarks(row, result, record.rows[row.name])]
    if mean := means(record):
        notes.insert(0, (
            f"Geometric mean of echoring ÷ uWebSockets over {mean['rows']} echo rows: {mean['median']:.3f} "
            f"({mean['low']:.3f} – {mean['high']:.3f}; target ≤ {mean['target']:.2f}: {mean['verdict']})."
        ))
    notes += [f"Warning: {text}." for text in warnings(found)]
    if notes:
        parts.append("\n".join(f"- {text}" for text in notes))
    return "\n\n".join(parts)


def remarks(row, result, kept):
    """Notes on a row besides its ratios."""
    for found in result["bounds"]:
        what, unit, scale = VALUES[found["value"]]
        yield (
            f"{row.title}: {what} of echoring is {number(found['median'], scale)} {unit}, target ≤ {number(found['at_most'], scale)} {unit}: "
            f"{WORDS[found['verdict']]}."
        )
    for found in result["ratios"]:
        if found["of"] != OURS and found["target"]:
            yield (
                f"{row.title}: {TITLES[found['of']]} ÷ {TITLES[found['to']]} = {ratio(found)} ({found['low']:.3f} – "
                f"{found['high']:.3f}; target ≤ {found['target']:.2f}: {WORDS[found['verdict']]})."
            )
    if "rate" in kept:
        slowest = min(kept["maxima"], key=kept["maxima"].get)
        yield (
            f"{row.title}: the rate is {kept['rate']:,} messages/s; the slowest peer, {TITLES.get(slowest, slowest)}, answers "
            f"{kept['maxima'][slowest]:,.0f} messages/s in a closed loop."
        )
    if row.rate_share and result["generator_saturated"]:
        yield (
            f"{row.title}: the generator was late for its own schedule in {result['generator_saturated']} of "
            f"{result['samples']} runs; their latencies contain its lateness."
        )
    if row.rates:
        rounds = records.rounds_of(kept)
        for name in row.values:
            none = {side: sum(found[side].get(name) is None for found in rounds if side in found) for side in result["sides"]}
            told = ", ".join(f"{TITLES[side]} {count}" for side, count in none.items() if count)
            if told:
                what, _, _ = VALUES[name]
                yield f"{row.title}, {what}: rounds of {len(rounds)} in which no rate kept the bound: {told}."
    if row.kind == "witness":
        told = judge.agreement(result, COST, WITNESSED_COST)
        apart = [
            f"{TITLES[side]} ({ratio(ours)}, {ours['low']:.3f} – {ours['high']:.3f}, by `echoring bench`; "
            f"{ratio(theirs)}, {theirs['low']:.3f} – {theirs['high']:.3f}, by `load_test`)"
            for side, ours, theirs, same in told
            if not same
        ]
        same = f"{len(told) - len(apart)} of {len(told)} ratios agree within their intervals between both generators"
        yield f"{row.title}: {same}" + (f"; these differ: {', '.join(apart)}." if apart else ".")


def page(record, found, heading):
    """The whole record as a page. `found` are its summaries."""
    content = record.content
    parts = [f"# {heading}", overview(record, found)]
    for row, result in found:
        kept = record.rows[row.name]
        about = kept["environment"]
        warm_up = f" after {kept['warmup_seconds']:g} s of warm-up" if "warmup_seconds" in kept else ""
        parts.append(f"## {row.title}")
        parts.append(of_row(row, result))
        failed = "".join(f" {TITLES.get(name, name)} was left out: {why}." for name, why in kept["failed"].items())
        parts.append(
            f"{result['rounds']} rounds of {kept['seconds']:g} s{warm_up}, load `{kept['load']}`, commit {kept['commit'][:12]}"
            f"{' with uncommitted changes' if about['uncommitted_changes'] else ''}; {about['cpu']}, {about['cpus']} CPUs, "
            f"Linux {about['kernel']}, {about['congestion_control']}; load average {kept['load_average']['before']:.1f} "
            f"before and {kept['load_average']['after']:.1f} after.{failed}"
        )
    parts.append("## Peers")
    parts.append("\n".join(f"- {told['title']}: {told['version']}" for told in content["peers"].values()))
    if content["skipped"]:
        parts.append("\n".join(f"- not compared: {TITLES.get(name, name)}: {why}" for name, why in content["skipped"].items()))
    commands = {}
    for row in record.rows.values():
        for name, command in row["commands"].items():
            commands.setdefault(command, name)
    parts.append("Commands:")
    parts.append("\n".join(f"- {TITLES.get(name, name)}: `{command}`" for command, name in commands.items()))
    parts.append(machine.bias(content["known_bias"]))
    return "\n\n".join(parts)
