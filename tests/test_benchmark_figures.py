"""The figures: what is drawn is what the networks and the files say."""

from __future__ import annotations

import copy
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import weightaug as wa
from benchmarks import figures
from benchmarks.data.images import digits
from benchmarks.data.sdf import Sampling
from benchmarks.drawing import samples as figures_samples
from benchmarks.drawing.curves import caption, group_cells, read_cells
from benchmarks.drawing.samples import augmentations, columns, load_samples

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")


# -- reconstructions ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def samples():
    return load_samples("digits", steps=200)


@pytest.fixture(scope="module")
def shown(samples):
    return columns(samples, seed=3)


@pytest.fixture(scope="module")
def solids():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures_samples, "SOLIDS", replace(figures_samples.SOLIDS, sampling=Sampling(points=4096)))
        patch.setattr(figures_samples, "SLICE", 24)
        return load_samples("solids", (8, 0), steps=60)


def by_label(shown):
    return {column.label: column for column in shown}


def axes_of(figure):
    return {axes.get_label(): axes for axes in figure.axes}


def drawn(axes):
    return torch.from_numpy(np.ma.getdata(axes.images[0].get_array()))


def test_fitted_networks_show_the_data(samples):
    assert samples.psnr(samples.pictures(samples.networks), samples.truth).min() > 15
    assert torch.equal(samples.truth[0], digits().values[0])


def test_every_row_of_the_table_and_ours_has_a_column(shown):
    labels = [column.label for column in shown]
    for label in (
        *("Translate", "Rotation", "Scale", "Gaussian noise", "SIREN bias", "SIREN negation", "Dropout"),
        *("Quantile dropout", "MixUp", "MixUp + random perm.", "Alignment + MixUp", "Partner"),
        *("Reflect", "Affine", "Full-group alignment + MixUp"),
    ):
        assert labels.count(label) == 1, label
    assert labels.index("Partner") == labels.index("MixUp") - 1


def test_rows_that_change_no_network_or_mix_in_a_composition_have_none(monkeypatch):
    rows = {
        "no augmentation": None,
        "noise": wa.GaussianNoise,
        "smooth": wa.LabelSmoothing,
        "both": lambda: wa.Compose([wa.SirenNegation(), wa.AlignedMixup()]),
        "full": wa.AlignedMixup,
    }
    table = {label: SimpleNamespace(label=label, augmentation=make) for label, make in rows.items()}
    monkeypatch.setattr(figures_samples, "ROWS", table)
    assert list(augmentations()) == ["noise", "full", "Reflect", "Affine"]  # and what is the same is not shown twice


def test_exact_symmetries_show_the_same_and_others_do_not(shown):
    for column in shown:
        if column.transform is None:
            continue
        if column.transform.preserves is wa.Preserves.FUNCTION:
            assert column.psnr.min() > 80, column.label
        else:
            assert column.psnr.min() < 60, column.label
    assert by_label(shown)["SIREN negation"].psnr.isinf().all()


def test_geometry_shows_the_fitted_networks_at_moved_points(samples, shown):
    for label in ("Translate", "Rotation", "Scale", "Reflect", "Affine"):
        column = by_label(shown)[label]
        seed = figures_samples.seed_of("figure", 3, type(column.transform).__name__)
        params = column.transform.sample(samples.networks, generator=torch.Generator().manual_seed(seed))
        moved = samples.networks(params.map_points(samples.points), per_network=True).view_as(column.pictures)
        torch.testing.assert_close(column.pictures, moved, atol=1e-4, rtol=0)


def test_pictures_are_what_the_networks_give(samples, shown):
    for column in shown:
        assert torch.equal(column.pictures, column.networks(samples.points).view_as(column.pictures)), column.label


def test_mixing_shares_partners_and_shares(samples, shown):
    partner = by_label(shown)["Partner"]
    mixed = [c for c in shown if isinstance(c.transform, wa.Mixup)]
    assert len(mixed) == 4
    for column in mixed:
        assert torch.equal(column.lam, partner.lam)
        assert torch.equal(column.partner, partner.partner)
    assert torch.equal(partner.pictures, samples.pictures(samples.networks)[partner.partner])
    lam = partner.lam.unsqueeze(-1)
    flat = samples.networks.flatten()
    expected = lam * flat + (1 - lam) * flat[partner.partner]
    torch.testing.assert_close(by_label(shown)["MixUp"].networks.flatten(), expected)


def test_the_same_seed_gives_the_same_figure(samples, shown):
    for first, second in zip(shown, columns(samples, seed=3), strict=True):
        assert torch.equal(first.pictures, second.pictures)
    assert not torch.equal(by_label(columns(samples, seed=4))["MixUp"].pictures, by_label(shown)["MixUp"].pictures)


def test_drawn_pictures_and_numbers_are_those_of_the_columns(samples, shown):
    axes = axes_of(figures.draw_reconstructions(samples, shown))
    before = samples.pictures(samples.networks)
    for column in shown:
        for i in range(len(samples.labels)):
            place = axes[f"{column.label}/{i}"]
            assert torch.equal(drawn(place), column.pictures[i])
            assert place.images[0].get_clim() == (0, 1)
            if column.transform is None:
                assert place.get_xlabel() == f"1 − λ = {1 - float(column.lam[i]):.2f}"
                continue
            error = (column.pictures[i] - before[i]).square().mean()
            assert place.get_xlabel() == ("∞ dB" if error == 0 else f"{-10 * float(error.log10()):.1f} dB")


def test_solids_are_drawn_with_the_zero_levels_and_colours_around_zero(solids):
    assert solids.labels == ("torus", "box")
    shown = columns(solids)
    axes = axes_of(figures.draw_reconstructions(solids, shown))
    low, high = axes["Data/0"].images[0].get_clim()
    assert low == -high < 0
    column = by_label(shown)["Rotation"]
    picture = drawn(axes["Rotation/1"])
    assert torch.equal(picture[solids.inside], column.pictures[1][solids.inside])
    assert picture[~solids.inside].isnan().all()
    assert len(axes["Data/1"].collections) == 2
    assert by_label(shown)["SIREN bias"].psnr.min() > 80


def test_the_command_writes_both_formats(tmp_path, capsys):
    figures.main(["reconstructions", "--samples", "0", "1", "--steps", "2", "--out", str(tmp_path)])
    written = [tmp_path / f"reconstructions-digits.{ending}" for ending in ("png", "svg")]
    assert capsys.readouterr().out.split() == [str(path) for path in written]
    assert written[0].read_bytes().startswith(b"\x89PNG")
    assert "MixUp" in written[1].read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", "5"], "at least 2 samples"),
        (["--samples", "0", "1797"], "digits has 1797 images"),
        (["--dataset", "fashion_mnist", "--data-dir", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_of_reconstructions(arguments, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        figures.main(["reconstructions", "--steps", "1", "--out", str(tmp_path), *arguments])


# -- curves ------------------------------------------------------------------------------------------


def cell(seed=0, views=1, row="none", *, loss=(3.0, 2.0, 1.0), held=(2.5, 2.0, 2.2), epochs=3, status="finished"):
    curves = {"train_loss": [x + seed for x in loss], "validation_loss": list(held), "validation_accuracy": [9, 30, 28]}
    record = {
        "settings": {
            **{"dataset": "digits", "model": "dws", "row": row, "views": views, "seed": seed},
            "train": {"epochs": epochs, "batch": 16},
        },
        "status": status,
        "curves": curves if status == "finished" else {"train_loss": [1.0]},
    }
    return record | ({"networks": {"train": 160 * views}} if status == "finished" else {})


@pytest.fixture
def runs(tmp_path) -> Path:
    """Two seeds of 1 view, one of 10 views, one of another row."""
    folder = tmp_path / "runs" / "cells"
    folder.mkdir(parents=True)
    for i, record in enumerate([cell(0), cell(1), cell(0, views=10), cell(0, row="mixup")]):
        (folder / f"{i}.json").write_text(json.dumps(record))
    return folder.parent


def test_curves_are_read_and_averaged(runs):
    one, ten = group_cells(read_cells(runs))
    assert (one.views, one.seeds, ten.views, ten.seeds) == (1, (0, 1), 10, (0,))
    curve = next(c for c in one.curves if (c.split, c.quantity) == ("train", "loss"))
    assert curve.steps == [10, 20, 30]
    assert (curve.mean, curve.least, curve.greatest) == ([3.5, 2.5, 1.5], [3, 2, 1], [4, 3, 2])
    assert ten.curves[0].steps == [100, 200, 300]
    assert read_cells(runs) == read_cells(runs / "cells")
    assert len(read_cells(runs, rows=["mixup"])) == 1


def test_lines_are_the_curves(runs):
    axes = axes_of(figures.draw_curves(group_cells(read_cells(runs))))
    assert set(axes) == {"loss/1", "loss/10", "accuracy/1", "accuracy/10"}
    lines = {line.get_label(): line for line in axes["loss/1"].lines}
    assert list(lines["DWS: No augmentation, train"].get_ydata()) == [3.5, 2.5, 1.5]
    assert list(lines["DWS: No augmentation, train"].get_xdata()) == [10, 20, 30]
    assert list(lines["DWS: No augmentation, validation"].get_ydata()) == [2.5, 2.0, 2.2]
    assert (list(lines["_best"].get_xdata()), list(lines["_best"].get_ydata())) == ([20], [2.0])
    best = {line.get_label(): line for line in axes["accuracy/10"].lines}["_best"]
    assert (list(best.get_xdata()), list(best.get_ydata())) == ([200], [30])


@pytest.mark.parametrize("rows", [("none",), ("none", "negation_full_aligned_mixup", "full_aligned_mixup")])
@pytest.mark.parametrize("views", [(1,), (1, 10)])
def test_the_legend_lies_within_the_figure(rows, views):
    groups = group_cells([cell(0, row=row, views=v) for row in rows for v in views])
    figure = figures.draw_curves(groups)
    figure.savefig(io.BytesIO())
    legend = figure.legends[0].get_window_extent()
    assert 0 <= legend.x0 < legend.x1 <= figure.bbox.width


def test_the_caption_says_what_is_and_what_is_not_held(runs):
    text = caption(group_cells(read_cells(runs)), 1000)
    assert "mean of 1 to 2 seeds" in text
    assert "no test loss" in text
    assert "no validation loss" not in text
    assert "diverged" not in text
    assert "1 diverged cell left out" in caption(group_cells([cell(0), cell(1, status="diverged")]), 1000)


def test_curves_of_the_table_command_are_found(tmp_path, capsys):
    """The cells that table1.py writes have what is read here."""
    pytest.importorskip("tyro")
    from benchmarks import table1

    tiny = ["--preset", "smoke", "--datasets", "digits", "--workers", "1"]
    tiny += ["--fit.limit", "40", "--fit.steps", "3", "--train.epochs", "2"]
    table1.main([*tiny, "--rows", "none", "--output", str(tmp_path)])
    figures.main(["curves", "--runs", str(tmp_path), "--out", str(tmp_path / "figures")])
    assert "no cells of 10 views" in capsys.readouterr().out
    (group,) = group_cells(read_cells(tmp_path))
    assert ("train", "loss") in {(c.split, c.quantity) for c in group.curves}
    assert len(group.curves[0].mean) == 2
    assert (tmp_path / "figures" / "curves-digits.png").stat().st_size > 1000


def test_the_same_files_give_the_same_svg(runs, tmp_path):
    contents = []
    for name in ("a", "b"):
        figures.main(["curves", "--runs", str(runs), "--out", str(tmp_path / name)])
        contents.append((tmp_path / name / "curves-digits.svg").read_bytes())
    assert contents[0] == contents[1]


def test_cells_of_different_settings_are_not_averaged(runs):
    (runs / "cells" / "other.json").write_text(json.dumps(cell(0, epochs=300)))
    with pytest.raises(SystemExit, match=r"differ in train\.epochs; choose with --where train\.epochs=3"):
        figures.main(["curves", "--runs", str(runs)])
    assert len(read_cells(runs, where=["train.epochs=300"])) == 1
    assert len(read_cells(runs, models=["dws"])) == len(read_cells(runs))
    with pytest.raises(FileNotFoundError, match="mlp"):
        read_cells(runs, models=["mlp"])
    with pytest.raises(ValueError, match="expected KEY=VALUE"):
        read_cells(runs, where=["train.epoch=300"])


def test_settings_that_came_later_are_off_in_older_cells(runs):
    with pytest.raises(ValueError, match="expected KEY=VALUE"):
        read_cells(runs, where=["redraw=False"])
    newer = cell(7)
    newer["settings"]["redraw"] = True
    (runs / "cells" / "newer.json").write_text(json.dumps(newer))
    older, newest = (read_cells(runs, views=[1], where=[f"redraw={value}"]) for value in (False, True))
    assert [c["settings"]["seed"] for c in older] == [0, 1]
    assert [c["settings"]["seed"] for c in newest] == [7]


def test_losses_far_apart_are_drawn_on_a_logarithmic_axis_and_one_row_is_named_once():
    near = [cell(0), cell(0, views=10)]
    far = [*near, cell(0, held=(2.5, 1e6, 2.2))]
    far[-1]["settings"]["model"] = "mlp"
    for cells, scale, title in ((near, "linear", ""), (far, "log", ", no augmentation")):
        figure = figures.draw_curves(group_cells(cells))
        assert axes_of(figure)["loss/1"].get_yscale() == scale
        assert figure.get_suptitle() == f"INRs of digits{title}"
    assert [t.get_text() for t in figure.legends[0].get_texts()][:2] == ["DWS", "MLP on raw weights"]


def test_missing_and_damaged_cells(runs, tmp_path):
    with pytest.raises(SystemExit, match=r"no result files; make them with: python benchmarks/table1\.py"):
        figures.main(["curves", "--runs", str(tmp_path / "nowhere")])
    with pytest.raises(
        SystemExit, match=r"none of 4 result files has rows rotate and 10 views.*--rows rotate --views 10"
    ):
        figures.main(["curves", "--runs", str(runs), "--rows", "rotate", "--views", "10"])
    with pytest.raises(ValueError, match="none of 1 cells holds a curve"):
        group_cells([cell(status="diverged")])
    broken = copy.deepcopy(cell())
    del broken["curves"]
    (runs / "cells" / "broken.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match=r"broken\.json: damaged"):
        read_cells(runs)


@pytest.mark.parametrize("command", ["reconstructions", "curves"])
def test_without_matplotlib_the_extra_is_named(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit, match=r"pip install 'weightaug\[bench\]'"):
        figures.main([command])


def test_accuracy_over_the_number_of_images(tmp_path):
    from benchmarks.table.report import recorded
    from benchmarks.table.sizes import by_size

    small = Path(__file__).parents[1] / "benchmarks" / "results" / "small" / "cells"
    cells = tmp_path / "runs" / "cells"
    cells.mkdir(parents=True)
    for path in small.glob("fashion-mnist-dws-none-1view-seed*.json"):
        record = json.loads(path.read_text())
        (cells / path.name).write_text(json.dumps(record))
        record["settings"]["train"]["images"] = record["networks"]["train"] = 250
        record["test_accuracy"] -= 10
        (cells / f"few-{path.name}").write_text(json.dumps(record))
    lines = by_size(recorded(tmp_path / "runs"))
    assert list(lines) == [("none", 1)]
    few, all_ = lines["none", 1].values()
    assert list(lines["none", 1]) == [250, 3000]
    (axes,) = figures.draw_sizes(lines).axes
    (line,) = [line for line in axes.lines if len(line.get_ydata()) == 2 and line.get_linestyle() == "-"]
    assert list(line.get_ydata()) == [few.interval.mean, all_.interval.mean]
    figures.main(["sizes", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "sizes-fashion-mnist-dws.png").exists()
    for path in cells.glob("few*"):
        path.unlink()
    with pytest.raises(SystemExit, match="no row of several numbers of images"):
        figures.main(["sizes", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
