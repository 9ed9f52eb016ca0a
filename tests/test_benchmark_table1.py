"""The command: cells on disk, resuming, what happens on errors, and that the table shows the files' figures."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch

import weightaug as wa
from benchmarks import table1
from benchmarks.data import quality
from benchmarks.data.quality import INR_DEVIATIONS
from benchmarks.data.settings import ImageFitSettings
from benchmarks.data.store import Networks, load_networks
from benchmarks.running import files
from benchmarks.running.executor import Executor, JobsFailed
from benchmarks.table import notes, report, training
from benchmarks.table.rows import ROWS
from benchmarks.table.settings import PRESETS, Settings, TrainSettings
from weightaug import io

pytest.importorskip("sklearn")
pytest.importorskip("tyro")

TINY = ["--preset", "smoke", "--datasets", "digits", "--workers", "1"]
TINY += ["--fit.limit", "40", "--fit.steps", "3", "--train.epochs", "1"]
ALL_ROWS = ["--rows", *ROWS]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[list[str], Settings]:
    """One whole run at the smallest setting: all rows, one seed."""
    folder = tmp_path_factory.mktemp("runs")
    arguments = [*TINY, *ALL_ROWS, "--output", str(folder)]
    table1.main(arguments)
    return arguments, table1.parse(arguments)


@pytest.mark.parametrize("preset", ["quick", "smoke", "study-readers"])
def test_every_model_of_a_preset_trains(tmp_path, preset):
    models = table1.parse(["--preset", preset, *([] if preset != "study-readers" else ["--datasets", "digits"])]).models
    arguments = [*TINY, "--models", *models, "--rows", "none", "--output", str(tmp_path)]
    table1.main(arguments)
    assert all(cell.done for cell in table1.training_jobs(table1.parse(arguments)))


def test_all_rows_have_a_result_that_names_what_made_it(run):
    _, settings = run
    cells = table1.training_jobs(settings)
    assert [cell.row for cell in cells] == list(ROWS)
    for cell in cells:
        record = json.loads(cell.path.read_text())
        assert record["status"] == "finished"
        assert 0 <= record["test_accuracy"] <= 100
        assert record["settings"]["row"] == cell.row
        assert record["settings"]["fit"]["convention"]["omega"] == 30
        assert len(record["curves"]["train_loss"]) == 1
        assert record["versions"]["torch"] == torch.__version__
        assert record["networks"] == {"train": 25, "validation": 5, "test": 10}
    assert not list(settings.output.rglob("*.tmp"))


def test_running_again_trains_only_what_is_missing(run, capsys):
    arguments, settings = run
    cells = table1.training_jobs(settings)
    before = {cell.path: cell.path.stat().st_mtime_ns for cell in cells}
    fitted = {path: path.stat().st_mtime_ns for path in settings.output.rglob("*.safetensors")}
    old = json.loads(cells[3].path.read_text())
    cells[3].path.unlink()
    table1.main(arguments)
    assert f"{len(cells)} cells, {len(cells) - 1} of them from earlier runs" in capsys.readouterr().out
    changed = [cell.row for cell in cells if cell.path.stat().st_mtime_ns != before[cell.path]]
    assert changed == [cells[3].row]
    assert fitted == {path: path.stat().st_mtime_ns for path in settings.output.rglob("*.safetensors")}
    new = json.loads(cells[3].path.read_text())
    assert new["curves"] == old["curves"], "the same settings and seed gave another result"


def test_other_settings_do_not_take_these_results(run):
    _, settings = run
    other = dataclasses.replace(settings, train=dataclasses.replace(settings.train, learning_rate=1e-4))
    assert not any(cell.done for cell in table1.training_jobs(other))
    other = dataclasses.replace(settings, fit=dataclasses.replace(settings.fit, convention_name="siren"))
    assert not any(part.done for part in table1.fitting_jobs(other))


def test_the_table_shows_the_figures_of_the_files(run):
    _, settings = run
    cells = [
        dataclasses.replace(cell, seed=seed, folder=settings.output / "made_up")
        for seed in range(3)
        for cell in table1.training_jobs(settings)
    ]
    for cell in cells:
        outcome = {
            "status": "finished",
            "test_accuracy": 40.0 + cell.seed,
            "classes": 10,
            "networks": {"train": 1, "validation": 1},
        }
        outcome["networks"]["test"] = 50
        if cell.row == "label_smoothing":
            outcome["test_accuracy"] += 3
        if cell.row == "scale" or (cell.row == "noise" and cell.seed == 1):
            outcome = {"status": "diverged", "test_accuracy": None}
        if cell.row != "mixup" or cell.seed == 0:
            files.write_json(cell.path, {"settings": cell.settings, **outcome})
    (column,) = report.columns(cells)
    text = report.table(column)
    assert (
        "| No augmentation | 41.00 ± 1.00 | 38.5 to 43.5 | – | – | – | – | – | 68.30 ± 0.62 | 76.01 ± 1.20 | 68.84 "
        in text
    )
    assert (
        "| Gaussian noise | 41.00 ± 1.41 (1 diverged) | 28.3 to 53.7 | +0.00 ± 0.00 | +0.00 to +0.00 | – | – |" in text
    )
    assert "| MixUp | 40.00 (2 missing) | – | +0.00 | – | – | – | – | 74.36 ± 1.17 |" in text
    assert "| Label smoothing | 44.00 ± 1.00 | 41.5 to 46.5 | +3.00 ± 0.00 | +3.00 to +3.00 | < .001 | helps |" in text
    assert "no augmentation +31.0 points" in notes.notes([column])
    assert "| Scale | – (3 diverged) | – | – |" in text
    lines = report.as_csv([column]).splitlines()
    assert lines[1].startswith("digits,dws,1,none,No augmentation,3,0,0,41.0,1.0,2.4841377")
    assert lines[1].endswith(",0,,,,,,,,68.3,0.62,76.01,1.2,68.84,0.41,79.58,3.01")
    assert lines[4].startswith("digits,dws,1,scale,Scale,0,3,0,,,,,,0,,,,,,,,67.99,")
    assert len(lines) == 1 + len(ROWS)
    tex = report.latex(column)
    assert r"Gaussian noise & 41.00 $\pm$ 1.41 (1 diverged) & 28.3 to 53.7 &" in tex
    assert tex.count(r"\\") == 1 + len(ROWS)


def test_a_damaged_result_is_named_and_never_shown(run, tmp_path):
    _, settings = run
    cell = dataclasses.replace(table1.training_jobs(settings)[0], folder=tmp_path)
    cell.path.parent.mkdir(parents=True)
    cell.path.write_text('{"settings": ')
    with pytest.raises(ValueError, match=cell.path.name):
        report.read(cell)
    cell.path.write_text(json.dumps({"settings": {}, "status": "finished", "test_accuracy": 99.0}))
    with pytest.raises(ValueError, match="other settings"):
        report.read(cell)


def test_a_cell_whose_loss_is_no_number_is_recorded_as_diverged(run, tmp_path):
    _, settings = run
    cell = table1.training_jobs(settings)[0]
    networks = load_networks("digits", 1, settings.fit, settings.output / "inrs")
    broken = dataclasses.replace(networks, element=networks.element[:].map(lambda t: t * torch.nan))
    steps: list[int] = []
    outcome = training.train(cell, broken, steps.append)
    assert outcome["status"] == "diverged"
    assert outcome["test_accuracy"] is None
    assert sum(steps) == cell.train.epochs


def test_the_permuted_control_keeps_the_test_labels(run):
    _, settings = run
    cell = next(c for c in table1.training_jobs(settings) if c.row == "permuted_labels")
    networks = load_networks("digits", 1, settings.fit, settings.output / "inrs")
    shuffled, split = training.prepare(cell, networks).networks, training.split_images(networks, cell.train)
    assert torch.equal(shuffled.labels[split.test], networks.labels[split.test])
    for part in (split.train, split.validation):
        assert sorted(shuffled.labels[part].tolist()) == sorted(networks.labels[part].tolist())
    assert not torch.equal(shuffled.labels[split.train], networks.labels[split.train])


def test_the_canonical_row_turns_a_copy_in_other_symmetries_into_the_same_networks(run):
    _, settings = run
    cell = next(c for c in table1.training_jobs(settings) if c.row == "canonical")
    networks = load_networks("digits", 1, settings.fit, settings.output / "inrs")
    # In double precision, where the order of nearly equal neurons does not hang on rounding.
    networks = dataclasses.replace(networks, element=networks.element[:].to(torch.float64))
    generator = torch.Generator().manual_seed(0)
    moved = wa.Compose((wa.Permute(), wa.SirenNegation(), wa.SirenBias()))(networks.element[:], generator=generator)
    other = dataclasses.replace(networks, element=moved)
    here, there = (training.prepare(cell, n).networks.element.flatten() for n in (networks, other))
    assert not torch.allclose(networks.element[:].flatten(), moved.flatten(), atol=1e-3)
    torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-4)


def test_feature_mixup_mixes_what_enters_the_last_layer_and_the_targets_alike():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    inputs, targets = torch.randn(5, 3), torch.eye(5)
    mixed = training.FeatureMixup.draw(5, torch.Generator().manual_seed(0))
    assert not (mixed.partner == torch.arange(5)).any()
    with mixed.inside(model):
        scores = model(inputs)
    features = model[1](model[0](inputs))
    lam = mixed.lam.unsqueeze(1)
    torch.testing.assert_close(scores, model[2](lam * features + (1 - lam) * features[mixed.partner]))
    torch.testing.assert_close(mixed(targets), lam * targets + (1 - lam) * targets[mixed.partner])
    torch.testing.assert_close(model(inputs), model[2](features))


@pytest.mark.parametrize(("pool", "views", "expected"), [("views", (1, 2), None), ("all", (1, 2), 2), ("all", (1,), 1)])
def test_the_pool_of_partners_is_what_the_settings_say(run, pool, views, expected):
    arguments, _ = run
    settings = table1.parse([*arguments, "--mixup-pool", pool, "--views", *map(str, views)])
    cells = [c for c in table1.training_jobs(settings) if c.views == 1]
    assert {c.pool_views for c in cells if ROWS[c.row].mixes} == {expected}
    assert {c.settings["pool_views"] for c in cells if not ROWS[c.row].mixes} == {None}


def test_the_leak_of_the_papers_code_can_be_measured_on_one_view(run):
    arguments, _ = run
    settings = table1.parse([*arguments, "--mixup-pool", "all", "--fitted-views", "3"])
    assert {part.view for part in table1.fitting_jobs(settings)} == {0, 1, 2}
    cells = table1.training_jobs(settings)
    assert {(c.views, c.pool_views) for c in cells} == {(1, None), (1, 3)}
    with pytest.raises(ValueError, match="fitted_views must be at least 2, got 1"):
        Settings(views=(1, 2), fitted_views=1)


def test_a_classifier_is_tested_on_a_view_that_it_was_not_trained_on(run, tmp_path):
    arguments, _ = run
    settings = table1.parse([*arguments, "--fitted-views", "2", "--rows", "none", "mixup"])
    assert {cell.fresh_view for cell in table1.training_jobs(settings)} == {1}
    leak = table1.parse([*arguments, "--fitted-views", "2", "--mixup-pool", "all"])
    assert {cell.fresh_view for cell in table1.training_jobs(leak)} == {None}  # whose partners have been seen
    networks = load_networks("digits", 1, settings.fit, settings.output / "inrs")
    cell = next(c for c in table1.training_jobs(settings) if c.row == "none")
    cell = dataclasses.replace(cell, folder=tmp_path)

    def twice(second):
        element = wa.cat([networks.element[:], second(networks.element[:])])
        return training.train(cell, dataclasses.replace(networks, element=element, views=2), lambda units: None)

    same = twice(lambda view: view)
    assert same["fresh_accuracy"] == same["trained_accuracy"]
    other = twice(lambda view: view.map(lambda t: torch.zeros_like(t)))
    assert other["trained_accuracy"] == same["trained_accuracy"]
    assert other["last_accuracy"] == same["last_accuracy"]
    labels = networks.labels[training.split_images(networks, cell.train).train]
    shares = {100 * float((labels == label).float().mean()) for label in range(10)}
    assert other["fresh_accuracy"] in [pytest.approx(share) for share in shares]  # all one class


def test_seeds_with_samples_of_their_own(run, tmp_path):
    arguments, _ = run
    options = ["--redraw", "--seeds", "0", "1", "--rows", "none", "siren_negation", "--output", str(tmp_path)]
    settings = table1.parse([*arguments, *options])
    cells = table1.training_jobs(settings)
    assert {(c.fit.seed, c.train.split_seed) for c in cells} == {(0, 7), (1, 8)}
    assert len({part.path for part in table1.fitting_jobs(settings)}) == 2
    table1.main([*arguments, *options])
    (column,) = report.columns(cells)
    assert len(column.comparisons["siren_negation"].difference) == 3
    (again,) = report.recorded(tmp_path)
    assert again.rows == column.rows
    text = notes.notes([column])
    assert "They vary samples, split, fits" in text
    assert "are the same for all" not in text
    images = [table1.parse(["--preset", "study-redrawn"]).fit_of("fashion-mnist", seed).nth for seed in (0, 1, 2)]
    assert images == [0, 1, 2]


def test_training_on_fewer_of_the_samples():
    architecture = wa.Architecture.siren((2, 1, 1))
    element = wa.WeightSpaceElement.unflatten(architecture, torch.zeros(100, architecture.num_parameters))
    networks = Networks(element, torch.zeros(100, dtype=torch.int64), torch.zeros(100), 1, 10)
    for splits in (None, (60, 20, 20)):
        data = dataclasses.replace(networks, splits=splits)
        all_of_them = training.split_images(data, TrainSettings())
        fewer = training.split_images(data, TrainSettings(images=30))
        assert torch.equal(fewer.train, all_of_them.train[:30])
        assert torch.equal(fewer.test, all_of_them.test)
        assert torch.equal(fewer.validation, all_of_them.validation)


def test_partners_of_all_views_are_networks_of_training_images(run, tmp_path):
    _, settings = run
    networks = load_networks("digits", 1, settings.fit, settings.output / "inrs")
    both = dataclasses.replace(
        networks, element=wa.cat([networks.element[:], networks.element[:].map(lambda t: t + 1)])
    )
    both = dataclasses.replace(both, views=2)
    cell = next(c for c in table1.training_jobs(settings) if c.row == "aligned_mixup")
    cell = dataclasses.replace(cell, pool_views=2, folder=tmp_path)
    prepared = training.prepare(cell, both)
    pool = prepared.transform.pool
    images = prepared.split.train
    assert len(prepared.trained) == len(images)
    assert torch.equal(pool.element.flatten(), both.element[torch.cat([images, images + 40])].flatten())
    assert torch.equal(pool.targets[0].argmax(1), networks.labels[images].repeat(2))
    assert training.train(cell, both, lambda units: None)["status"] == "finished"


def test_the_learning_rate_rises_then_falls_or_stays():
    settings = TrainSettings(warmup=0.2)
    assert training.rate(0, 100, settings) == pytest.approx(1 / 21)
    assert training.rate(20, 100, settings) == 1
    assert training.rate(60, 100, settings) == pytest.approx(0.5)
    constant = dataclasses.replace(settings, schedule="constant", warmup_steps=1000)
    assert [training.rate(step, 10_000, constant) for step in (499, 1000, 9999)] == [pytest.approx(500 / 1001), 1, 1]
    assert training.rate(20, 100, constant) == 1  # at most a fifth of the steps


def test_the_relation_transformer_trains_and_can_be_repeated(run):
    arguments, _ = run
    chosen = ["--models", "dws", "relation-transformer", "--rows", "none", "feature_mixup"]
    cells = table1.training_jobs(table1.parse([*arguments, *chosen]))
    cells = [cell for cell in cells if cell.model == "relation-transformer"]
    assert [cell.train.learning_rate for cell in cells] == [1e-3, 1e-3]
    assert [cell.train.warmup_steps for cell in cells] == [1000, 1000]
    for cell in cells:
        networks = load_networks("digits", 1, cell.fit, cell.folder / "inrs")
        outcomes = [training.train(cell, networks, lambda units: None) for _ in range(2)]
        assert outcomes[0] == outcomes[1]


def test_the_preset_paper_has_the_papers_epochs_and_rates():
    settings = dataclasses.replace(PRESETS["paper"], datasets=("fashion-mnist",))
    cells = {(c.model, c.views): c for c in table1.training_jobs(settings) if c.row == "none" and c.seed == 0}
    assert {key: cell.train.epochs for key, cell in cells.items()} == {
        ("dws", 1): 300,
        ("dws", 10): 100,
        ("relation-transformer", 1): 300,
        ("relation-transformer", 10): 100,
    }
    assert cells["dws", 1].train.learning_rate == 5e-3
    assert cells["relation-transformer", 1].train.learning_rate == 1e-3
    assert len(table1.fitting_jobs(settings)) == 10 * 560
    shapes = dataclasses.replace(settings, datasets=("solids",), models=("dws",))
    assert {(cell.views, cell.train.epochs) for cell in table1.training_jobs(shapes)} == {(1, 250), (10, 250)}


def test_parts_of_a_job_list_are_the_whole(run):
    arguments, _ = run
    shares = [table1.of_part(range(19), table1.parse([*arguments, "--part", str(i), "4"])) for i in range(4)]
    assert sorted(n for share in shares for n in share) == list(range(19))
    with pytest.raises(ValueError, match="0 <= I < N"):
        Settings(part=(4, 4))


def test_a_report_alone_needs_no_networks(run, tmp_path, capsys):
    arguments, settings = run
    folder = tmp_path / "copy"
    for name in ("cells", "statistics"):
        shutil.copytree(settings.output / name, folder / name)
    capsys.readouterr()
    table1.main([*arguments, "--output", str(folder), "--steps", "report"])
    text = (folder / "table1-smoke.md").read_text()
    assert text == (settings.output / "table1-smoke.md").read_text()
    assert "40 networks fitted to digits; PSNR in dB: least" in text
    assert not (folder / "inrs").exists()


def test_networks_far_from_the_published_ones_are_warned_of(run):
    _, settings = run
    statistics = quality.statistics_of(load_networks("digits", 1, settings.fit, settings.output / "inrs"))
    assert quality.warnings("digits", statistics) == []
    deviations = dict(INR_DEVIATIONS["fashion-mnist"])
    deviations["layer1.weight"] *= 1.12
    deviations["layer0.bias"] *= 0.92
    statistics["deviations"] = deviations
    (warning,) = quality.warnings("fashion-mnist", statistics)
    assert "layer1.weight" in warning
    assert "| layer1.weight | 0.0363 | 0.0324 | +12 % |" in quality.table("fashion-mnist", statistics)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("fashion-mnist", r"train-images-idx3-ubyte.gz: missing"),
        (
            "modelnet10",
            r"expected ModelNet10\*.zip or a folder ModelNet10, here or in modelnet10/; get ModelNet10.zip from",
        ),
    ],
)
def test_missing_data_stop_the_run_with_one_message(tmp_path, dataset, message):
    arguments = ["--preset", "small", "--data-dir", str(tmp_path), "--output", str(tmp_path / "runs")]
    with pytest.raises(SystemExit, match=message):
        table1.main([*arguments, "--datasets", dataset])


def test_ray_says_what_to_install_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit, match=r"weightaug\[ray\]"):
        table1.main(["--preset", "smoke", "--executor", "ray"])


@pytest.mark.slow
def test_ray_with_two_workers_gives_what_the_serial_run_gives(run, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'weightaug[ray]'")
    arguments, settings = run
    folder = tmp_path / "ray"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray's own
        table1.main([*arguments, "--output", str(folder), "--executor", "ray", "--workers", "2"])
    for cell in table1.training_jobs(settings):
        other = dataclasses.replace(cell, folder=folder)
        serial, ray = (json.loads(c.path.read_text()) for c in (cell, other))
        for key in ("settings", "status", "test_accuracy", "curves"):
            assert serial[key] == ray[key], (cell.row, key)
    for part in table1.fitting_jobs(settings):
        other = dataclasses.replace(part, folder=folder / "inrs")
        assert torch.equal(io.load(part.path).element.flatten(), io.load(other.path).element.flatten())


def test_the_split_has_no_image_twice_and_all_views_of_one_on_one_side():
    architecture = wa.Architecture.siren((2, 1, 1))
    element = wa.WeightSpaceElement.unflatten(architecture, torch.zeros(1797, architecture.num_parameters))
    networks = Networks(element, torch.zeros(1797, dtype=torch.int64), torch.zeros(1797), 1, 10)
    split = training.split_images(networks, TrainSettings())
    parts = [set(part.tolist()) for part in (split.train, split.validation, split.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 1797


def test_rows_see_the_same_networks_in_the_same_order():
    # Otherwise differences between rows would also be differences between orders.
    generators = [torch.Generator().manual_seed(0) for _ in range(4)]
    networks = wa.WeightSpaceElement.unflatten(
        arch := wa.Architecture.siren((2, 3, 1)), torch.randn(50, wa.Architecture.siren((2, 3, 1)).num_parameters)
    )
    assert arch == networks.architecture
    targets = torch.eye(50)
    settings = TrainSettings(batch=8, augment_batch=16)
    plain = list(training._batches(networks, torch.arange(50), targets, None, settings, *generators[:2]))
    flipped = list(
        training._batches(networks, torch.arange(50), targets, wa.SirenNegation(), settings, *generators[2:])
    )
    assert len(plain) == len(flipped) == 6
    for (a, wanted_a), (b, wanted_b) in zip(plain, flipped, strict=True):
        assert torch.equal(wanted_a, wanted_b)
        torch.testing.assert_close(a.weights[0].abs(), b.weights[0].abs())
        assert not torch.equal(a.weights[0], b.weights[0])


@dataclasses.dataclass(frozen=True)
class Writes:
    """A job that writes a file, or raises."""

    path: Path
    error: type[BaseException] | None = None

    @property
    def done(self) -> bool:
        return self.path.exists()

    def run(self, progress) -> None:
        if self.error:
            raise self.error("planned")
        self.path.write_text("")
        progress(1)


def test_ctrl_c_keeps_what_is_finished(tmp_path):
    jobs = [Writes(tmp_path / "a"), Writes(tmp_path / "b", KeyboardInterrupt), Writes(tmp_path / "c")]
    with pytest.raises(KeyboardInterrupt), Executor(1) as executor:
        executor.run(jobs, [1, 1, 1], name="test", unit="job")
    assert [job.done for job in jobs] == [True, False, False]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failing_job_does_not_stop_the_others(tmp_path, workers):
    jobs = [Writes(tmp_path / "a", ValueError), Writes(tmp_path / "b"), Writes(tmp_path / "c")]
    with pytest.raises(JobsFailed, match=r"1 of 3 jobs failed.*planned"), Executor(workers) as executor:
        executor.run(jobs, [1, 1, 1], name="test", unit="job")
    assert [job.done for job in jobs] == [False, True, True]


def test_a_preset_is_the_default_of_every_option():
    assert table1.parse([]) == PRESETS["quick"]
    chosen = table1.parse(["--preset", "smoke", "--train.epochs", "7", "--rows", "none", "mixup", "--seeds", "4"])
    assert chosen.train.epochs == 7
    assert chosen.rows == ("none", "mixup")
    assert chosen.seeds == (4,)
    assert chosen.fit == PRESETS["smoke"].fit != ImageFitSettings()


def test_unknown_rows_are_refused():
    with pytest.raises(ValueError, match=r"rows must be of none, translate.*got jitter"):
        Settings(rows=("jitter",))
