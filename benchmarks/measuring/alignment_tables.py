"""The tables of docs/alignment.md, from what alignment.py measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.running.files import read_json
from benchmarks.running.pages import in_markdown

__all__ = ["tables"]


def tables(folder: Path) -> dict[str, str]:
    """Every table for which there is a file, by its name."""
    makers: dict[str, Callable[[Any], dict[str, str]]] = {
        "planted": lambda rows: {"planted": _planted(rows)},
        "fitted": lambda result: {f"fitted-{name}": _fitted(part) for name, part in result.items()},
        "relu": lambda rows: {"relu": _relu(rows)},
        "small": lambda rows: {"small": _small(rows)},
        "objective": lambda rows: {"objective": _objective(rows)},
        "speed": lambda result: {"alignment-speed": _speed(result)},
    }
    found: dict[str, str] = {}
    for name, make in makers.items():
        path = folder / f"{name}.json"
        if path.exists():
            data = read_json(path, "result", "threads", "load_average")
            threads = "one thread" if data["threads"] == 1 else f"{data['threads']} threads"
            said = f"\nMeasured with {threads}, at a load of {data['load_average'][0]:.1f}.\n"
            found |= {title: text + said for title, text in make(data["result"]).items()}
    return found


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _planted(rows: list[dict[str, Any]]) -> str:
    heads = ["network, planted", "permutation: found", "worst relative distance", "full group: found"]
    heads += ["worst relative distance"]
    return in_markdown(
        heads,
        [
            [
                f"{row['network']}, {row['planted']}",
                _percent(row["plain: found"]),
                f"{row['plain: worst relative distance']:.1e}",
                _percent(row["full: found"]),
                f"{row['full: worst relative distance']:.1e}",
            ]
            for row in rows
        ],
    )


def _fitted(result: dict[str, Any]) -> str:
    heads = ["alignment", "squared distance", "against Git Re-Basin", "mid-point dB, same", "mid-point dB, other"]
    heads += ["ms a pair"]
    rows = []
    for row in result["rows"]:
        change = 1 + row["against plain"]
        rows.append(
            [
                row["alignment"],
                f"{row['squared distance']:.4g}",
                f"x {change:.2f}" if change > 1.1 else f"{100 * (change - 1):+.1f} %",
                f"{row['midpoint dB, same']:.2f}",
                f"{row['midpoint dB, other']:.2f}",
                f"{row['ms per pair']:.2f}" if row["ms per pair"] else "-",
            ]
        )
    counts = [
        f"`{name}` is nearer on {nearer}, as near on {equal} and farther on {farther}"
        for name, (nearer, equal, farther) in result["nearer, equal, farther than Frank-Wolfe"].items()
    ]
    return in_markdown(heads, rows) + (
        f"\n{result['pairs']} pairs, median fit {result['fit psnr']['median']:.1f} dB. Against Frank-Wolfe, "
        f"{'; '.join(counts)}.\n"
    )


def _relu(rows: list[dict[str, Any]]) -> str:
    heads = ["alignment", "plain squared distance", "mid-point dB, same", "mid-point dB, other"]
    heads += ["against permutation, dB", "ms a pair"]
    return in_markdown(
        heads,
        [
            [
                row["alignment"],
                f"{row['squared distance']:.4g}",
                f"{row['midpoint dB, same']:.2f}",
                f"{row['midpoint dB, other']:.2f}",
                f"{row['against permutation']:+.2f} ± {row['standard error']:.2f}"
                if row["alignment"] not in ("none", "permutation")
                else "-",
                f"{row['ms per pair']:.1f}",
            ]
            for row in rows
        ],
    )


def _small(rows: list[dict[str, Any]]) -> str:
    settings = ["default", "three starts", "100 kicks", "300 kicks"]
    return in_markdown(
        ["activation", *settings], [[row["activation"], *(_percent(row[name]) for name in settings)] for row in rows]
    )


def _objective(rows: list[dict[str, Any]]) -> str:
    heads = ["weightaug", "reference order", "pairs", "ours", "reference", "equal", "better", "worse"]
    return in_markdown(
        heads, [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in (row[h] for h in heads)] for row in rows]
    )


def _speed(result: dict[str, list[dict[str, Any]]]) -> str:
    names = {"siren": "standard SIREN", "authors": "authors' convention"}
    heads = ["method"]
    for convention in result:
        heads += [f"{names[convention]}: pairs/s", "ratio"]
    rows = []
    for lines in zip(*result.values(), strict=True):
        rows.append([lines[0]["method"]])
        for line in lines:
            rows[-1] += [f"{line['pairs/s']:,.0f}", f"{line['ratio']:.1f}"]
    visits = ", ".join(f"{lines[0]['assignments per pair']:.1f} on {names[c]}" for c, lines in result.items())
    return in_markdown(heads, rows) + f"\nAssignments that the reference solves for a pair: {visits}.\n"
