"""What views and mixtures made from the networks alone are worth: ``python benchmarks/views.py``, one thread.

Makes sets of further training networks from fitted INRs: refitted after noise (``views``), mixtures of functions
(``functions``), and, to compare, networks that were fitted to the same images from other initial weights (``real``),
noise without refitting (``noise``) and mixtures of weights without refitting (``weights``). Then measures how close
the views are as functions and as weights, and trains classifiers on the originals with each set: the benchmark's DWS
(with sign flips in training) and a plain MLP in the mean frame of the originals, all for the same number of steps.
Differences are paired: a seed has the same initial weights and the same split in all rows, and a row is better or worse
by the paired t-test after Holm's correction over the rows of its table. The test accuracy is that of the last step;
nothing is chosen.

Everything is kept: a run that was interrupted goes on where it stopped. ``--page docs/views.md`` writes the tables of
the results in OUT into a page.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `benchmarks` is a package

import weightaug as wa
from benchmarks.data.images import digits
from benchmarks.frames import load_fits
from benchmarks.models.dws import DWS
from benchmarks.models.settings import DWSSettings
from benchmarks.running.files import read_json, write_json
from benchmarks.running.pages import NOT_YET, in_markdown, tables_in, write_tables
from benchmarks.table.statistics import Interval, compare
from weightaug.fitting import Adam, fit_inrs
from weightaug.matching import Frame, fit_frame, match

ROWS = ("none", "noise-3", "views-3", "views-9", "real-3", "real-9", "weights-2", "functions-2", "functions-6")
DWS_ROWS = ("none", "views-3", "views-9", "real-3", "real-9", "functions-2", "functions-6")
BATCH, CLASSES = 64, 10
VERDICTS = {"helps": "Better than none", "harms": "Worse than none", "undecided": "No sure difference to none"}


class Data(NamedTuple):
    """Networks to train and to test on.

    Attributes:
        train: ``(n,)``.
        labels: One-hot, ``(n, 10)``.
        test: ``(m,)``.
        answers: int64 ``(m,)``.
        real: Further fits of the training images, view by view.
        size: Pixels along each side.
        steps: Steps that each training network was fitted for, if known.
    """

    train: wa.WeightSpaceElement
    labels: Tensor
    test: wa.WeightSpaceElement
    answers: Tensor
    real: list[wa.WeightSpaceElement]
    size: int
    steps: Tensor | None


def load_digits(folder: Path) -> Data:
    """Fits of the digits as the paper makes them, four of each; the first fourth of a fixed shuffle is to test on."""
    images = digits()
    views = []
    for view in range(4):
        path = folder / f"digits-{view}"
        if not (path / "manifest.json").exists():
            adam = Adam(1000, 5e-4, target_psnr=40.0)
            fitted = fit_inrs(images.values, convention="authors", settings=adam, seed=view)
            path.parent.mkdir(parents=True, exist_ok=True)
            columns = {"psnr": fitted.psnr, "steps": fitted.steps}
            wa.io.save(path, fitted.element, images.labels, columns=columns, overwrite=True)
        views.append(wa.io.load(path))
    order = torch.randperm(len(images.labels), generator=torch.Generator().manual_seed(7))
    test, train = order[: len(order) // 4], order[len(order) // 4 :]
    labels = F.one_hot(images.labels[train], CLASSES).float()
    first = views[0]
    real = [view.element[train] for view in views[1:]]
    steps = first.columns["steps"][train]
    return Data(first.element[train], labels, first.element[test], images.labels[test], real, 8, steps)


def load_fashion(fits: Path) -> Data:
    """Fashion-MNIST fits of ``benchmarks/table1.py``: 3,000 to train, 500 to leave out, 1,000 to test on, by view."""
    element, labels, _ = load_fits(fits / "view0")
    real = [load_fits(path)[0][:3000] for path in sorted(fits.glob("view[1-9]"))]
    steps = wa.io.WeightSpaceDataset(*sorted(p.parent for p in fits.glob("view0/*/manifest.json"))).columns["steps"]
    one_hot = F.one_hot(labels[:3000], CLASSES).float()
    return Data(element[:3000], one_hot, element[3500:4500], labels[3500:4500], real, 28, steps[:3000])


def refit_of(kind: str, size: int) -> wa.Transform:
    """What makes one network of a set."""
    noise, mixing = wa.GaussianNoise(0.6), wa.AlignedMixup()
    return {
        "noise": noise,
        "views": wa.Refit(noise, size, steps=100, target_psnr=40.0),
        "weights": mixing,
        "functions": wa.Refit(mixing, size, steps=100, target_psnr=40.0),
    }[kind]


def more(row: str, data: Data, folder: Path) -> tuple[wa.WeightSpaceElement, Tensor] | None:
    """The networks and labels that a row adds to the originals."""
    if row == "none":
        return None
    kind, number = row.split("-")
    count = int(number)
    if kind == "real":
        if len(data.real) < count:
            raise SystemExit(f"{row}: only {len(data.real)} further views are fitted")
        return wa.cat(data.real[:count]), data.labels.repeat(count, 1)
    views = wa.make_views(
        data.train, count, folder / kind, transform=refit_of(kind, data.size), labels=data.labels, shard_size=256
    )
    assert views.labels is not None
    return views.element, views.labels


# -- the views themselves ------------------------------------------------------------------------------------


def properties(data: Data, folder: Path, pairs: int = 128) -> dict[str, Any]:
    """How close views are to their originals, and what they cost."""
    views = wa.make_views(
        data.train, 3, folder / "views", transform=refit_of("views", data.size), labels=data.labels, shard_size=256
    )
    psnr = views.columns["psnr"]
    some = data.train[:pairs]

    def apart(a: wa.WeightSpaceElement, b: wa.WeightSpaceElement) -> float:
        """Median squared distance after alignment by the full group, in units of the squared norm."""
        moved = wa.act(b, match(a, b))
        gap = (a.flatten() - moved.flatten()).square().sum(-1) / a.flatten().square().sum(-1)
        return float(gap.median())

    result: dict[str, Any] = {
        "psnr_quantiles": [float(q) for q in psnr.quantile(torch.tensor([0.1, 0.5, 0.9]))],
        "distance_to_original": apart(some, views.element[:pairs]),
        "distance_of_two_views": apart(views.element[:pairs], views.element[len(data.train) : len(data.train) + pairs]),
        "distance_of_different_images": apart(some, data.train[pairs : 2 * pairs]),
    }
    if data.real:
        result["distance_of_real_views"] = apart(some, data.real[0][:pairs])
    if data.steps is not None:
        result["median_steps_from_scratch"] = float(data.steps.float().median())
    # Steps to the PSNR at which the fits stopped, on some networks; looked at every 10.
    changed = wa.GaussianNoise(0.6)(some, generator=torch.Generator().manual_seed(0))
    points = wa.points.grid((data.size, data.size)).float()
    wanted = some(points)
    span = wanted.amax((-2, -1)) - wanted.amin((-2, -1))
    fitted = wa.fitting.fit(points, wanted, changed, Adam(400, target_psnr=40.0), peak=span)
    result["median_steps_of_a_view"] = float(fitted.steps.float().median())
    return result


# -- accuracy ------------------------------------------------------------------------------------------------


def train(
    model: nn.Module,
    networks: Any,
    targets: Tensor,
    augment: wa.Transform | None,
    *,
    steps: int,
    rate: float,
    seed: int,
) -> None:
    """AdamW with a rate that rises over a tenth of the steps and falls along a cosine; batches of 64."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=5e-4 if augment else 0.05)

    def share(step: int) -> float:
        return min(step / (0.1 * steps), 0.5 + 0.5 * math.cos(math.pi * step / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, share)
    ordering, augmenting = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    model.train()
    batches: Iterator[Tensor] = iter(())
    for _ in range(steps):
        batch = next(batches, None)
        if batch is None:
            order = torch.randperm(len(targets), generator=ordering)
            batches = iter(order[: len(order) // BATCH * BATCH].split(BATCH))
            batch = next(batches)
        given = networks[batch]
        if augment is not None:
            given = augment(given, generator=augmenting)
        optimiser.zero_grad()
        F.cross_entropy(model(given), targets[batch]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
        schedule.step()


def accuracy(model: nn.Module, networks: Any, answers: Tensor) -> float:
    """In percent."""
    model.eval()
    with torch.no_grad():
        hits = [model(networks[i : i + 256]).argmax(-1) == answers[i : i + 256] for i in range(0, len(answers), 256)]
    return 100 * float(torch.cat(hits).float().mean())


def cell_dws(
    networks: wa.WeightSpaceElement, targets: Tensor, data: Data, seed: int, steps: int, rate: float = 5e-3
) -> float:
    """The benchmark's DWS, with sign flips in training."""
    torch.manual_seed(seed)
    model = DWS(data.train.architecture, CLASSES, **DWSSettings().arguments)
    model.set_statistics(data.train)
    train(model, networks, targets, wa.SirenNegation(), steps=steps, rate=rate, seed=seed)
    return accuracy(model, data.test, data.answers)


def cell_mlp(
    networks: Tensor, targets: Tensor, test: Tensor, data: Data, seed: int, steps: int, rate: float = 1e-3
) -> float:
    """A plain MLP on weights in a frame."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(networks.shape[1], 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, CLASSES)
    )
    train(model, networks, targets, None, steps=steps, rate=rate, seed=seed)
    return accuracy(model, test, data.answers)


def features(frame: Frame, networks: wa.WeightSpaceElement) -> Tensor:
    """The weights of networks in a frame of one reference, ``(n, parameters)``; some at a time."""
    pieces = [frame.align(networks[i : i + 1024]) for i in range(0, len(networks), 1024)]
    return torch.cat([piece.flatten().flatten(1) for piece in pieces])


def run(args: argparse.Namespace) -> None:
    """Whatever is missing of the results."""
    work, out = args.work / args.dataset, args.out / args.dataset
    data = load_digits(args.work / "fits") if args.dataset == "digits" else load_fashion(args.fits)
    if not (out / "properties.json").exists():
        write_json(out / "properties.json", properties(data, work))
    steps = {"mlp": args.mlp_steps, "dws": args.dws_steps}
    rates = {"mlp": args.mlp_rate, "dws": args.dws_rate}
    frame = None
    aligned: dict[str, Tensor] = {}
    for model in args.models:
        rows = [row for row in args.rows if model == "mlp" or row in DWS_ROWS]
        for seed in range(args.seeds):
            for row in rows:
                path = out / "cells" / f"{model}-{row}-seed{seed}.json"
                setting = {"steps": steps[model], "rate": rates[model]}
                if path.exists():
                    _same_setting(path, setting)
                    continue
                extra = more(row, data, work)
                networks = data.train if extra is None else wa.cat([data.train, extra[0]])
                targets = data.labels if extra is None else torch.cat([data.labels, extra[1]])
                start = time.process_time()
                if model == "dws":
                    score = cell_dws(networks, targets, data, seed, **setting)
                else:
                    if frame is None:
                        frame = fit_frame(data.train, generator=torch.Generator().manual_seed(0))
                        originals = features(frame, data.train)
                        mean, spread = originals.mean(0), originals.std(0).clamp_min(1e-8)
                        aligned["test"] = (features(frame, data.test) - mean) / spread
                    if row not in aligned:
                        aligned[row] = (features(frame, networks) - mean) / spread
                    score = cell_mlp(aligned[row], targets, aligned["test"], data, seed, **setting)
                seconds = time.process_time() - start
                print(f"{args.dataset} {model} {row} seed {seed}: {score:.1f} % ({seconds:.0f} s)", flush=True)
                cell = {"model": model, "row": row, "seed": seed, **setting, "accuracy": score}
                counts = {"trained_on": len(networks), "tested_on": len(data.answers), "processor_seconds": seconds}
                write_json(path, cell | counts)


def _same_setting(path: Path, setting: dict[str, Any]) -> None:
    """Rows of a table are compared, so all are trained alike."""
    cell = read_json(path, "steps", "rate")
    there = {name: cell[name] for name in setting}
    if there != setting:
        raise SystemExit(f"{path} was trained with {there}, these options say {setting}: use them, or another --out")


# -- page ----------------------------------------------------------------------------------------------------


def table_of(folder: Path) -> str:
    """All results of one data set, in Markdown."""
    found = read_json(folder / "properties.json")
    low, middle, high = found["psnr_quantiles"]
    about = [["PSNR, median (10 %, 90 %)", f"{middle:.1f} ({low:.1f}, {high:.1f}) dB"]]
    for key, name in {
        "distance_to_original": "aligned squared distance to the original, in units of its norm",
        "distance_of_two_views": "the same between two views of one network",
        "distance_of_real_views": "between two independent fits of one image",
        "distance_of_different_images": "between fits of different images",
        "median_steps_of_a_view": "steps of Adam to 40 dB, median",
        "median_steps_from_scratch": "steps of a fit from scratch to 40 dB, median",
    }.items():
        if key in found:
            value = found[key]
            about.append([name, f"{value:.0f}" if "steps" in key else f"{value:.2f}"])
    parts = [in_markdown(["of the views", ""], about)]
    cells: dict[tuple[str, str], dict[int, float]] = {}
    steps: dict[str, int] = {}
    for path in sorted((folder / "cells").glob("*.json")):
        cell = read_json(path, "model", "row", "seed", "accuracy")
        cells.setdefault((cell["model"], cell["row"]), {})[cell["seed"]] = cell["accuracy"]
        steps[cell["model"]] = cell["steps"]
    for model, title in (("mlp", "MLP in the mean frame"), ("dws", "DWS with sign flips")):
        base = cells.get((model, "none"), {})
        if not base:
            continue
        lines = []
        differences: dict[str, list[float]] = {}
        for row in ROWS:
            scores = cells.get((model, row), {})
            if scores:
                gaps = [scores[s] - base[s] for s in scores if s in base]
                gain = "" if row == "none" else interval(gaps, "+")
                lines.append([row, interval(list(scores.values())), gain, str(len(scores))])
                if row != "none":
                    differences[row] = gaps
        found_out: dict[str, list[str]] = {}
        for row, comparison in compare(differences).items():
            found_out.setdefault(VERDICTS[comparison.verdict], []).append(row)
        heads = [f"{title}, {steps[model]:,} steps", "test accuracy, %", "against none, paired", "seeds"]
        said = " ".join(f"{text}: {', '.join(rows)}." for text, rows in sorted(found_out.items()))
        parts += [in_markdown(heads, lines), said + "\n"]
    return "\n".join(parts)


def interval(values: list[float], sign: str = "") -> str:
    """Mean and 95 % interval."""
    found = Interval.of(values)
    assert found is not None
    text = f"{found.mean:{sign}.1f}"
    return text if len(values) < 2 else f"{text} ± {found.half:.1f}"


def write_page(page: Path, out: Path) -> None:
    """Replaces what stands between the marks of each table in a page."""
    write_tables(page, {name: _table(name, out) for name in tables_in(page.read_text(encoding="utf-8"))})


def _table(name: str, out: Path) -> str:
    file = out / f"{name}.json"
    if not any((out / name).glob("cells/*.json")) and not file.exists():
        return NOT_YET
    if name == "descents":
        return descents_table(read_json(file))
    return strengths_table(read_json(file)) if name.startswith("strength-") else table_of(out / name)


# -- strength ------------------------------------------------------------------------------------------------

STRENGTHS: tuple[tuple[wa.Transform, str], ...] = (
    (wa.GaussianNoise(), "scale"),
    (wa.Dropout(), "p"),
    (wa.QuantileDropout(random=False), "q"),
    (wa.Rotate(), "degrees"),
    (wa.Translate(), "amount"),
    (wa.Scale(), "amount"),
)


def strengths(networks: wa.WeightSpaceElement, size: int, peak: float) -> dict[str, Any]:
    """The settings that leave 40, 30 and 20 dB, and what they leave of other networks with other draws."""
    half = len(networks) // 2
    rows = []
    for transform, field in STRENGTHS:
        for wanted in (40.0, 30.0, 20.0):
            row: dict[str, Any] = {"transform": type(transform).__name__, "field": field, "psnr": wanted}
            try:
                found = wa.calibrate(transform, networks[:half], size, wanted, field, peak=peak)
            except ValueError as error:
                row["error"] = str(error)
            else:
                others = networks[half:]
                moved = found(others, generator=torch.Generator().manual_seed(1))
                row |= {"setting": getattr(found, field)}
                row["measured"] = float(wa.psnr(others, moved, size, peak=peak).median())
            rows.append(row)
            print(row, flush=True)
    return {"networks": half, "architecture": repr(networks), "rows": rows}


def strengths_table(results: dict[str, Any]) -> str:
    """As Markdown."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in results["rows"]:
        by_name.setdefault(f"`{row['transform']}`, `{row['field']}`", []).append(row)
    lines = []
    for name, rows in by_name.items():
        shown = ["out of reach" if "error" in r else f"{r['setting']:.2g} ({r['measured']:.1f} dB)" for r in rows]
        lines.append([name, *shown])
    return in_markdown(["transform", "40 dB", "30 dB", "20 dB"], lines)


# -- steps ---------------------------------------------------------------------------------------------------

DESCENTS: tuple[tuple[Literal["constant", "cosine"], float], ...] = (
    ("constant", 2e-3),
    ("constant", 3e-3),
    ("constant", 5e-3),
    ("cosine", 3e-3),
    ("cosine", 5e-3),
)


def descents(networks: wa.WeightSpaceElement, size: int, steps: tuple[int, ...] = (40, 60, 80)) -> dict[str, Any]:
    """How near rates and schedules bring noisy networks back to their functions in so many steps."""
    changed = wa.GaussianNoise(0.6)(networks, generator=torch.Generator().manual_seed(0))
    points = wa.points.grid((size, size)).float()
    wanted = networks(points)
    span = wanted.amax((-2, -1)) - wanted.amin((-2, -1))

    def left(moved: wa.WeightSpaceElement) -> float:
        return float(wa.psnr(networks, moved, size).median())

    rows = []
    for schedule, rate in DESCENTS:
        settings = [Adam(count, rate, schedule) for count in steps]
        reached = [left(wa.fitting.fit(points, wanted, changed, adam, peak=span).element) for adam in settings]
        rows.append({"rate": f"{schedule}, {rate:g}", "psnr": reached})
    return {"networks": len(networks), "steps": list(steps), "before": left(changed), "rows": rows}


def descents_table(results: dict[str, Any]) -> str:
    """As Markdown."""
    lines = [[row["rate"], *(f"{psnr:.1f}" for psnr in row["psnr"])] for row in results["rows"]]
    table = in_markdown(["rate", *map(str, results["steps"])], lines)
    return f"{table}\n{results['networks']} networks; noise leaves {results['before']:.1f} dB.\n"


def main() -> None:
    """Parses the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).parent
    parser.add_argument("--dataset", choices=["digits", "fashion-mnist"], default="digits")
    parser.add_argument("--fits", type=Path, default=None, help="of Fashion-MNIST: the folder with view0, view1, ...")
    parser.add_argument("--models", nargs="+", choices=["mlp", "dws"], default=["mlp", "dws"])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--mlp-steps", type=int, default=1500)
    parser.add_argument("--mlp-rate", type=float, default=1e-3)
    parser.add_argument("--dws-steps", type=int, default=1500)
    parser.add_argument("--dws-rate", type=float, default=5e-3)
    parser.add_argument("--work", type=Path, default=here / "runs" / "views", help="fitted networks and views")
    parser.add_argument("--out", type=Path, default=here / "results" / "views")
    parser.add_argument(
        "--strength",
        choices=["images", "shapes"],
        default=None,
        help="measure strengths in dB instead, on the view0 of --fits: networks of images or of signed distances",
    )
    parser.add_argument("--descents", action="store_true", help="measure rates and schedules on --fits instead")
    parser.add_argument("--page", type=Path, default=None, help="write the tables of the results into this page")
    args = parser.parse_args()
    needs_fits = args.page is None and (args.strength or args.descents or args.dataset == "fashion-mnist")
    if needs_fits and (args.fits is None or not (args.fits / "view0").is_dir()):
        parser.error(f"--fits {args.fits}: expected the folder of fitted networks, with view0 in it")
    torch.set_num_threads(1)
    if args.page is not None:
        write_page(args.page, args.out)
    elif args.strength:
        element = load_fits(args.fits / "view0")[0][:1000]
        size, peak = (28, 2.0) if args.strength == "images" else (16, 1.0)  # 1: the radius of the sphere of a shape
        write_json(args.out / f"strength-{args.strength}.json", strengths(element, size, peak))
    elif args.descents:
        write_json(args.out / "descents.json", descents(load_fits(args.fits / "view0")[0][:100], 28))
    else:
        run(args)


if __name__ == "__main__":
    main()
