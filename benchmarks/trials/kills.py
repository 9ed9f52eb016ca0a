"""SIGKILL at random moments of fitting, training, converting, appending and making views.

``python benchmarks/trials/kills.py``. Each piece of work is done once undisturbed. Then it is begun in a fresh folder
and killed at a moment drawn from its whole duration, several times in a row, and at last finished by the same call.
Networks, labels, columns and cells have to be those of the undisturbed run, bit for bit, and no temporary file may be
left. Rounds that are done are kept: a call that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that `benchmarks` is a package

import weightaug as wa
from benchmarks import table1
from benchmarks.trials.records import OUTPUT, Record
from weightaug import io
from weightaug.adapters import to_state_dicts
from weightaug.testing import random_element

LOG = Path(__file__).resolve().parents[1] / "runs" / "kills.jsonl"
KILLS = 4  # in a row, in each round
ARCHITECTURE = wa.Architecture.siren((2, 8, 8, 1))
TABLE = ["--preset", "smoke", "--datasets", "digits", "--workers", "1", "--fit.limit", "120", "--fit.steps", "10"]
TABLE += ["--train.epochs", "2", "--rows", "none", "siren_negation", "mixup", "full_aligned_mixup"]


def networks(count: int) -> wa.WeightSpaceElement:
    """Networks that are the same in every process."""
    return random_element(ARCHITECTURE, (count,), seed=1, dtype=torch.float32)


def fit(folder: Path) -> None:
    """Fits INRs, as for a table."""
    table1.main([*TABLE, "--output", str(folder), "--steps", "fit"])


def train(folder: Path) -> None:
    """Trains classifiers on INRs that are there."""
    if not (folder / "inrs").exists():
        shutil.copytree(folder.parent / "undisturbed-fit" / "inrs", folder / "inrs.part", dirs_exist_ok=True)
        os.rename(folder / "inrs.part", folder / "inrs")
    table1.main([*TABLE, "--output", str(folder), "--steps", "train"])


def convert(folder: Path) -> None:
    """Makes a data set of files."""
    io.convert(folder.parent / "files", ARCHITECTURE, out=folder / "set", labels="label", chunk=20)


def append(folder: Path) -> None:
    """Appends to a data set until it has all networks."""
    everything, labels, step = networks(300), torch.arange(300), 20
    if not (folder / "set" / "manifest.json").exists():
        io.save(folder / "set", everything[:step], labels[:step])
    while (count := len(io.WeightSpaceDataset(folder / "set"))) < 300:
        io.append(folder / "set", everything[count : count + step], labels[count : count + step])


def views(folder: Path) -> None:
    """Makes views of networks."""
    refit = wa.Refit(wa.GaussianNoise(0.1), points=6, steps=5)
    wa.make_views(networks(80), 2, folder / "views", transform=refit, shard_size=8, progress=False)


WORK: dict[str, Callable[[Path], None]] = {
    "fitting": fit,
    "training": train,
    "converting": convert,
    "appending": append,
    "views": views,
}


def prepare(folder: Path) -> None:
    """The files that are converted."""
    (folder / "files").mkdir()
    states: Any = to_state_dicts(networks(200), names=None)
    for i, state in enumerate(states):
        own = {name: value.clone() for name, value in state.items()}
        torch.save(own | {"label": torch.tensor(i % 7)}, folder / "files" / f"net{i}.pt")


def quietly(work: Callable[[Path], None], folder: Path) -> None:
    """The work in a process of its own, whose words nobody wants."""
    from tqdm import tqdm

    torch.set_num_threads(1)
    os.setsid()
    tqdm.set_lock(threading.RLock())  # its own is shared with forks: one that dies with it would stop all others
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        work(folder)


def begin(work: Callable[[Path], None], folder: Path) -> Any:
    """Starts the work by a fork, in which everything is imported."""
    folder.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("fork").Process(target=quietly, args=(work, folder))
    process.start()
    return process


def state_of(folder: Path) -> dict[str, str]:
    """What is in a folder: a hash of every network and label, and what is said of every cell."""
    found = {}
    for manifest in sorted(folder.rglob("manifest.json")):
        data = io.WeightSpaceDataset(manifest.parent)
        content = hashlib.sha256(data.element.flatten().numpy().tobytes())
        for tensor in [*([] if data.labels is None else [data.labels]), *data.columns.values()]:
            content.update(tensor.numpy().tobytes())
        found[str(manifest.parent.relative_to(folder))] = content.hexdigest()
    for path in sorted(folder.glob("cells/**/*.json")):
        cell = json.loads(path.read_text())
        kept = {key: cell[key] for key in ("settings", "status", "test_accuracy", "curves")}
        found[str(path.relative_to(folder))] = json.dumps(kept, sort_keys=True)
    return found


def round_of(name: str, duration: float, expected: dict[str, str], folder: Path, seed: int) -> dict[str, Any]:
    """One round: several kills, and the work finished.

    Returns:
        How many kills met the work, whether the state at the end is the expected one, and what temporary files are
        left.
    """
    draw = random.Random(f"{name} {seed}")
    killed = 0
    for _ in range(KILLS):
        process = begin(WORK[name], folder)
        process.join(draw.uniform(0, duration))
        if process.is_alive():
            process.kill()
            killed += 1
        process.join()
    process = begin(WORK[name], folder)
    process.join(600)
    if process.exitcode is None:
        process.kill()
    left = list(folder.rglob("*.tmp*"))  # hidden ones, too
    same = process.exitcode == 0 and state_of(folder) == expected
    shutil.rmtree(folder)
    return {
        "work": name,
        "seed": seed,
        "killed": killed,
        "same": same,
        "left": len(left),
        "exit": process.exitcode,
    }


def run(count: int, log: Path, bar: Callable[[int, str], None]) -> list[dict[str, Any]]:
    """As many rounds as are needed for so many kills; each is written down at once."""
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    bar(sum(row["killed"] for row in done), "")
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, open(log, "a", encoding="utf-8") as file:
        folder = Path(name)
        prepare(folder)
        expected, durations = {}, {}
        for work in WORK:
            own = folder / f"undisturbed-{'fit' if work == 'fitting' else work}"
            for once in (own, folder / "once-more"):  # the first one may compile what is compiled
                started = time.monotonic()
                process = begin(WORK[work], once)
                process.join()
                durations[work] = time.monotonic() - started
                if process.exitcode != 0:
                    raise SystemExit(f"{work} failed undisturbed, with exit code {process.exitcode}")
            expected[work] = state_of(own)
            if state_of(folder / "once-more") != expected[work]:
                raise SystemExit(f"{work} gives other results the second time")
            shutil.rmtree(folder / "once-more")
        seed = 1 + max((row["seed"] for row in done), default=-1)
        while sum(row["killed"] for row in done) < count:
            for work in WORK:
                row = round_of(work, durations[work], expected[work], folder / "round", seed)
                done.append(row)
                file.write(json.dumps(row) + "\n")
                file.flush()
                bar(row["killed"], work)
            seed += 1
    return done


def main() -> None:
    """Parses the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="kills that meet the work")
    parser.add_argument("--log", type=Path, default=LOG, help="rounds that are done, one a line")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise SystemExit("the trials need tqdm: pip install 'weightaug[bench]'") from error
    started = time.monotonic()
    with tqdm(total=args.count, unit="kill", desc="kills") as shown:

        def bar(killed: int, work: str) -> None:
            shown.set_postfix_str(work, refresh=False)
            shown.update(killed)

        rows = run(args.count, args.log, bar)
    by_work = [[row for row in rows if row["work"] == work] for work in WORK]
    table = [
        [work, len(own), sum(r["killed"] for r in own), sum(not r["same"] for r in own), sum(r["left"] for r in own)]
        for work, own in zip(WORK, by_work, strict=True)
    ]
    Record(
        "SIGKILL at random moments of long work",
        f"python benchmarks/trials/kills.py --count {args.count}",
        {
            "kills": sum(row["killed"] for row in rows),
            "times finished afterwards": len(rows),
            "networks or cells that were not the same": sum(not row["same"] for row in rows),
            "temporary files left": sum(row["left"] for row in rows),
        },
        notes=[f"Up to {KILLS} kills in a row before the same call finishes the work; compared bit for bit."],
        tables={"by work": (["work", "rounds", "kills", "not the same", "files left"], table)},
        seconds=time.monotonic() - started,
    ).write("kills", args.output)
    if any(not row["same"] for row in rows):
        raise SystemExit(f"not the same: {[row for row in rows if not row['same']][:5]}")


if __name__ == "__main__":
    main()
