"""What frames are worth to a reader without symmetries: ``python benchmarks/frames.py``, one process and one thread.

Trains a plain MLP (2 x 256), or with ``--reader dws`` the benchmark's DWS, to read the class of an INR from its
weights: raw, in canonical form, and aligned to frames. Every seed draws its own frames, initial weights and order of
batches, and where the data set has no official split, the split. Results go to ``OUT/<dataset>.json``, of DWS to
``OUT/<dataset>-dws.json``, row by row: a run that was interrupted goes on. ``--page docs/frames.md`` writes the tables
of the results in OUT into a page.

The digits of scikit-learn are fitted first, into ``--inrs``. ``--fits`` reads networks that are there instead: a
folder whose subfolders :mod:`weightaug.io` has written, in the order of their names, such as ``inrs/.../view0`` of
``benchmarks/table1.py``; ``--split`` says how many of them are to train, to leave out, and to test on.
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `benchmarks` is a package

from benchmarks.data.settings import ImageFitSettings
from benchmarks.data.store import parts_of
from benchmarks.models.dws import DWS
from benchmarks.models.settings import DWSSettings
from benchmarks.running.files import read_json, write_json
from benchmarks.running.pages import in_markdown, write_tables_of_files
from benchmarks.table.statistics import Interval
from weightaug import Activation, AlignTo, Architecture, WeightSpaceElement, act, io
from weightaug.fitting import CONVENTIONS
from weightaug.fitting.conventions import ConventionName
from weightaug.matching import canonicalize, fit_frame, match

BATCH, WIDTH = 64, 256

Elements = tuple[WeightSpaceElement, WeightSpaceElement]
Reading = Callable[[WeightSpaceElement, WeightSpaceElement, torch.Generator], Elements]


class Training(NamedTuple):
    """How a reader is trained: AdamW with a rate that falls along a cosine."""

    epochs: int
    rate: float
    decay: float


READERS = {"mlp": Training(60, 1e-3, 0.05), "dws": Training(30, 5e-3, 5e-4)}


def _framed(references: int, kind: Any, symmetry: str) -> Reading:
    """Training and test networks in a frame that is fitted to the former, ``(n, references)``."""

    def read(train: WeightSpaceElement, test: WeightSpaceElement, generator: torch.Generator) -> Elements:
        frame = fit_frame(train, references, kind=kind, symmetry=symmetry, generator=generator)
        return frame.align(train), frame.align(test)

    return read


ROWS: dict[str, Reading] = {
    "raw weights": lambda train, test, generator: (train, test),
    "canonical form": lambda train, test, generator: (act(train, canonicalize(train)), act(test, canonicalize(test))),
    "an untrained network, permutations": _framed(1, "random", "permutation"),
    "an untrained network, full group": _framed(1, "random", "auto"),
    "a member, permutations": _framed(1, "member", "permutation"),
    "a member, full group": _framed(1, "member", "auto"),
    "the mean, permutations": _framed(1, "mean", "permutation"),
    "the mean, full group": _framed(1, "mean", "auto"),
    "8 members, full group": _framed(8, "member", "auto"),
}
SEVERAL = ("8 members, full group",)  # references, which DWS does not read


def main() -> None:
    """Parses the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits", help="digits, or the name of what lies in --fits")
    parser.add_argument("--fits", type=Path, default=None, help="folder of fitted networks")
    parser.add_argument(
        "--convention", choices=CONVENTIONS, default="authors", help="of the digits, if they are fitted"
    )
    parser.add_argument("--split", type=int, nargs=3, default=None, metavar=("TRAIN", "LEFT_OUT", "TEST"))
    parser.add_argument("--reader", choices=READERS, default="mlp")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="DWS reads one reference only")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, at least 2 for an interval")
    parser.add_argument("--epochs", type=int, default=None, help="60 of the MLP, 30 of DWS")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "frames")
    parser.add_argument("--inrs", type=Path, default=Path(__file__).parent / "runs" / "frames", help="of the digits")
    parser.add_argument("--speed", action="store_true", help="measure the time of aligning instead")
    parser.add_argument("--page", type=Path, default=None, help="write the tables of the results into this page")
    args = parser.parse_args()
    epochs = READERS[args.reader].epochs if args.epochs is None else args.epochs
    if args.seeds < 2 or epochs < 1:
        parser.error(f"expected --seeds of at least 2 and --epochs of at least 1, got {args.seeds} and {epochs}")
    if args.dataset != "digits" and args.fits is None and not args.speed and args.page is None:
        parser.error(f"--dataset {args.dataset}: only digits are fitted here; give the folder of networks as --fits")
    torch.set_num_threads(1)
    if args.page is not None:
        write_tables_of_files(args.page, args.out, table_of)
    elif args.speed:
        write_json(args.out / "speed.json", {"conditions": conditions(), "processor_seconds": speed()})
    else:
        run(args, READERS[args.reader]._replace(epochs=epochs))


def conditions() -> dict[str, Any]:
    """Where and with what was measured."""
    return {"machine": platform.machine(), "torch": torch.__version__, "threads": torch.get_num_threads()}


# -- accuracy ----------------------------------------------------------------------------------------------


def run(args: argparse.Namespace, training: Training) -> None:
    """Trains all rows with all seeds that have no results yet, and writes them row by row."""
    element, labels, psnr = (
        load_fits(args.fits) if args.fits is not None else load_fits(fit_digits(args.inrs, args.convention))
    )
    counts = args.split
    if counts is not None and sum(counts) > len(labels):
        raise SystemExit(f"--split: expected at most {len(labels)} networks together, got {sum(counts)}")
    # What another convention has made is another data set.
    dataset = args.dataset if args.fits is not None or args.convention == "authors" else f"digits-{args.convention}"
    path = args.out / f"{dataset}{'' if args.reader == 'mlp' else '-' + args.reader}.json"
    results: dict[str, Any] = {
        "dataset": dataset,
        "networks": len(labels),
        "split": counts if counts is not None else "four fifths to train, the rest to test, drawn per seed",
        "median_psnr": float(psnr.median()),
        "reader": {
            **({"hidden": [WIDTH, WIDTH]} if args.reader == "mlp" else {"dws": asdict(DWSSettings())}),
            "epochs": training.epochs,
            "batch": BATCH,
            "rate": training.rate,
            "decay": training.decay,
        },
        "conditions": conditions(),
    }
    known = read_json(path, "rows") if path.exists() else {}
    if any(known[key] != results[key] for key in ("dataset", "networks", "split", "reader") if known):
        raise SystemExit(
            f"{path}: results of other networks or another reader; move them away, or choose another --out"
        )
    rows: dict[str, dict[str, Any]] = known.get("rows", {})
    for name in args.rows:
        if len(rows.get(name, {}).get("accuracy", ())) == args.seeds or (args.reader == "dws" and name in SEVERAL):
            continue
        accuracies, seconds = [], []
        for seed in range(args.seeds):
            generator = torch.Generator().manual_seed(seed)
            train, test = split(len(labels), counts, generator)
            start = time.process_time()
            features = ROWS[name](element[train], element[test], generator)
            seconds.append(time.process_time() - start)
            accuracies.append(accuracy(features, (labels[train], labels[test]), seed, training, args.reader))
            print(f"{name}, seed {seed}: {100 * accuracies[-1]:.1f} %", flush=True)
        rows[name] = {"accuracy": accuracies, "processor_seconds_of_features": seconds}
        write_json(path, results | {"rows": {name: rows[name] for name in ROWS if name in rows}})


def fit_digits(folder: Path, convention: ConventionName) -> Path:
    """Fits an INR to each digit, in parts; goes on where an earlier run stopped."""
    settings = ImageFitSettings(convention_name=convention)
    (parts,) = parts_of("digits", 0, settings, folder)
    for part in parts:
        if not part.done:
            print(f"fitting digits {part.first} to {part.last}", flush=True)
            part.run(lambda networks: None)
    return parts[0].path.parent


def load_fits(folder: Path) -> tuple[WeightSpaceElement, Tensor, Tensor]:
    """All networks of a folder, their labels, and the PSNR of their reconstructions."""
    paths = sorted(path.parent for path in folder.glob("*/manifest.json"))
    if not paths:
        raise SystemExit(f"--fits {folder}: no networks here; expected folders that weightaug.io.save has written")
    data = io.WeightSpaceDataset(*paths)
    if data.labels is None or "psnr" not in data.columns:
        raise SystemExit(f"--fits {folder}: expected labels and a column 'psnr' beside the networks")
    return data.element, data.labels, data.columns["psnr"]


def split(count: int, counts: list[int] | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Numbers of the networks to train and to test on."""
    if counts is None:
        order = torch.randperm(count, generator=generator)
        return order[: 4 * count // 5], order[4 * count // 5 :]
    return torch.arange(counts[0]), torch.arange(counts[0] + counts[1], sum(counts))


def accuracy(networks: Elements, labels: tuple[Tensor, Tensor], seed: int, training: Training, reader: str) -> float:
    """Trains a reader on standardised weights, and tests it once, at the end."""
    torch.manual_seed(seed)
    classes = int(labels[0].max()) + 1
    if reader == "mlp":
        train, test = (x.flatten().flatten(1) for x in networks)
        mean, deviation = train.mean(0), train.std(0).clamp_min(1e-8)
        train, test = ((x - mean) / deviation for x in (train, test))
        return fit_and_test(perceptron(train.shape[1], classes), train, test, labels, training)
    one, other = (x[:, 0] if len(x.batch_shape) == 2 else x for x in networks)
    model = DWS(one.architecture, classes, **DWSSettings().arguments)
    model.set_statistics(one)
    return fit_and_test(model, one, other, labels, training)


def perceptron(inputs: int, classes: int) -> nn.Module:
    """The plain reader."""
    return nn.Sequential(
        nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, classes)
    )


def fit_and_test(model: nn.Module, train: Any, test: Any, labels: tuple[Tensor, Tensor], training: Training) -> float:
    """The share of the test networks, or rows of features, that a model reads right after its training."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.rate, weight_decay=training.decay)
    steps = training.epochs * math.ceil(len(labels[0]) / BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(training.epochs):
        for batch in torch.randperm(len(labels[0])).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(train[batch]), labels[0][batch]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        right = [model(test[some]).argmax(1) == labels[1][some] for some in torch.arange(len(labels[1])).split(256)]
    return float(torch.cat(right).float().mean())


# -- time --------------------------------------------------------------------------------------------------


def speed(networks: int = 3000, pairs: int = 512, times: int = 7) -> dict[str, float]:
    """Processor seconds of fitting a frame, of aligning to it, and of matching as many pairs, in turns."""
    architecture = Architecture.mlp((2, 32, 32, 1), Activation("sine", 30.0))
    generator = torch.Generator().manual_seed(0)
    vectors = 0.1 * torch.randn(networks, architecture.num_parameters, generator=generator)
    element = WeightSpaceElement.unflatten(architecture, vectors)
    few, others = element[:pairs], element[pairs : 2 * pairs]
    # Of the others: a reference among those that are aligned would be an exact copy, whose ties take time of their own.
    frame = fit_frame(others, kind="member", generator=generator)
    AlignTo(frame)(few)  # compiles what is compiled
    repeated = frame.element[0].map(lambda t: t.expand(pairs, *t.shape))  # the same pairs
    taken: dict[str, list[float]] = {}

    def measure(name: str, work: Callable[[], Any]) -> None:
        start = time.process_time()
        work()
        taken.setdefault(name, []).append(time.process_time() - start)

    for _ in range(times):
        measure(f"AlignTo, {pairs} networks", lambda: AlignTo(frame)(few))
        measure(f"match and act, {pairs} pairs", lambda: act(few, match(repeated, few)))
    measure(f"fit_frame, mean of {networks} networks, 5 rounds", lambda: fit_frame(element, generator=generator))
    for name, seconds in taken.items():
        print(f"{name}: {statistics.median(seconds):.3f} s", flush=True)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


# -- page --------------------------------------------------------------------------------------------------


def table_of(results: dict[str, Any]) -> str:
    """The results of one file as a Markdown table."""
    if "processor_seconds" in results:
        lines = [[name, f"{seconds:.2f}"] for name, seconds in results["processor_seconds"].items()]
        return in_markdown(["processor time, one thread", "s"], lines)
    lines = []
    for name, row in results["rows"].items():
        interval = Interval.of([100 * value for value in row["accuracy"]])
        assert interval is not None
        seconds = statistics.mean(row["processor_seconds_of_features"])
        lines.append([name, f"{interval.mean:.1f} ± {interval.half:.1f}", f"{seconds:.1f}"])
    heads = ["weights as features", "test accuracy, %", "seconds of processor time for the features"]
    return in_markdown(heads, lines)


if __name__ == "__main__":
    main()
