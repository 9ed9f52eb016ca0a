"""Makes the paper's Table 1: `python benchmarks/table1.py`, or `--help` for what can be chosen.

Fits implicit networks to images, trains a classifier of networks under every augmentation, and prints the
test accuracies beside the paper's. Run it again to go on after an interruption.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `benchmarks` is a package

from benchmarks import report
from benchmarks.data.images import source
from benchmarks.data.store import Part, images_of, load_networks, parts_of
from benchmarks.run import Executor, JobsFailed
from benchmarks.settings import PRESETS, Settings
from benchmarks.train import Cell


def parse(arguments: list[str] | None = None) -> Settings:
    """Settings from the command line: those of a preset, and what is said otherwise."""
    try:
        import tyro
    except ImportError as error:
        raise SystemExit("the command line needs tyro; install it with: pip install 'weightaug[bench]'") from error
    # The preset decides the defaults of everything else, so it is looked at first.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=sorted(PRESETS), default="quick")
    preset = first.parse_known_args(arguments)[0].preset
    return tyro.cli(Settings, default=PRESETS[preset], args=arguments, description=__doc__)


def fitting_jobs(settings: Settings) -> list[Part]:
    """One job for every part of every view of every data set."""
    return [
        part
        for dataset in settings.datasets
        for view in range(max(settings.views))
        for part in parts_of(dataset, view, settings.fit, settings.output / "inrs", settings.data_dir)
    ]


def training_jobs(settings: Settings) -> list[Cell]:
    """One job for every cell, seed by seed, so that an unfinished run has whole tables."""
    return [
        Cell(dataset, model, row, views, seed, settings.fit, settings.dws, settings.train, settings.output)
        for seed in settings.seeds
        for dataset in settings.datasets
        for model in settings.models
        for views in settings.views
        for row in settings.rows
    ]


def describe_networks(settings: Settings, dataset: str) -> str:
    """One line on how well the networks show their images."""
    networks = load_networks(dataset, max(settings.views), settings.fit, settings.output / "inrs")
    psnr, target = networks.psnr, settings.fit.target_psnr
    reached = 100 * (psnr >= target).float().mean()
    deviations = " ".join(f"{t.std():.4f}" for t in networks.element.tensors())
    return (
        f"{dataset}: {len(psnr)} networks ({settings.fit.convention_name} convention), PSNR median "
        f"{psnr.median():.1f} dB, worst {psnr.min():.1f} dB, {reached:.0f} % at {target:g} dB or more"
        f"; deviation of W1 b1 W2 b2 ...: {deviations}"
    )


def main(arguments: list[str] | None = None) -> None:
    """Fits, trains, and prints the table."""
    settings = parse(arguments)
    started = time.perf_counter()
    parts, cells = fitting_jobs(settings), training_jobs(settings)
    kept = sum(cell.done for cell in cells)
    print(f"{len(cells)} cells, {kept} of them from earlier runs; results in {settings.output}", flush=True)
    try:
        for dataset in {part.dataset for part in parts if not part.done}:
            images_of(dataset, settings.data_dir)  # here, so that workers neither download at once nor fail one by one
    except (OSError, ValueError) as error:
        raise SystemExit(f"\n{error}") from error
    try:
        with Executor(settings.workers) as executor:
            sizes = [part.last - part.first for part in parts]
            fitted = executor.run(parts, sizes, name="fitting", unit="network")
            fitting_time = time.perf_counter() - started
            epochs = [settings.train.epochs] * len(cells)
            trained = executor.run(cells, epochs, name="training", unit="epoch")
    except KeyboardInterrupt:
        finished = sum(cell.done for cell in cells)
        raise SystemExit(f"\ninterrupted with {finished} of {len(cells)} cells; the same command goes on") from None
    except JobsFailed as error:
        raise SystemExit(f"\n{error}") from error
    total = time.perf_counter() - started

    text = report.table(cells) + "\n\n" + report.notes(cells, source(settings.datasets[0]).classes) + "\n"
    path = settings.output / f"table1-{settings.preset}.md"
    path.write_text(text, encoding="utf-8")
    print()
    for dataset in settings.datasets:
        print(describe_networks(settings, dataset))
    print(f"\n{text}")
    print(
        f"Time: {total:.0f} s with {settings.workers} workers: {fitting_time:.0f} s for {fitted} parts of networks, "
        f"{total - fitting_time:.0f} s for {trained} cells. Table: {path}"
    )


if __name__ == "__main__":
    main()
