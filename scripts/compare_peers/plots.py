"""Plots a record: `plots.py FOLDER` writes peers.svg, the value of each server, and peers-ratios.svg, the ratios with intervals and
targets.

The value of a server is computed from its ratio to echoring within rounds, because not all servers took part in the same rounds,
and rounds differ by more than servers do. Runs with the Python of the peers' environment, which has matplotlib.
"""

import os
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import matplotlib  # noqa: E402

matplotlib.use("svg")
import matplotlib.pyplot as pyplot  # noqa: E402

import records  # noqa: E402
import tables  # noqa: E402
from catalogue import AGAIN, FLOOR, OURS, RAWS  # noqa: E402

OURS_COLOUR, FLOOR_COLOUR, PEER_COLOUR = "#c2410c", "#94a3b8", "#3b6ea5"
COLUMNS = 3
# Plot of ratios: the sides that have targets of their own, and the end of the scale. Larger ratios are printed as numbers.
BESIDE = (FLOOR, "uws", "bun")
RATIO_MAX = 2.0


def colour(side):
    if side.startswith(OURS):
        return OURS_COLOUR
    return FLOOR_COLOUR if side in RAWS else PEER_COLOUR


def write(figure, folder, name):
    """Writes a figure without dates and random names, so that the same record gives the same file."""
    pyplot.rcParams["svg.hashsalt"] = "echoring"
    figure.savefig(os.path.join(folder, name), metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    pyplot.close(figure)


def panels(found):
    """A panel for each row of --quick: the value by server, the smallest on top. None if the record has no such row."""
    shown = [(row, result) for row, result in found if row.quick]
    if not shown:
        return None
    height = -(-len(shown) // COLUMNS)
    figure, axes = pyplot.subplots(height, COLUMNS, figsize=(5.2 * COLUMNS, 4.4 * height), squeeze=False)
    for axis in axes.flat[len(shown):]:
        axis.set_axis_off()
    for axis, (row, result) in zip(axes.flat, shown):
        name = row.values[0]
        what, unit, scale = tables.VALUES[name]
        ours = result["sides"][OURS][name]["median"] / scale
        told = [(ours, OURS)] + [
            (ours / found["median"], found["to"]) for found in result["ratios"]
            if found["of"] == OURS and found["value"] == name and found["to"] != AGAIN
        ]
        told.sort(reverse=True)
        bars = axis.barh(
            [tables.TITLES.get(side, side) for _, side in told], [value for value, _ in told],
            color=[colour(side) for _, side in told],
        )
        axis.bar_label(bars, labels=[tables.number(value) for value, _ in told], padding=3, fontsize=8)
        axis.set_title(row.title, fontsize=10)
        axis.set_xlabel(f"{what}, {unit}; lower is better", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


def ratios(found):
    """echoring's ratio to some sides, with the interval, and the target as a tick."""
    lines = [
        (row, told) for row, result in found for told in result["ratios"]
        if told["of"] == OURS and told["to"] in BESIDE and told["value"] == row.values[0]
    ]
    names = list(dict.fromkeys(row.title for row, _ in lines))
    figure, axis = pyplot.subplots(figsize=(9, 1.2 + 0.42 * len(names)))
    for offset, side in zip((-0.22, 0.0, 0.22), BESIDE):
        own = [(names.index(row.title) + offset, told) for row, told in lines if told["to"] == side]
        if not own:
            continue
        places, middles = [place for place, _ in own], [told["median"] for _, told in own]
        reach = [
            [told["median"] - told["low"] for _, told in own], [told["high"] - told["median"] for _, told in own],
        ]
        points = axis.errorbar(middles, places, xerr=reach, fmt="o", ms=4, label=tables.TITLES[side])
        targets = [(told["target"], place) for place, told in own if told["target"]]
        axis.plot(
            [target for target, _ in targets], [place for _, place in targets], "|", ms=9,
            color=points[0].get_color(),
        )
        for place, middle in zip(places, middles):
            if middle > RATIO_MAX:
                axis.text(
                    RATIO_MAX, place, f"{tables.number(middle)} → ", ha="right", va="center", fontsize=8,
                    color=points[0].get_color(),
                )
    axis.set_xlim(0, RATIO_MAX)
    axis.set_ylim(-0.7, len(names) - 0.3)
    axis.axvline(1, color="#94a3b8", lw=0.8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("echoring ÷ other (below 1: echoring is cheaper), 95 % interval; ticks are targets", fontsize=8)
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def main():
    folder = sys.argv[1]
    found = tables.summaries(records.Record(folder))
    if (figure := panels(found)) is not None:
        write(figure, folder, "peers.svg")
    write(ratios(found), folder, "peers-ratios.svg")


main()
