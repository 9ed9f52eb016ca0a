"""The command: cells on disk, resuming, what happens on errors, and that the table shows the files' figures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import weightaug as wa
from benchmarks import report, table1, train
from benchmarks.data.store import Networks, load_networks
from benchmarks.run import Executor, JobsFailed
from benchmarks.settings import PRESETS, ROWS, FitSettings, Settings, TrainSettings

pytest.importorskip("sklearn")
pytest.importorskip("tyro")

TINY = ["--preset", "smoke", "--workers", "1", "--fit.limit", "40", "--fit.steps", "3", "--train.epochs", "1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[list[str], Settings]:
    """One whole run at the smallest setting: all rows, one seed."""
    folder = tmp_path_factory.mktemp("runs")
    arguments = [*TINY, "--output", str(folder)]
    table1.main(arguments)
    return arguments, table1.parse(arguments)


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
    assert f"{len(cells) - 1} of them from earlier runs" in capsys.readouterr().out
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
        outcome = {"status": "finished", "test_accuracy": 40.0 + cell.seed, "networks": {"train": 1, "validation": 1}}
        outcome["networks"]["test"] = 50
        if cell.row == "noise" and cell.seed == 1:
            outcome = {"status": "diverged", "test_accuracy": None}
        if cell.row != "mixup" or cell.seed == 0:
            train.write_json(cell.path, {"settings": cell.settings, **outcome})
    text = report.table(cells)
    assert "| No augmentation | 41.00 ± 1.00 | 68.30 ± 0.62 |" in text
    assert "| Gaussian noise | 41.00 ± 1.41 (1 diverged) | 68.53 ± 0.09 |" in text
    assert "| MixUp | 40.00 (2 missing) | 74.36 ± 1.17 |" in text
    assert "no augmentation is +31.0 points" in report.notes(cells, 10)


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
    broken = dataclasses.replace(networks, element=networks.element.map(lambda t: t * torch.nan))
    steps: list[int] = []
    outcome = train.train(cell, broken, steps.append)
    assert outcome["status"] == "diverged"
    assert outcome["test_accuracy"] is None
    assert sum(steps) == cell.train.epochs


def test_the_split_has_no_image_twice_and_all_views_of_one_on_one_side():
    architecture = wa.Architecture.siren((2, 1, 1))
    element = wa.WeightSpaceElement.unflatten(architecture, torch.zeros(1797, architecture.num_parameters))
    networks = Networks(element, torch.zeros(1797, dtype=torch.int64), torch.zeros(1797), 1, 10)
    split = train.split_images(networks, TrainSettings())
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
    plain = list(train._batches(networks, targets, None, settings, *generators[:2]))
    flipped = list(train._batches(networks, targets, wa.SirenNegation(), settings, *generators[2:]))
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
    assert chosen.fit == PRESETS["smoke"].fit != FitSettings()


def test_unknown_rows_are_refused():
    with pytest.raises(ValueError, match="unknown row 'jitter'; rows: none, translate"):
        Settings(rows=("jitter",))
