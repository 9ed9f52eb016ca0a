"""What stands below the tables: what their figures mean, how large models and data are, and which code made them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.table.rows import BASELINE, ROWS
from benchmarks.table.statistics import FEWEST, LEVEL

if TYPE_CHECKING:
    from benchmarks.table.report import Column

MIXING = frozenset(name for name, row in ROWS.items() if row.mixes)


def notes(tables: Sequence[Column]) -> str:
    """What the tables mean, and what they are made of."""
    return "\n\n".join([*meaning(fresh=_has_fresh(tables)), *made_of(tables)])


def meaning(*, fresh: bool) -> list[str]:
    """How accuracies, intervals and verdicts are made; with ``fresh``, also of networks fitted anew."""
    lines = [
        "Accuracy: test accuracy in percent at the epoch of the best validation accuracy, mean ± standard deviation "
        "over the seeds; last epoch: after the last one. 95 % interval: of the mean, by Student's t. Difference: to no "
        "augmentation, paired by seed (same initial weights and order of networks), ± half of its 95 % interval by "
        "Student's t; bootstrap: its 95 % interval from resampled seeds. p: of the paired t-test, after Holm's "
        f"correction over the rows of the table. Verdict: helps or harms where that p is below {LEVEL:g}, else "
        f"undecided; rows of fewer than {FEWEST} seeds are not tested."
    ]
    if fresh:
        lines.append(
            "New views of training samples: accuracy, after the last epoch, on networks that were fitted anew, from "
            "other initial weights, to samples that were trained on; own networks: the same on those that were trained "
            "on. What is lost from these to new views is lost to new networks, and from there to the last epoch's test "
            "accuracy to new samples."
        )
    lines.append(
        "The paper's columns are its figures for Fashion-MNIST (55,000 training images) beside images and for "
        "ModelNet40 (12,311 shapes of 40 classes) beside shapes, over 3 seeds: with another number of "
        "samples, another model size or another data set they are not to be compared."
    )
    return lines


def made_of(tables: Sequence[Column]) -> list[str]:
    """What some tables are made of: seeds, what these vary, partners of mixing, sizes, and versions of the code."""
    records = [record for column in tables for record in column.records]
    seeds = sorted({record["settings"]["seed"] for record in records})
    lines = [f"Seeds: {', '.join(map(str, seeds))}. {_coverage(records)}"]
    pools = {r["settings"].get("pool_views") for r in records if r["settings"]["row"] in MIXING}
    if pools:
        partners = [
            f"the networks that are augmented at once{_at_most(records)}"
            if pool is None
            else f"the training images' networks of {pool} view{'s' * (pool > 1)}"
            for pool in sorted(pools, key=lambda pool: pool or 0)
        ]
        lines.append(f"MixUp takes partners from {' or '.join(partners)}.")
    lines += [line for column in tables if (line := _note(column))]
    if versions := mixed_versions(records):
        lines.append(f"**These results were made by different code**: {versions}.")
    return lines


def _at_most(records: Sequence[dict[str, Any]]) -> str:
    """How many networks are augmented at once, where all results say the same."""
    trains = [record["settings"].get("train", {}) for record in records]
    counts = {train["augment_batch"] // train["batch"] * train["batch"] for train in trains if "augment_batch" in train}
    return f" ({max(counts):,} at most)" if len(counts) == 1 and min(counts) > 0 else ""


def _has_fresh(tables: Sequence[Column]) -> bool:
    return any("fresh_accuracy" in record for column in tables for record in column.records)


def _coverage(records: Sequence[dict[str, Any]]) -> str:
    """What the intervals cover."""
    redrawn = {bool(r["settings"].get("redraw")) for r in records}
    texts = []
    if False in redrawn:
        texts.append(
            "They vary initial weights, the order of the networks and the augmentation, which is what the intervals "
            "cover. The split of the samples and the fitted networks are the same for all, so what others would give "
            "is not in the intervals."
        )
    if True in redrawn:
        texts.append(
            "Where every seed has samples, split and fits of its own (redraw), the intervals cover these, too."
            if False in redrawn
            else "They vary samples, split, fits, initial weights, order and augmentation, which the intervals cover."
        )
    return " ".join(texts)


def _note(column: Column) -> str:
    """How large one table's model and data are."""
    finished = [record for record in column.records if record["status"] == "finished"]
    if not finished:
        return ""
    counts, hours = finished[0]["networks"], sum(r.get("processor_seconds", 0.0) for r in column.records) / 3600
    chance = 100 / finished[0]["classes"]
    size = f"{finished[0].get('parameters', 0):,} parameters"
    if "flops" in finished[0]:
        size += f", {finished[0]['flops'] / 1e6:.1f} million operations a network"
    line = (
        f"{column.title}: {counts['train']} networks to train, {counts['validation']} to validate, {counts['test']} to "
        f"test (one test network is {100 / counts['test']:.2f} points), {size}, {hours:.1f} processor hours; chance is "
        f"{chance:.1f}"
    )
    plain = column.rows[BASELINE].interval if BASELINE in column.rows else None
    if plain is not None:
        line += f", no augmentation {plain.mean - chance:+.1f} points from it"
    return line + "."


def mixed_versions(records: Sequence[dict[str, Any]]) -> str:
    """Which parts of the code differ among results, and where; empty if all were made by the same."""
    known = [record.get("fingerprint") for record in records]
    if len({json.dumps(print_, sort_keys=True) for print_ in known}) <= 1:
        return ""
    without = sum(print_ is None for print_ in known)
    parts = sorted({part for print_ in known if print_ for part in print_})
    told = []
    for part in parts:
        versions = {print_[part] for print_ in known if print_ and part in print_}
        if len(versions) > 1:
            told.append(f"{part} in {len(versions)} versions")
    if without:
        told.append(f"{without} of {len(known)} results do not say by which")
    return ", ".join(told)


def refuse_mixed(tables: Sequence[Column]) -> None:
    """Makes sure that all results were made by the same code.

    Raises:
        ValueError: If they were not; it says what differs.
    """
    if versions := mixed_versions([record for column in tables for record in column.records]):
        raise ValueError(
            f"results of different code in one report: {versions}; delete the older ones, and they are made again, or "
            "leave out --one-version"
        )
