"""Makes the paper's Table 1: `python benchmarks/table1.py`, or `--help` for what can be chosen.

Fits implicit networks to images, trains a classifier of networks under every augmentation, and prints the
test accuracies beside the paper's. Run it again to go on after an interruption.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `benchmarks` is a package

from benchmarks.data import quality
from benchmarks.data.sdf import short_hash
from benchmarks.data.settings import DatasetName
from benchmarks.data.sources import source
from benchmarks.data.store import Part, described, load_networks, parts_of, plain
from benchmarks.running.commands import command, device, expect, parsed, writable
from benchmarks.running.executor import Executor, Job, JobsFailed
from benchmarks.running.files import read_json, write_json
from benchmarks.running.on_ray import RayExecutor
from benchmarks.running.pages import in_markdown
from benchmarks.table import report
from benchmarks.table.cell import Cell
from benchmarks.table.notes import refuse_mixed
from benchmarks.table.rows import ROWS
from benchmarks.table.settings import PRESETS as PLAIN
from benchmarks.table.settings import Settings
from benchmarks.table.study import STUDY
from benchmarks.table.training import split_sizes

JobType = TypeVar("JobType", bound=Job)

PRESETS = PLAIN | STUDY


def parse(arguments: list[str] | None = None) -> Settings:
    """Settings from the command line: those of a preset, and what is said otherwise."""
    # The preset decides the defaults of everything else, so it is looked at first.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=sorted(PRESETS), default="quick")
    preset = first.parse_known_args(arguments)[0].preset
    return parsed(Settings, arguments, __doc__, PRESETS[preset])


def fitting_jobs(settings: Settings) -> list[Part]:
    """One job for every part of every view of every data set."""
    return [
        part
        for seed in (settings.seeds if settings.redraw else (0,))
        for dataset in settings.datasets
        for view in range(settings.all_views)
        for split in parts_of(
            dataset,
            view,
            settings.fit_of(dataset, seed),
            settings.output / "inrs",
            settings.data_dir,
            settings.device,
        )
        for part in split
    ]


def training_jobs(settings: Settings) -> list[Cell]:
    """One job for every cell, seed by seed, so that an unfinished run has whole tables."""
    pool_views = settings.all_views if settings.mixup_pool == "all" else None
    return [
        Cell(
            dataset=dataset,
            model=model,
            row=row,
            views=views,
            seed=seed,
            fit=settings.fit_of(dataset, seed),
            model_settings=settings.model_of(model),
            train=settings.train_of(dataset, model, views, seed),
            folder=settings.output,
            pool_views=pool_views if ROWS[row].mixes else None,
            # Partners from all views have been seen.
            fresh_view=views if settings.all_views > views and settings.mixup_pool == "views" else None,
            redraw=settings.redraw,
            device=settings.device,
            data_dir=settings.data_dir,
        )
        for seed in settings.seeds
        for dataset in settings.datasets
        for model in settings.models
        for views in settings.views
        for row in settings.rows_of(model)
    ]


def network_statistics(settings: Settings, dataset: DatasetName) -> dict[str, Any] | None:
    """Statistics of the fitted networks, from a file beside the results where they were taken before.

    Returns:
        The statistics, or None if not all networks are there.
    """
    settings = replace(settings, seeds=settings.seeds[:1]) if settings.redraw else settings  # of the first seed
    parts = [part for part in fitting_jobs(settings) if part.dataset == dataset]
    covered = {"parts": [part.settings | {"images": [part.first, part.last]} for part in parts]}
    path = settings.output / "statistics" / f"{dataset}-{short_hash(covered)}.json"
    if path.exists():
        known = read_json(path, "statistics")["statistics"]
        quality.check(known, path)
        return known
    if not all(part.done for part in parts):
        return None
    fit = settings.fit_of(dataset, settings.seeds[0])
    views = settings.all_views
    networks = load_networks(dataset, views, fit, settings.output / "inrs", settings.data_dir)
    statistics = quality.statistics_of(networks)
    write_json(path, {"dataset": dataset, "views": views, "fit": plain(described(fit)), "statistics": statistics})
    return statistics


def make_report(settings: Settings) -> None:
    """Prints the tables of what is there, and writes them."""
    if settings.recorded:
        tables, known, path = report.recorded(settings.output), {}, settings.output / "report"
    else:
        tables, path = report.columns(training_jobs(settings)), settings.output / f"table1-{settings.preset}"
        taken = {dataset: network_statistics(settings, dataset) for dataset in settings.datasets}
        known = {dataset: statistics for dataset, statistics in taken.items() if statistics is not None}
    if settings.one_version:
        refuse_mixed(tables)
    preface = "".join(f"{quality.table(dataset, statistics)}\n\n" for dataset, statistics in known.items())
    print("\n" + report.write(tables, path, preface))
    for dataset, statistics in known.items():
        for warning in quality.warnings(dataset, statistics):
            print(warning)
    print(f"Tables: {path}.md, .tex and .csv")


def make_plan(settings: Settings) -> str:
    """What is to be done, what is done, and how long the rest may take on this machine.

    Times are those of the finished fits of the same data set, and of the finished cells of the same data set, model and
    number of views; where there are none, run one first.
    """
    parts, cells = fitting_jobs(settings), training_jobs(settings)
    lines = []
    left = 0.0
    for dataset in settings.datasets:
        of_dataset = [part for part in parts if part.dataset == dataset]
        done = sum(part.last - part.first for part in of_dataset if part.done)
        count = sum(part.last - part.first for part in of_dataset)
        timed = [(part.last - part.first, seconds) for part in of_dataset if (seconds := part.took) is not None]
        each = sum(seconds for _, seconds in timed) / sum(size for size, _ in timed) if timed else math.nan
        seconds = (count - done) * each if done < count else 0.0
        left += seconds
        lines.append([f"fits of {dataset}, networks", str(count), str(done), _minutes(seconds)])
    for dataset, model, views in dict.fromkeys((c.dataset, c.model, c.views) for c in cells):
        own = [c for c in cells if (c.dataset, c.model, c.views) == (dataset, model, views)]
        records = [record for cell in own if (record := report.read(cell)) is not None]
        waiting, took = len(own) - len(records), [r["processor_seconds"] for r in records if "processor_seconds" in r]
        seconds = waiting * sum(took) / len(took) if took else math.nan if waiting else 0.0
        left += seconds
        name = f"{dataset}, {model}, {views} view{'s' * (views > 1)}"
        lines.append([name, str(len(own)), str(len(records)), _minutes(seconds)])
    text = in_markdown(["jobs", "all", "done", "processor time left"], lines)
    if math.isfinite(left):
        hours = left / 3600 / settings.workers
        text += f"\n{left / 3600:.1f} processor hours left, {hours:.1f} hours with {settings.workers} workers\n"
    return text.rstrip("\n")


def _minutes(seconds: float) -> str:
    return "not known: run one" if math.isnan(seconds) else f"{seconds / 60:.0f} min"


def of_part(jobs: Sequence[JobType], settings: Settings) -> list[JobType]:
    """The jobs of this machine, where several share the work."""
    first, count = settings.part
    return list(jobs[first::count])


def check(settings: Settings) -> None:
    """Finds what would end the run later, before there is any work to lose.

    Raises:
        OSError: If the output folder cannot be written to, or data are missing.
        ValueError: If a setting does not fit the machine or the data, or an earlier result is damaged.
        ImportError: If a package is missing.
    """
    writable(settings.output)
    if settings.executor != "ray":  # a cluster has other machines
        device("device", settings.device)
    if settings.recorded:
        expect("steps", " ".join(settings.steps), settings.steps == ("report",), "report alone with --recorded")
        return
    for cell in training_jobs(settings):
        report.read(cell)
    if "fit" in settings.steps:
        for dataset in {part.dataset for part in fitting_jobs(settings) if not part.done}:
            # Here, so that workers neither download at once nor fail one by one.
            source(dataset, settings.data_dir).check()
    if "train" in settings.steps:
        for dataset in settings.datasets:
            chosen = [len(some) for some in source(dataset, settings.data_dir).chosen(settings.fit_of(dataset))]
            sizes = chosen if len(chosen) == 3 else split_sizes(chosen[0], settings.train)
            for what, size in zip(("train", "validate", "test"), sizes, strict=True):
                expect(f"{dataset}: the number of networks to {what} on", size, size > 0, "at least 1")
            most = sizes[0] * min(settings.views)
            expect(
                "train.batch", settings.train.batch, settings.train.batch <= most, f"at most {most}, all of {dataset}"
            )


def run_jobs(settings: Settings) -> None:
    """Fits and trains what is missing.

    Raises:
        JobsFailed: If a job raised; the others are kept.
    """
    parts, cells = of_part(fitting_jobs(settings), settings), of_part(training_jobs(settings), settings)
    started = time.perf_counter()
    with make_executor(settings) as executor:
        if "fit" in settings.steps:
            sizes = [part.last - part.first for part in parts]
            fitted = executor.run(parts, sizes, name="fitting", unit="network")
            print(f"{fitted} parts of networks fitted in {time.perf_counter() - started:.0f} s", flush=True)
        if "train" in settings.steps:
            started = time.perf_counter()
            print(f"{len(cells)} cells, {sum(cell.done for cell in cells)} of them from earlier runs", flush=True)
            epochs = [cell.train.epochs for cell in cells]
            trained = executor.run(cells, epochs, name="training", unit="epoch")
            print(f"{trained} cells trained in {time.perf_counter() - started:.0f} s", flush=True)


def make_executor(settings: Settings) -> Executor | RayExecutor:
    """What runs the jobs."""
    if settings.executor == "ray":
        return RayExecutor(settings.workers, address=settings.ray_address, gpus_per_job=settings.gpus_per_job)
    return Executor(1 if settings.executor == "serial" else settings.workers)


def main(arguments: list[str] | None = None) -> None:
    """Fits, trains, and prints the table."""
    with command(JobsFailed):
        settings = parse(arguments)
        started = time.perf_counter()
        print(f"results in {settings.output}", flush=True)
        check(settings)
        try:
            if "plan" in settings.steps:
                print(make_plan(settings))
            if {"fit", "train"} & set(settings.steps):
                run_jobs(settings)
            if "report" in settings.steps:
                make_report(settings)
        except KeyboardInterrupt:
            cells = training_jobs(settings)
            finished = sum(cell.done for cell in cells)
            text = f"\ninterrupted with {finished} of {len(cells)} cells; the same command goes on"
            raise SystemExit(text) from None
        print(f"Time: {time.perf_counter() - started:.0f} s with {settings.workers} workers")


if __name__ == "__main__":
    main()
