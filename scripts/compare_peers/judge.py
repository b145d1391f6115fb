"""Summarises the rounds of a row: medians, ratios within rounds with their intervals, and verdicts."""

import math
import statistics

import pairs
from catalogue import AGAIN, OURS
from workloads import ANYONE, COST

# Maximum of echoring's noise; above it the machine was too noisy for verdicts within a few per cent.
NOISE_MAX = 0.02
# With fewer than ten rounds a bootstrap interval may be narrow by chance. From six rounds on, the range of the ratios contains the
# median with the same confidence (1 - 2 / 2^6). With fewer rounds the verdict is undecided, except in rows that never have more.
ROUNDS_BOOTSTRAP_MIN, ROUNDS_JUDGED_MIN = 10, 6
MEAN_TARGET = 0.97
SHARES = ("user_share", "soft_share", "cpu_share", "messages_per_s", "p50_ns", "p99_ns", "p999_ns")


def values(rounds, side, name):
    return [found[side][name] for found in rounds if side in found and found[side].get(name) is not None]


def spread(numbers):
    """Median, quartiles and extremes; None without numbers."""
    if not numbers:
        return None
    low, _, high = statistics.quantiles(numbers, n=4, method="inclusive") if len(numbers) > 1 else [numbers[0]] * 3
    return {"median": statistics.median(numbers), "low": low, "high": high, "least": min(numbers), "most": max(numbers)}


def ratio(rounds, ours, theirs, name):
    """The median of the ratios within rounds, and its 95 % interval."""
    both = [
        found[ours][name] / found[theirs][name]
        for found in rounds
        if ours in found and theirs in found and found[ours].get(name) and found[theirs].get(name)
    ]
    if not both:
        return None
    if len(both) < ROUNDS_BOOTSTRAP_MIN:
        low, high = min(both), max(both)
    else:
        low, high = pairs.interval(both)
    return {"rounds": len(both), "median": statistics.median(both), "low": low, "high": high}


def target_of(row, side, raws, name):
    """The target of a side, which may differ by value. None for a raw server without a target in the row: its ratio gets no verdict."""
    if side in row.targets:
        target = row.targets[side]
        return target[name] if isinstance(target, dict) else target
    return None if side in raws or side.startswith(OURS) else row.targets.get(ANYONE)


def summary(row, rounds, raws):
    """The values of each side, and the ratio of echoring to each other side."""
    names = list(dict.fromkeys(name for found in rounds for name in found))
    result = {"rounds": len(rounds), "sides": {}, "ratios": []}
    for side in names:
        result["sides"][side] = {
            **{name: spread(values(rounds, side, name)) for name in row.shown},
            **{name: median(values(rounds, side, name)) for name in SHARES if name not in row.shown},
        }
    for ours, targets in ((OURS, None), *row.also):
        for side in names:
            if side == ours or targets is not None and side not in targets:
                continue
            for name in row.shown:
                target = targets[side] if targets is not None else target_of(row, side, raws, name)
                if judged := judge_ratio(row, rounds, ours, side, name, target if name in row.values else None):
                    result["ratios"].append({"of": ours, "to": side, "value": name, **judged})
    result["bounds"] = [bound(spread(values(rounds, OURS, name)), name, most) for name, most in row.bounds.items()]
    result["noise"] = noise(result)
    samples = [sample for found in rounds for sample in found.values()]
    result["samples"] = len(samples)
    result["generator_saturated"] = sum(sample.get("generator_saturated") == 1.0 for sample in samples)
    return result


def judge_ratio(row, rounds, ours, side, name, target):
    """A ratio with its verdict; None if the sides have no round in common."""
    found = ratio(rounds, ours, side, name)
    if not found:
        return None
    verdict = None
    if target:
        verdict = pairs.verdict(found["low"], found["high"], target) if is_enough(row, found) else "undecided"
    return {**found, "target": target, "verdict": verdict}


def is_enough(row, found):
    """Whether a ratio has enough rounds for a verdict."""
    return found["rounds"] >= min(ROUNDS_JUDGED_MIN, row.rounds_max or ROUNDS_JUDGED_MIN)


def joined(row, days):
    """Joins summaries of several days, in order of time, and of several machines per day. Each ratio is from the last day that has
    it, and from the machine with the narrowest interval. Absolute values are from the last day, and from the machine with the least
    noise. None if no ratio has enough rounds."""
    told = {}
    for results in days:
        of_day = {}
        for found in (found for result in results for found in result["ratios"] if is_enough(row, found)):
            key = found["of"], found["to"], found["value"]
            of_day[key] = min(of_day.get(key, found), found, key=lambda one: (one["high"] - one["low"]) / one["median"])
        told.update(of_day)
    by_noise = [
        result for results in reversed(days)
        for result in sorted(results, key=lambda result: math.inf if result["noise"] is None else result["noise"])
    ]
    sides = {}
    for result in reversed(by_noise):
        for side, figures in result["sides"].items():
            sides.setdefault(side, {}).update((name, figure) for name, figure in figures.items() if figure is not None)
    return {**by_noise[0], "sides": sides, "ratios": list(told.values())} if told else None


def bound(told, name, most):
    """The verdict on a bound of one of echoring's values, by its quartiles. What may not happen may not happen once."""
    verdict = pairs.verdict(told["low"] if most else told["most"], told["high"] if most else told["most"], most) if told else "missed"
    return {"value": name, "at_most": most, "median": told and told["median"], "verdict": verdict}


def agreement(result, first, second):
    """For each side: whether two measures of the ratio of echoring to it agree, which means that their intervals overlap."""
    by = {(found["to"], found["value"]): found for found in result["ratios"] if found["of"] == OURS}
    both = [(side, by[side, first], by[side, second]) for side in result["sides"] if (side, first) in by and (side, second) in by]
    return [(side, a, b, a["low"] <= b["high"] and b["low"] <= a["high"]) for side, a, b in both]


def median(numbers):
    return statistics.median(numbers) if numbers else None


def noise(result):
    """The largest distance from 1 of the interval of echoring's ratio to itself, over all values of the row."""
    reach = [max(abs(r["low"] - 1), abs(r["high"] - 1)) for r in result["ratios"] if r["to"] == AGAIN and r["of"] == OURS]
    return max(reach) if reach else None


def geometric_mean(rows, side):
    """The geometric mean of echoring's ratios to a side over several rows, with an interval by bootstrap within each row. None
    unless every row has that side. `rows` are lists of rounds."""
    columns = [
        [
            found[OURS][COST] / found[side][COST]
            for found in rounds
            if OURS in found and side in found
        ]
        for rounds in rows
    ]
    if not columns or not all(columns):
        return None
    found = pairs.compared({"rows": columns})
    low, high, middle = found["ratio_low"], found["ratio_high"], found["ratio"]
    return {
        "to": side, "rows": len(rows), "median": middle, "low": low, "high": high, "target": MEAN_TARGET,
        "verdict": pairs.verdict(low, high, MEAN_TARGET),
    }
