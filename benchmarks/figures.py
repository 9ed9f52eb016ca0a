"""The paper's figures, each by one command.

Figure 2: python benchmarks/figures.py reconstructions --dataset fashion-mnist --data-dir FOLDER
Figure 1: python benchmarks/figures.py curves --runs benchmarks/runs
Differences: python benchmarks/figures.py forest --runs benchmarks/runs
Accuracy over images: python benchmarks/figures.py sizes --runs benchmarks/runs

All write PNG and SVG into --out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `benchmarks` is a package

from benchmarks.drawing import forest, sizes
from benchmarks.drawing.curves import Curve, Group, caption, group_cells, read_cells
from benchmarks.drawing.samples import DATASETS, Column, Samples, columns, load_samples
from benchmarks.models.settings import MODEL_LABELS, model_label
from benchmarks.running.commands import command, writable
from benchmarks.table.report import Column as Table
from benchmarks.table.report import Summary, label_of, recorded
from benchmarks.table.sizes import by_size
from weightaug import Preserves
from weightaug.fitting import CONVENTIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RUNS = Path(__file__).resolve().parent / "runs"
SEED = 5387  # for the default samples: it mixes in visible shares and turns by visible angles
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito: colour-blind safe
DASHES: dict[str, Any] = {"train": (0, (4, 2)), "validation": "-", "test": (0, (1, 1.2))}
STYLE = {
    "font.size": 8,
    "image.interpolation": "nearest",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "weightaug",  # the same file from the same numbers
    "svg.fonttype": "none",
    "figure.facecolor": "white",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line and draws one figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    pictures = commands.add_parser("reconstructions", help="what every augmentation makes of a few networks")
    pictures.add_argument("--dataset", type=_dataset, choices=DATASETS, default="digits")
    pictures.add_argument("--data-dir", type=Path, default=None, help="folder of Fashion-MNIST, or the one above")
    pictures.add_argument("--samples", type=int, nargs="+", default=None, help="numbers of the samples")
    pictures.add_argument("--convention", choices=sorted(CONVENTIONS), default="authors")
    pictures.add_argument("--steps", type=int, default=None, help="steps of the fit")
    pictures.add_argument("--seed", type=int, default=SEED, help="of the augmentations")
    lines = commands.add_parser("curves", help="training and validation curves of the cells of table1.py")
    lines.add_argument("--runs", type=Path, default=RUNS, help="folder of the runs, or of the cells' JSON files")
    lines.add_argument("--rows", nargs="+", default=["none"], help="rows of the table; the paper shows none")
    lines.add_argument("--models", nargs="+", default=None, choices=list(MODEL_LABELS), help="all by default")
    lines.add_argument("--views", type=int, nargs="+", default=[1, 10])
    lines.add_argument(
        "--where", nargs="*", default=[], metavar="KEY=VALUE", help="take these cells only, as train.epochs=12"
    )
    differences = commands.add_parser("forest", help="differences to no augmentation, with intervals")
    differences.add_argument("--runs", type=Path, default=RUNS, help="folder that holds the results in cells")
    sizes_ = commands.add_parser("sizes", help="accuracy over the number of training images, of one view and many")
    sizes_.add_argument("--runs", type=Path, default=RUNS, help="folder that holds the results in cells")
    for subcommand in (pictures, lines, differences, sizes_):
        subcommand.add_argument("--out", type=Path, default=RUNS / "figures")
    args = parser.parse_args(arguments)
    with command():
        writable(args.out, "--out")
        drawn = {"reconstructions": _reconstructions, "curves": _curves, "forest": _forest, "sizes": _sizes}[
            args.command
        ]
        written = drawn(args)
    print("\n".join(str(path) for path in written))


def _dataset(name: str) -> str:
    return name.replace("_", "-")


def _reconstructions(args: argparse.Namespace) -> list[Path]:
    _require_matplotlib()  # before the fit, which takes a while
    samples = load_samples(
        args.dataset, args.samples, data_dir=args.data_dir, convention=args.convention, steps=args.steps
    )
    return save(
        draw_reconstructions(samples, columns(samples, args.seed)), args.out / f"reconstructions-{args.dataset}"
    )


def _curves(args: argparse.Namespace) -> list[Path]:
    _require_matplotlib()
    cells = read_cells(args.runs, rows=args.rows, views=args.views, where=args.where, models=args.models)
    groups = group_cells(cells)
    for views in args.views:
        if not any(group.views == views for group in groups):
            print(
                f"no cells of {views} view{'s' * (views > 1)} in {args.runs}, so no such panel; train them with: "
                f"python benchmarks/table1.py --rows {' '.join(args.rows)} --views {views}"
            )
    written = []
    for dataset in dict.fromkeys(group.dataset for group in groups):
        figure = draw_curves([group for group in groups if group.dataset == dataset])
        written += save(figure, args.out / f"curves-{dataset}")
    return written


def _forest(args: argparse.Namespace) -> list[Path]:
    _require_matplotlib()
    tables = [column.plain for column in recorded(args.runs) if column.images is None]
    tables = [column for column in tables if column.comparisons]
    if not tables:
        raise ValueError(f"{args.runs}: no row to compare with no augmentation; train some with --rows none ROW ...")
    written = []
    for dataset in dict.fromkeys(column.dataset for column in tables):
        of_dataset = [column for column in tables if column.dataset == dataset]
        written += save(draw_forest(of_dataset), args.out / f"forest-{dataset}")
    return written


def _sizes(args: argparse.Namespace) -> list[Path]:
    _require_matplotlib()
    written = []
    tables = [c for c in recorded(args.runs) if c.images is not None or c.views == 1]  # of about as many steps
    tables = [c for c in tables if not c.records[0]["settings"].get("redraw")]
    for dataset, model in dict.fromkeys((c.dataset, c.model) for c in tables):
        lines = by_size([c for c in tables if (c.dataset, c.model) == (dataset, model)])
        if lines:
            written += save(draw_sizes(lines), args.out / f"sizes-{dataset}-{model}")
    if not written:
        raise ValueError(f"{args.runs}: no row of several numbers of images; train some with --train.images N")
    return written


def draw_sizes(lines: Mapping[tuple[str, int], Mapping[int, Summary]]) -> Figure:
    """A plot of accuracy over the number of training images."""
    with _require_matplotlib().rc_context(STYLE):
        figure = _new_figure(5.0, 3.4)
        sizes.draw(figure.add_axes((0.12, 0.17, 0.85, 0.78)), lines, COLOURS)
        note = "Bars: 95 % intervals of the mean, by Student's t."
        figure.text(0.5, 0.02, note, ha="center", fontsize=6)
    return figure


def draw_forest(columns: Sequence[Table]) -> Figure:
    """A forest plot of the tables of one data set."""
    rows = len({row for column in columns for row in column.comparisons})
    height = 1.1 + rows * (0.16 + 0.07 * len(columns))
    with _require_matplotlib().rc_context(STYLE):
        figure = _new_figure(7.5, height)
        axes = figure.add_axes((0.42, 0.55 / height, 0.55, (height - 0.75) / height))
        forest.draw(axes, columns, COLOURS)
        axes.plot([], [], "x", color="0.35", label="the paper's difference")
        axes.set_ylim(-0.7, rows - 0.4 + 0.5 * (len(columns) + 1))  # room for the legend above the rows
        axes.legend(fontsize=6, loc="upper left", frameon=False)
        note = "Bars: 95 % intervals of the paired difference, by Student's t; filled: decided after Holm's correction."
        figure.text(0.5, 0.06 / height, note, ha="center", fontsize=6)
    return figure


def _require_matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("the figures need matplotlib; install it with: pip install 'weightaug[bench]'") from error
    return matplotlib


def _new_figure(width: float, height: float) -> Figure:
    _require_matplotlib()
    from matplotlib.figure import Figure

    return Figure((width, height))  # with no window and no global state


def save(figure: Figure, path: Path) -> list[Path]:
    """Writes a figure as PNG and SVG, under ``path`` with these endings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [path.with_name(f"{path.name}.{ending}") for ending in ("png", "svg")]
    with _require_matplotlib().rc_context(STYLE):
        figure.savefig(written[0], dpi=130)
        figure.savefig(written[1], metadata={"Date": None})
    return written


# -- Figure 2 ----------------------------------------------------------------------------------------

LIMIT = 0.6  # the signed distance where its colours end
TITLES = {
    "Fitted INR": "Fitted\nINR",
    "Gaussian noise": "Gaussian\nnoise",
    "Quantile dropout": "Quantile\ndropout",
    "SIREN bias": "SIREN\nbias",
    "SIREN negation": "SIREN\nnegation",
    "MixUp + random perm.": "MixUp +\nrandom perm.",
    "Alignment + MixUp": "Alignment\n+ MixUp",
    "Full-group alignment + MixUp": "Full-group\nalignment\n+ MixUp",
}
HEADS = {
    Preserves.FUNCTION: ("the same function", COLOURS[2]),
    Preserves.FUNCTION_UP_TO_INPUT_MAP: ("the same function of moved coordinates", COLOURS[0]),
    Preserves.NOTHING: ("another function", COLOURS[1]),
}


def draw_reconstructions(samples: Samples, shown: Sequence[Column]) -> Figure:
    """The paper's Figure 2: one row per sample, one column per augmentation, in two bands.

    Args:
        samples: The networks.
        shown: What the augmentations made of them.
    """
    before = samples.pictures(samples.networks)
    data = Column("Data", None, samples.networks, samples.truth, None)
    fitted = Column("Fitted INR", None, samples.networks, before, samples.psnr(before, samples.truth))

    def kind(column: Column) -> Preserves:
        return column.transform.preserves if column.transform else Preserves.NOTHING

    kept = sorted((c for c in shown if kind(c) is not Preserves.NOTHING), key=lambda c: list(HEADS).index(kind(c)))
    changed = sorted((c for c in shown if kind(c) is Preserves.NOTHING), key=lambda c: c.partner is not None)
    bands = [[data, fitted, *kept], [fitted, *changed]]

    across, down = max(len(band) for band in bands), len(samples.labels)
    cell, line, left = 1.0, 0.2, 0.2  # inches
    titles = [[TITLES.get(column.label, column.label) for column in band] for band in bands]
    heads = [0.42 + 0.125 * max(title.count("\n") + 1 for title in band) for band in titles]
    tops = [sum(heads[b:]) + (len(bands) - b) * down * (cell + line) for b in range(len(bands))]
    foot = 0.65 if samples.dataset == "solids" else 0.35
    width, height = left + across * (cell + 0.08) + 0.1, tops[0] + foot
    with _require_matplotlib().rc_context(STYLE):
        figure = _new_figure(width, height)
        for b, band in enumerate(bands):
            top, head = tops[b] + foot, heads[b]
            for c, column in enumerate(band):
                x = left + c * (cell + 0.08)
                figure.text(
                    (x + cell / 2) / width,
                    (top - head + 0.06) / height,
                    titles[b][c],
                    ha="center",
                    va="bottom",
                    linespacing=1.0,
                )
                for r in range(down):
                    y = top - head - (r + 1) * (cell + line) + line
                    axes = figure.add_axes((x / width, y / height, cell / width, cell / height))
                    axes.set_label(f"{column.label}/{r}")
                    _draw_picture(axes, samples, column.pictures[r], before[r])
                    axes.set_xlabel(_below(column, r), labelpad=2, fontsize=7)
                    if c == 0:
                        axes.set_ylabel(samples.labels[r], labelpad=2, fontsize=7)
            for preserves, (text, colour) in HEADS.items():
                here = [c for c, column in enumerate(band) if column.transform and kind(column) is preserves]
                if here:
                    start, end = left + here[0] * (cell + 0.08), left + here[-1] * (cell + 0.08) + cell
                    _bracket(figure, start / width, end / width, (top - 0.24) / height, text, colour)
        _foot(figure, samples, width, height)
    return figure


def _bracket(figure: Figure, start: float, end: float, y: float, text: str, colour: str) -> None:
    from matplotlib.lines import Line2D

    figure.add_artist(Line2D((start, end), (y, y), color=colour, linewidth=2))
    figure.text((start + end) / 2, y + 0.003, text, ha="center", va="bottom", color=colour, fontweight="bold")


def _draw_picture(axes: Axes, samples: Samples, picture: Tensor, before: Tensor) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(visible=True, color="0.6", linewidth=0.5)
    if samples.dataset != "solids":
        axes.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=1)
        return
    outside = ~samples.inside
    size = picture.shape[0]
    axes.imshow(picture.masked_fill(outside, torch.nan).numpy(), cmap="PuOr", vmin=-0.5, vmax=0.5)
    for values, colour, width in ((before, "#00B8FF", 0.7), (picture, "black", 1.1)):
        values = values.masked_fill(outside, torch.nan)
        if values.nan_to_num(1.0).min() < 0 < values.nan_to_num(-1.0).max():  # contour warns of levels it cannot find
            axes.contour(values.numpy(), levels=[0.0], colors=colour, linewidths=width)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(-0.5, size - 0.5))


def _distance_colours() -> Any:
    """Bands of 0.05, dark far from the surface."""
    return _require_matplotlib().colormaps["PuOr"].resampled(round(2 * LIMIT / 0.05))


def _below(column: Column, row: int) -> str:
    if column.psnr is None:
        return "" if column.lam is None else f"1 − λ = {1 - float(column.lam[row]):.2f}"
    value = float(column.psnr[row])
    return "∞ dB" if value == float("inf") else f"{value:.1f} dB"


def _foot(figure: Figure, samples: Samples, width: float, height: float) -> None:
    text = (
        "Below each picture: PSNR against that of the fitted INR; below the fitted INR: against the data. "
        "MixUp: λ of the fitted INR and 1 − λ of the partner, the same in all columns."
    )
    if samples.dataset != "solids":
        figure.text(0.5, 0.12 / height, text, ha="center", fontsize=7)
        return
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure.text(0.5, 0.12 / height, text, ha="center", fontsize=7)
    bar = figure.add_axes((0.62, 0.5 / height, 0.3, 0.1 / height))
    figure.colorbar(
        ScalarMappable(Normalize(-LIMIT, LIMIT), _distance_colours()), cax=bar, orientation="horizontal", extend="both"
    )
    bar.tick_params(labelsize=7, length=2, pad=1)
    figure.text(
        0.6,
        0.5 / height,
        "Signed distance on the slice z = 0 of the unit sphere; black: zero level; blue: before the augmentation",
        ha="right",
        fontsize=7,
    )


# -- Figure 1 ----------------------------------------------------------------------------------------

_FAR = 100.0  # times the least loss: from there on a linear axis shows nothing of the others
QUANTITIES = {"loss": "cross-entropy", "accuracy": "accuracy (%)"}


def draw_curves(groups: Sequence[Group]) -> Figure:
    """The paper's Figure 1, for one data set: losses above, accuracies below, one column per number of views.

    Args:
        groups: The cells, in groups that differ in the seed alone.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import EngFormatter

    quantities = [q for q in QUANTITIES if any(q == curve.quantity for group in groups for curve in group.curves)]
    views = sorted({group.views for group in groups})
    names = list(dict.fromkeys(group.name for group in groups))
    if len(names) > len(COLOURS):
        many = f"{len(names)} models and rows in one figure, more than {len(COLOURS)}"
        raise ValueError(f"{many}: choose some --rows or --models")
    splits = [s for s in DASHES if any(s == curve.split for group in groups for curve in group.curves)]
    rows = list(dict.fromkeys(label_of(group.row) for group in groups))
    shown = names if len(rows) > 1 else list(dict.fromkeys(model_label(group.model) for group in groups))
    keys = [Line2D([], [], color=COLOURS[i], label=name) for i, name in enumerate(shown)]
    keys += [Line2D([], [], color="0.3", linestyle=DASHES[split], label=split) for split in splits]
    width = max(5.5, 0.75 + 3.4 * len(views))
    text = caption(groups, round(17 * width))
    # Inches, from below: caption, legend, labels of the axes, axes, titles.
    longest = max(len(str(key.get_label())) for key in keys)
    keys_across = max(1, min(len(keys), int(width / (0.5 + 0.062 * longest))))
    legend = 0.15 + 0.13 * (text.count("\n") + 1)
    bottom = legend + 0.19 * -(-len(keys) // keys_across) + 0.5
    height = bottom + 2.1 * len(quantities) + 0.55
    with _require_matplotlib().rc_context(STYLE):
        figure = _new_figure(width, height)
        grid = figure.subplots(
            len(quantities),
            len(views),
            squeeze=False,
            sharex="col",
            sharey="row",
            gridspec_kw={
                "left": 0.6 / width,
                "right": 1 - 0.15 / width,
                "bottom": bottom / height,
                "top": 1 - 0.5 / height,
                "hspace": 0.1,
                "wspace": 0.08,
            },
        )
        what = f", {rows[0][0].lower()}{rows[0][1:]}" if len(rows) == 1 and len(names) > 1 else ""
        figure.suptitle(f"INRs of {groups[0].dataset}{what}", y=1 - 0.06 / height, va="top", fontsize=9)
        for row, quantity in enumerate(quantities):
            for column, count in enumerate(views):
                axes = grid[row, column]
                axes.set_label(f"{quantity}/{count}")
                for group in groups:
                    if group.views != count:
                        continue
                    for curve in group.curves:
                        if curve.quantity == quantity:
                            _draw_curve(axes, curve, COLOURS[names.index(group.name)], group.name)
                axes.grid(color="0.9", linewidth=0.6)
                axes.set_axisbelow(True)
                if row == 0:
                    axes.set_title(f"{count} view{'s' * (count > 1)} per object", fontsize=8)
                if row == len(quantities) - 1:
                    axes.set_xlabel("update steps")
                    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            grid[row, 0].set_ylabel(QUANTITIES[quantity])
            means = [value for group in groups for c in group.curves if c.quantity == quantity for value in c.mean]
            if quantity == "loss" and max(means) > _FAR * min(means) > 0:
                grid[row, 0].set_yscale("log")
        figure.legend(
            handles=keys,
            loc="lower center",
            ncols=keys_across,
            frameon=False,
            borderaxespad=0,
            bbox_to_anchor=(0.5, legend / height),
        )
        figure.text(0.5, 0.07 / height, text, ha="center", va="bottom", fontsize=7)
    return figure


def _draw_curve(axes: Axes, curve: Curve, colour: str, name: str) -> None:
    best = min if curve.quantity == "loss" else max
    axes.fill_between(curve.steps, curve.least, curve.greatest, color=colour, alpha=0.15, linewidth=0)
    axes.plot(
        curve.steps,
        curve.mean,
        color=colour,
        linestyle=DASHES[curve.split],
        label=f"{name}, {curve.split}",
        linewidth=1.4,
    )
    if curve.split != "train":  # where more training stops to help
        at = curve.mean.index(best(curve.mean))
        axes.plot(curve.steps[at], curve.mean[at], "o", color=colour, markersize=4, label="_best")


if __name__ == "__main__":
    main()
