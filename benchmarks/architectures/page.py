"""What was measured, as Markdown tables and as figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.architectures.reading import AUGMENTATIONS, NONE
from benchmarks.running.files import read_json
from benchmarks.running.pages import in_markdown

__all__ = ["draw", "draw_barriers", "draw_taus", "table_of"]

Results = dict[str, Any]
COLOURS = {"as trained": "#b2182b", "aligned": "#2166ac"}


def table_of(results: Results) -> str:
    """The Markdown table of one file of results, by the part that has made it."""
    return _TABLES[results["part"]](results)


def _interval(pair: Sequence[float], digits: int, factor: float = 1.0) -> str:
    return f"{factor * pair[0]:.{digits}f} ± {factor * pair[1]:.{digits}f}"


def _zoo(results: Results) -> str:
    shares = ("0", "0.25", "0.5", "0.75", "1")
    head = [
        "networks",
        "number",
        "numbers each",
        "least, %",
        "quarter",
        "median",
        "three quarters",
        "most",
        "s to train",
    ]
    rows = [
        [name, f"{f['networks']:,}", f"{f['numbers']:,}"]
        + [f"{100 * f['test_accuracy_at_quantiles'][q]:.1f}" for q in shares]
        + [f"{f['processor_seconds']:.0f}"]
        for name, f in results["families"].items()
    ]
    return in_markdown(head, rows)


def _barriers(results: Results) -> str:
    rows = [
        [name, way, _interval(found["loss_barrier"], 2), _interval(found["accuracy_barrier"], 1, 100)]
        for name, family in results["families"].items()
        for way, found in family["ways"].items()
    ]
    return in_markdown(["networks", "the other network", "barrier of test loss", "of test accuracy, points"], rows, 2)


def _accuracy(results: Results) -> str:
    rows = []
    for group in results["groups"]:
        for name, row in group["rows"].items():
            difference = "" if name == NONE else f"{row['difference'][0]:+.3f} ± {row['difference'][1]:.3f}"
            mean = _interval(row["mean"], 3)
            rows.append([group["family"], group["reader"], name, mean, difference, row.get("verdict", "")])
    return in_markdown(
        ["networks", "reader", "augmentation", "Kendall's tau", "difference to none", "verdict"], rows, 3
    )


def _lora(results: Results) -> str:
    head = [
        "dtype, gauge",
        "products, median",
        "products, largest",
        "canonical forms, median",
        "largest",
        "factors, median",
    ]
    rows = [
        [name]
        + [f"{g[key][q]:.1e}" for key in ("products", "canonical_forms") for q in ("0.5", "1")]
        + [f"{g['factors']['0.5']:.1f}"]
        for name, g in results["gauges"].items()
    ]
    return in_markdown(head, rows)


def _planted(results: Results) -> str:
    rows = [
        [
            name,
            f"{case['parameters']:,}",
            f"{case['spaces']}",
            f"{100 * case['mean_share_of_numbers_moved']:.1f}",
            f"{case['exact']} of {case['seeds']}",
            f"{case['processor_seconds']:.2f}",
        ]
        for name, case in results["cases"].items()
    ]
    return in_markdown(["planted in", "numbers", "spaces", "% moved", "exactly found", "s"], rows)


def _derivation(results: Results) -> str:
    head = ["module", "parameters", "covered, %", "tensors", "spaces", "that move by themselves", "with maps"]
    head += ["s to derive", "s with the check", "s for the canonical form", "two places of an orbit apart"]
    rows = [
        [
            name,
            f"{found['parameters']:,}",
            f"{100 * found['covered']:.1f}",
            *(f"{found[key]}" for key in ("tensors", "spaces", "permutations", "linear")),
            *(f"{found[key]:.1f}" for key in ("processor_seconds", "processor_seconds_with_check")),
            f"{found['canonical_seconds']:.1f}" if "canonical_seconds" in found else "",
            f"{found['canonical_gap']:.0e}" if "canonical_gap" in found else "",
        ]
        for name, found in results["modules"].items()
    ]
    return in_markdown(head, rows)


def _speed(results: Results) -> str:
    rows = []
    for name, row in results["ratios"].items():
        ours, other = row["weightaug_seconds"], row["other_seconds"]
        clones = "pairs" not in row
        ratio = f"{ours / other:.1f} clones" if clones else f"{other / ours:.1f} times as fast"
        closer = "" if clones else f"{100 * (row['mean_gain_over_loop'] - 1):+.1f} %"
        bound = f"{other / row['products_seconds']:.1f}" if "products_seconds" in row else ""
        rows.append([name, f"{ours:.3f}", f"{other:.3f}", ratio, bound, closer])
    heads = [
        "work",
        "weightaug, s",
        "clones or loop, s",
        "ratio",
        "products alone",
        "gain of closeness over the loop's",
    ]
    return in_markdown(heads, rows)


_TABLES: dict[str, Callable[[Results], str]] = {
    "train": _zoo,
    "barriers": _barriers,
    "accuracy": _accuracy,
    "lora": _lora,
    "planted": _planted,
    "derive": _derivation,
    "speed": _speed,
}


# -- figures -----------------------------------------------------------------------------------------------


def draw_barriers(axes: Any, results: Results, family: str, key: str) -> None:
    """Draws the test loss or accuracy along the line between two networks, before and after alignment.

    Args:
        axes: Where.
        results: What ``zoo.py barriers`` has written.
        family: Name of the networks.
        key: ``"loss"`` or ``"accuracy"``.
    """
    positions = results["positions"]
    for way, found in results["families"][family]["ways"].items():
        curve = found[f"{key}_curve"]
        mean, half = [c[0] for c in curve], [c[1] for c in curve]
        colour = COLOURS[way.split(",")[0]]
        renewed = "," in way
        axes.plot(positions, mean, color=colour, linestyle="--" if renewed else "-", label=way, linewidth=1.6)
        low, high = ([m + sign * h for m, h in zip(mean, half, strict=True)] for sign in (-1, 1))
        axes.fill_between(positions, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xlim(0, 1)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)


def draw_taus(axes: Any, results: Results) -> None:
    """Draws Kendall's tau with its 95 % interval, a row for each kind of networks and reader."""
    colours = dict(zip(AUGMENTATIONS, ("0.3", "#2166ac", "#e08214", "#1b7837"), strict=True))
    groups = results["groups"]
    for g, group in enumerate(groups):
        for i, (name, row) in enumerate(group["rows"].items()):
            mean, half = row["mean"]
            y = len(groups) - 1 - g + 0.18 * (1.5 - i)
            axes.errorbar(mean, y, xerr=half, color=colours[name], marker="o", markersize=4, capsize=2, linewidth=1)
            if g == 0:
                axes.plot([], [], color=colours[name], marker="o", markersize=4, label=name)
    labels = [f"{group['family']},\n{group['reader']}" for group in reversed(groups)]
    axes.set_yticks(range(len(groups)), labels)
    axes.set_xlabel("Kendall's tau of predicted and measured test accuracy")
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)


def draw(out: Path, folder: Path) -> list[Path]:
    """Draws the figures of the page from the results in a folder.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    written = []
    barriers = read_json(out / "barriers.json", "families")
    names = list(barriers["families"])
    figure = Figure(figsize=(2.9 * len(names), 5.4), layout="constrained")
    panels = figure.subplots(2, len(names), sharex=True, sharey="row")
    for column, name in enumerate(names):
        for row, key in enumerate(("loss", "accuracy")):
            draw_barriers(panels[row][column], barriers, name, key)
        panels[0][column].set_title(name.replace(", ", ",\n"), fontsize=10)
        panels[1][column].set_xlabel("from one network to the other")
    panels[0][0].set_ylabel("test loss")
    panels[1][0].set_ylabel("test accuracy")
    handles, labels = max((p.get_legend_handles_labels() for p in panels[0]), key=lambda found: len(found[1]))
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), len(names)), frameon=False)
    written.append(folder / "architectures-barriers.png")
    figure.savefig(written[-1], dpi=130)

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    draw_taus(axes, read_json(out / "accuracy.json", "groups"))
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    written.append(folder / "architectures-accuracy.png")
    figure.savefig(written[-1], dpi=130)
    return written
