"""What a user may get wrong at the benchmarks' door: found before the work, in one line that names it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import figures, speed, table1
from benchmarks.data.settings import ImageFitSettings, ShapeFitSettings
from benchmarks.measuring.stacked import Stacked
from benchmarks.models.settings import DWSSettings, TransformerSettings
from benchmarks.running.commands import command, said, writable
from benchmarks.running.executor import JobsFailed
from benchmarks.running.files import read_json, write_json
from benchmarks.table.settings import Settings, TrainSettings

pytest.importorskip("tyro")
pytest.importorskip("sklearn")

WRONG = {
    "--train.epochs 0": "train.epochs must be at least 1, got 0",
    "--train.epochs-shapes 0": "train.epochs-shapes must be at least 1, got 0",
    "--train.test 1.5": "train.test must be at least 0 and below 1, got 1.5",
    "--train.test .6 --train.validation .5": "below 1 together",
    "--train.batch 0": "train.batch must be at least 1, got 0",
    "--train.batch 500": "train.batch must be at most 126, all of digits, got 500",
    "--train.test 0": "digits: the number of networks to test on must be at least 1, got 0",
    "--train.learning-rate -1": "train.learning-rate must be above 0, got -1",
    "--train.learning-rate nan": "train.learning-rate must be above 0, got nan",
    "--train.weight-decay -1": "train.weight-decay must be at least 0, got -1",
    "--train.warmup 1": "train.warmup must be at least 0 and below 1, got 1",
    "--train.clip 0": "train.clip must be above 0, got 0",
    "--fit.limit -3": "fit.limit must be at least 1, got -3",
    "--fit.steps 0": "fit.steps must be at least 1, got 0",
    "--fit.batch 0": "fit.batch must be at least 1, got 0",
    "--fit.hidden 0": "fit.hidden must be at least 1, got 0",
    "--fit.images 1 0 1": "fit.images must be at least 1, got 0",
    "--shapes.noise -1": "shapes.noise must be at least 0, got -1",
    "--dws.layers 0": "dws.layers must be at least 1, got 0",
    "--transformer.heads 3": "transformer.attention must be a multiple of transformer.heads, 3, got 16",
    "--seeds": "seeds must be at least one, got none",
    "--seeds 0 0": "seeds must be named once each, got 0 0",
    "--seeds -1": "seeds must be at least 0, got -1",
    "--rows": "rows must be at least one, got none",
    "--rows none mixup none": "rows must be named once each, got none mixup none",
    "--rows mixxup": "rows must be of none, ",
    "--datasets digits digits": "datasets must be named once each",
    "--datasets digit": "--datasets",
    "--models": "models must be at least one",
    "--views 0": "views must be at least 1, got 0",
    "--workers 0": "workers must be at least 1, got 0",
    "--part 2 2": "part must be I N with 0 <= I < N, got 2 2",
    "--train.clip wide": "--train.clip",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_settings_are_checked_before_the_work(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        table1.main(["--preset", "smoke", "--datasets", "digits", "--output", str(tmp_path), *arguments.split()])
    text = str(error.value)
    assert WRONG[arguments] in text
    assert len(text.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
    assert "fitting" not in "".join(capsys.readouterr())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SystemExit, match="device must be cpu where there is no CUDA device, got cuda"):
        table1.main(["--preset", "smoke", "--output", str(tmp_path), "--device", "cuda"])
    with pytest.raises(SystemExit, match="device must be cpu"):
        speed.main(["--output", str(tmp_path), "--device", "cuda"])


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (TrainSettings, {"epochs": 0}, "train.epochs must be at least 1"),
        (ImageFitSettings, {"steps": 0}, "fit.steps must be at least 1"),
        (ShapeFitSettings, {"points_per_step": 0}, "shapes.points-per-step must be at least 1"),
        (DWSSettings, {"hidden": 20, "set_layer": "sab"}, "dws.hidden must be a multiple of dws.heads, 8, got 20"),
        (TransformerSettings, {"dropout": 1.0}, "transformer.dropout must be at least 0 and below 1"),
        (Settings, {"seeds": ()}, "seeds must be at least one"),
    ],
)
def test_settings_made_in_python_are_checked_too(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batches", "0"], "batches must be at least 2, got 0"),
        (["--seconds", "0"], "seconds must be above 0, got 0"),
        (["--rounds", "0"], "rounds must be at least 1, got 0"),
        (["--work", "Mixxup"], "work must be of SirenNegation"),
        (["--sections"], "sections must be at least one"),
        (["--loaded", "-1"], "loaded must be at least 1, got -1"),
    ],
)
def test_the_speed_command_checks_its_settings(arguments, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        speed.main([*arguments, "--output", str(tmp_path)])


@pytest.mark.parametrize("run", [table1.main, speed.main])
def test_an_output_that_cannot_be_written_is_found_first(run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "folder"):
        arguments = ["--preset", "smoke"] if run is table1.main else []
        with pytest.raises(SystemExit, match=r"file.*cannot be written to .*--output"):
            run([*arguments, "--output", str(output)])
    with pytest.raises(SystemExit, match=r"file.*cannot be written to .*--out"):
        figures.main(["reconstructions", "--out", str(tmp_path / "file")])
    assert "fitting" not in "".join(capsys.readouterr())


def test_a_folder_that_can_be_written_to_is_left_as_it_was(tmp_path):
    writable(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_errors_keep_their_file_and_are_never_empty(tmp_path):
    missing = tmp_path / "missing"
    with pytest.raises(SystemExit, match=f"{missing}: No such file"), command():
        missing.read_bytes()
    assert said(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "disk")) == "disk: No space left on device"
    assert said(KeyError("psnr")) == "KeyError('psnr')"
    assert said(AssertionError()) == "AssertionError()"
    with pytest.raises(JobsFailed, match=r"1 of 3 jobs failed.*FileNotFoundError: .*missing: No such file"):
        JobsFailed.raise_if([FileNotFoundError(2, "No such file or directory", str(missing))], 3)
    with pytest.raises(ZeroDivisionError), command():  # a fault of ours keeps its traceback
        _ = 1 / 0


DAMAGED = [b"", b"\xea\xff" * 40, b"[]", b"null", b"3", b'{"settings": ', b"{}", b"\0" * 100, b"[" * 100_000]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_every_damage_to_a_result_is_named_with_what_to_do(content, tmp_path):
    path = tmp_path / "cells" / "digits-dws-none.json"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path.name}: damaged .*; delete it, and it is made again"):
        read_json(path, "settings")
    with pytest.raises(SystemExit, match=f"{path.name}: damaged"):
        figures.main(["curves", "--runs", str(tmp_path), "--out", str(tmp_path / "out")])
    (tmp_path / "speed.json").write_bytes(content)
    with pytest.raises(SystemExit, match=r"speed.json: damaged .*measured again"):
        speed.main(["--output", str(tmp_path)])


def test_a_damaged_cell_is_found_before_the_others_are_trained(tmp_path, capsys):
    arguments = ["--preset", "smoke", "--datasets", "digits", "--rows", "none", "--workers", "1"]
    arguments += ["--fit.limit", "40", "--fit.steps", "3", "--train.epochs", "1", "--output", str(tmp_path)]
    table1.main(arguments)
    (cell,) = tmp_path.glob("cells/*.json")
    record = json.loads(cell.read_text())
    (statistics,) = tmp_path.glob("statistics/*.json")
    for key in ("status", "test_accuracy", "networks", "classes"):
        write_json(cell, {k: v for k, v in record.items() if k != key})
        capsys.readouterr()
        with pytest.raises(SystemExit, match=f"{cell.name}: damaged .*delete it"):
            table1.main([*arguments, "--seeds", "0", "1"])
        assert "training" not in capsys.readouterr().err
    write_json(cell, record)
    for content in (b"", b"{}", b'{"statistics": {}}', b'{"statistics": 3}'):
        statistics.write_bytes(content)
        with pytest.raises(SystemExit, match=f"{statistics.name}: damaged .*delete it"):
            table1.main([*arguments, "--steps", "report"])


def test_there_is_no_traceback(tmp_path):
    script = Path(table1.__file__)
    (tmp_path / "file").write_text("")
    for arguments in (["--train.epochs", "0"], ["--output", str(tmp_path / "file")]):
        done = subprocess.run(
            [sys.executable, str(script), "--preset", "smoke", *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "Traceback" not in done.stdout + done.stderr


def test_stacked_models_are_checked():
    with pytest.raises(ValueError, match="models must be at least one"):
        Stacked([])
    model = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="models must be named once each"):
        Stacked([model, model])
    with pytest.raises(ValueError, match="learning_rate must be above 0, got 0"):
        Stacked([model], learning_rate=0)
