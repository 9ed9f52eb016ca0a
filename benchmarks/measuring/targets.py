"""What speed.py measured as Markdown: each goal with what was reached, then all the figures.

The goals hold for 2-32-32-1 SIRENs in batches of 512 with the allocator's thresholds raised, and in batches of
64 without.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from benchmarks.running.pages import in_markdown

CASES = (("raised", 512), ("default", 64))
EXACT = ("SirenNegation", "SirenBias", "Permute", "ReLUScale", "Rotate", "Translate", "Scale", "Mixup")
WHOLE = {"SirenNegation": 6, "SirenBias": 6, "Permute": 8, "ReLUScale": 6, "Mixup": 6}  # clones; touch every parameter
PER_NEURON = ("SirenNegation", "SirenBias", "Permute", "ReLUScale")
LEAST_SPEEDUP = {"GaussianNoise": 8, "Dropout": 8, "QuantileDropout": 30} | {
    "AlignedMixup, permutation": 8,
    "AlignedMixup, full group": 4,
}


class Goal(NamedTuple):
    """One goal: what, in which case, what was wanted and what came."""

    what: str
    case: str
    wanted: str
    got: str
    reached: bool


def at_least(what: str, case: str, limit: float, value: float, unit: str = "x", scale: float = 1) -> Goal:
    """A goal for a number that should be large."""
    return Goal(what, case, f">= {limit * scale:g} {unit}", f"{value * scale:.3g} {unit}", value >= limit)


def at_most(what: str, case: str, limit: float, value: float, unit: str = "x", scale: float = 1) -> Goal:
    """A goal for a number that should be small."""
    return Goal(what, case, f"<= {limit * scale:g} {unit}", f"{value * scale:.3g} {unit}", value <= limit)


def goals(results: dict[str, Any]) -> list[Goal]:
    """All goals for which something was measured."""
    figures = {(f["allocator"], f["batch"], f["work"]): f for f in results.get("figures", [])}
    found: list[Goal] = []
    for allocator, batch in CASES:
        case = f"batch {batch}, {allocator}"
        for name in (*EXACT, *LEAST_SPEEDUP):
            if figure := figures.get((allocator, batch, name)):
                limit: float = LEAST_SPEEDUP.get(name, 30 if batch == 512 else 15)
                found.append(at_least(f"{name}: the loop's time", case, limit, figure["loop"] / figure["ours"]))
                if name in WHOLE:
                    found.append(
                        at_most(f"{name}: a clone's time", case, WHOLE[name], figure["ours"] / figure["clone"])
                    )
                if figure["draw"]:
                    found.append(at_most(f"{name}: the draw's time", case, 1.3, figure["ours"] / figure["draw"]))
        if figure := figures.get((allocator, batch, "Compose of five")):
            share = figure["ours"] / figure["parts"]
            found.append(at_most("Compose of five: the sum of its parts", case, 1.1, share))
            if figure["compiled"]:
                share = figure["compiled"] / figure["eager_apply"]
                found.append(at_most("Compose of five: compiled against eager", case, 1, share))
    cuda = [f for f in figures.values() if f["batch"] == 65536 and f["work"] in PER_NEURON]
    rate = min((c["copy_gb_s"] for c in results.get("conditions", {}).values()), default=0.0)
    for figure in cuda:
        copied = 2 * 4 * 1185 * figure["batch"] / rate / 1e3  # us
        found.append(
            at_least(f"{figure['work']}: copy bandwidth", "batch 65536", 0.5, copied / figure["ours"], "%", 100)
        )
    numbers: dict[str, float] = {}
    for line in results.get("training", []):
        for key, value in line["numbers"].items():
            numbers[key] = max(value, numbers.get(key, 0))  # of several pipelines, the dearest
    for key, what, most, large in (
        ("pipeline of a step", "any pipeline without alignment: share of a DWS 4 x 128 step", 0.01, False),
        ("aligned of a step", "AlignedMixup, permutation: share of that step", 0.05, False),
        ("aligned full of a step", "AlignedMixup, full group: share of that step", 0.05, False),
        ("fitting share", "fitting: share of products and sines", 0.6, True),
        ("dws share", "DWS 4 x 128 step: share of its products", 0.19, True),
        ("transformer share", "Relation Transformer step: share of its products", 0.4, True),
        ("transformer share on one thread", "the same on one thread, as table1.py's workers run it", 0.4, True),
    ):
        if key in numbers:
            goal = at_least if large else at_most
            found.append(goal(what, "batch 64" if "step" in key else "", most, numbers[key], "%", 100))
    for key, what, limit in (
        ("fitting speedup", "fitting: one network at a time", 10),
        ("fitting speedup on one thread", "fitting on one thread: one network at a time", 5),
        ("ds speedup", 'DWS 4 x 128, "ds": block by block', 5),
        ("ds speedup on one thread", 'DWS 4 x 128, "ds", on one thread: block by block', 5),
        ("sab speedup", 'DWS 4 x 128, "sab": block by block', 3),
        ("sab speedup on one thread", 'DWS 4 x 128, "sab", on one thread: block by block', 3),
        ("dws bf16 speedup", "DWS 4 x 128 step in bfloat16: float32", 3),
        *((key, f"{key.removeprefix('stacked ')}: seeds at once", 1.5) for key in numbers if key.startswith("stacked")),
    ):
        if key in numbers:
            found.append(at_least(what, "", limit, numbers[key]))
    for name, value in results.get("memory", {}).items():
        found.append(at_most(f"{name}: peak memory", "batch 16384", 3, value, "x the batch"))
    if loading := results.get("loading"):
        value = loading["private_mb_before_the_first_batch"]
        found.append(at_most(f"opening {loading['networks']:,} networks: private memory", "", 100, value, "MB"))
    return found


def singles_table(lines: list[dict[str, Any]]) -> str:
    """Plain code for one network against ours, without and with the conversion from its layout and back."""
    heads = ["work", "plain, us", "ours, us", "with conversion, us", "x plain", "with conversion"]
    rows = []
    for line in lines:
        ours, both, plain = line["ours"], line["converted"], line["plain"]
        rows.append([line["work"], f"{plain:.1f}", f"{ours:.1f}", f"{both:.1f}" if both else "-"])
        rows[-1] += [f"{plain / ours:.2f} x", f"{plain / both:.2f} x" if both else "-"]
    return in_markdown(heads, rows)


def busy_table(lines: list[dict[str, Any]]) -> str:
    """SirenNegation alone and beside other processes, by what is set."""
    rows = [
        [f"{line['setting']}, batch {line['batch']}", f"{line['alone']:,.0f}", f"{line['beside']:,.0f}"]
        for line in lines
    ]
    return in_markdown(["SirenNegation, us a batch", "alone", "beside as many busy processes as cores"], rows)


def growth_table(growth: dict[str, Any]) -> str:
    """The exponents with which times grow, and the times of the first and the last point of each curve."""
    from benchmarks.measuring.growth import FITTED_FROM, exponents

    rows = []
    for panel, lines in exponents(growth).items():
        for name, power in lines.items():
            (first, least), (last, most) = growth[panel][name][0], growth[panel][name][-1]
            long = f"{most / 1e6:.2g} s" if most > 1e6 else f"{most / 1000:,.3g} ms"
            times = f"{least:,.0f} us at {first:g}", f"{long} at {last:g}"
            rows.append([f"{panel}: {name}", f"{power:.2f} from {FITTED_FROM[panel]:g} on", *times])
    return in_markdown(["against", "exponent", "least", "most"], rows)


def page_tables(results: dict[str, Any]) -> dict[str, str]:
    """The tables of docs/speed.md, by name: those for which something was measured."""
    machine = results["machine"]
    found = {
        "machine": f"{machine['machine']}, {machine['threads']} threads, torch {machine['torch']}, NumPy "
        f"{machine['numpy']}, numba {machine['numba']}. What it gave while each section was measured:\n\n"
        + conditions_table(results.get("conditions", {}))
    }
    by_transform: dict[str, dict[tuple[str, str], Goal]] = {}
    rest, peaks = [], []
    for goal in goals(results):
        name, _, yardstick = goal.what.partition(": ")
        if yardstick.endswith("'s time"):
            by_transform.setdefault(name, {})[yardstick.split()[-2], goal.case] = goal
        elif yardstick == "peak memory":
            peaks.append(goal)
        else:
            rest.append(goal)
    if peaks:  # the largest one says it for all
        rest.append(max(peaks, key=lambda goal: float(goal.got.split()[0])))
    cases = [f"batch {batch}, {allocator}" for allocator, batch in CASES]
    rows = []
    for name, own in by_transform.items():
        row = [name]
        for kinds in (("loop's",), ("clone's", "draw's")):
            kind = next((kind for kind in kinds if (kind, cases[0]) in own or (kind, cases[1]) in own), kinds[0])
            pair = [own.get((kind, case)) for case in cases]
            wanted = list(dict.fromkeys(goal.wanted.removesuffix(" x") for goal in pair if goal))
            unit = {"loop's": "", "clone's": " clones", "draw's": " draws"}[kind]
            row.append(" / ".join(wanted) + unit if wanted else "-")
            row += [_marked(goal) if goal else "-" for goal in pair]
        rows.append(row)
    heads = ["transform", "times the loop, 512 / 64", "512", "64", "clones or draws", "512", "64"]
    found["transforms"] = in_markdown(heads, rows)
    lines = [[goal.what + (f" ({goal.case})" if goal.case else ""), goal.wanted, _marked(goal)] for goal in rest]
    found["other"] = in_markdown(["work", "wanted", "got"], lines)
    for name, make in (("singles", singles_table), ("busy", busy_table), ("growth", growth_table)):
        if name in results:
            found[name] = make(results[name])
    return found


def _marked(goal: Goal) -> str:
    return goal.got if goal.reached else f"**{goal.got}**"


def conditions_table(conditions: dict[str, dict[str, float]]) -> str:
    """What the machine gave while each section was measured."""
    rows = [[name, *(f"{value:.3g}" for value in c.values())] for name, c in conditions.items()]
    return in_markdown(["measured beside", "load", "copy GB/s", "products GFLOP/s", "sines G/s"], rows)


def report(results: dict[str, Any]) -> str:
    """Everything as Markdown."""
    text = "Machine: " + ", ".join(f"{name} {value}" for name, value in results["machine"].items()) + "\n\n"
    text += conditions_table(results.get("conditions", {}))
    found = goals(results)
    reached = sum(goal.reached for goal in found)
    text += f"\n## Goals: {reached} of {len(found)} reached\n\n"
    text += in_markdown(
        ["goal", "case", "wanted", "got", "reached"], [[*g[:4], "yes" if g.reached else "**no**"] for g in found]
    )
    if figures := results.get("figures"):
        text += "\n## Transforms\n\n" + in_markdown(
            ["work", "allocator", "batch", "us", "networks/s", "loop", "of a clone", "of the draw", "other"],
            [_row(f) for f in figures],
        )
    if lines := results.get("singles"):
        text += "\n## One network per call, one thread, processor time\n\n" + singles_table(lines)
    if lines := results.get("busy"):
        text += "\n## Beside other processes\n\n" + busy_table(lines)
    if lines := results.get("training"):
        rows = [[line["what"], line["rate"], line["comparison"]] for line in lines]
        text += "\n## Training\n\n" + in_markdown(["work", "rate", "compared"], rows)
    if memory := results.get("memory"):
        rows = [[name, f"{value:.2f}"] for name, value in memory.items()]
        text += "\n## Peak memory beside a batch of 16,384, in batches\n\n" + in_markdown(
            ["transform", "batches"], rows
        )
    if loading := results.get("loading"):
        rows = [[name.replace("_", " "), f"{value:,.4g}"] for name, value in loading.items()]
        text += "\n## Opening a large data set\n\n" + in_markdown(["what", "value"], rows)
    if growth := results.get("growth"):
        text += "\n## Growth\n\n" + growth_table(growth)
    return text


def _row(figure: dict[str, Any]) -> list[str]:
    ours, other = figure["ours"], []
    if figure["parts"]:
        other.append(f"{ours / figure['parts']:.2f} of its parts")
    if figure["compiled"]:
        other.append(f"apply {figure['eager_apply']:.0f} us, compiled {figure['compiled']:.0f} us")
    return [
        figure["work"],
        figure["allocator"],
        str(figure["batch"]),
        f"{ours:.0f}",
        f"{figure['batch'] / ours * 1e6:,.0f}",
        f"{figure['loop'] / ours:.1f} x" if figure["loop"] else "-",
        f"{ours / figure['clone']:.1f}",
        f"{ours / figure['draw']:.2f}" if figure["draw"] else "-",
        "; ".join(other) or "-",
    ]
