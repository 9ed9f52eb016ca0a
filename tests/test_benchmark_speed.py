"""The speed benchmark: its loops do the same work, its tables say what was measured. No time is asserted."""

from __future__ import annotations

import pytest
import torch

import weightaug as wa
from benchmarks import speed
from benchmarks.measuring import growth, loops, memory, singles, targets, training
from weightaug.adapters import from_dws, to_dws
from weightaug.functional import quantile_dropout
from weightaug.testing import assert_same_function, random_element


def figure(work, allocator="raised", batch=512, **times):
    return {**dict.fromkeys(("loop", "draw", "parts", "eager_apply", "compiled")), **times} | {
        "work": work,
        "allocator": allocator,
        "batch": batch,
    }


@pytest.mark.parametrize("name", ["SirenNegation", "SirenBias", "Permute", "ReLUScale"])
def test_the_loops_of_symmetries_keep_the_function_as_the_transforms_do(name):
    work = speed.WORK[name]
    element = random_element(work.architecture, (2,))
    torch.manual_seed(0)
    for i in range(2):
        weights, biases = work.loop([w[i] for w in element.weights], [b[i] for b in element.biases])
        moved = type(element)(work.architecture, tuple(weights), tuple(biases))
        assert_same_function(element[i], moved, tolerance=1e-6)  # the loop rounds k pi to float32


def test_the_loop_of_quantile_dropout_does_the_same(monkeypatch):
    element = random_element(speed.SIREN, (1,), dtype=torch.float32)
    monkeypatch.setattr(torch, "rand", lambda *shape: torch.full(shape, 0.5))
    weights, _ = loops.quantile_dropout([w[0] for w in element.weights], [b[0] for b in element.biases])
    ours = quantile_dropout(element, torch.tensor([0.05]), bound=0.1)
    for theirs, mine in zip(weights, ours.weights, strict=True):
        assert torch.equal(theirs, mine[0])


def test_goals_compare_what_was_measured():
    results = {
        "figures": [
            figure("SirenNegation", ours=100.0, clone=20.0, loop=4000.0),
            figure("GaussianNoise", ours=150.0, clone=20.0, loop=900.0, draw=100.0),
            figure("SirenNegation", "default", 64, ours=100.0, clone=10.0, loop=1400.0),
        ],
        "memory": {"Mixup": 3.5},
    }
    reached = {(g.what, g.case): g.reached for g in targets.goals(results)}
    assert reached == {
        ("SirenNegation: the loop's time", "batch 512, raised"): True,
        ("SirenNegation: a clone's time", "batch 512, raised"): True,
        ("GaussianNoise: the loop's time", "batch 512, raised"): False,
        ("GaussianNoise: the draw's time", "batch 512, raised"): False,
        ("SirenNegation: the loop's time", "batch 64, default"): False,
        ("SirenNegation: a clone's time", "batch 64, default"): False,
        ("Mixup: peak memory", "batch 16384"): False,
    }


def test_the_least_of_two_figures_is_taken_time_by_time():
    one = speed.Figure("raised", 64, "Mixup", ours=3.0, clone=1.0, loop=5.0)
    other = speed.Figure("raised", 64, "Mixup", ours=2.0, clone=2.0)
    assert one.least(other) == speed.Figure("raised", 64, "Mixup", ours=2.0, clone=1.0, loop=5.0)


def test_exponents_are_those_of_powers():
    points = [(float(x), 3.0 * x**2.5) for x in (1, 2, 4, 8, 16)]
    assert growth.exponent(points, 2) == pytest.approx(2.5)


def test_a_large_data_set_opens_in_little_memory():
    found = memory.loading(speed.SIREN, 2000, 100)
    assert found["shards"] == 20
    assert found["private_mb_before_the_first_batch"] < 4.7  # a half of what the networks take


@pytest.mark.parametrize("name", ["SirenNegation", "SirenBias", "Permute", "ReLUScale"])
def test_the_plain_code_for_one_network_keeps_the_function_as_the_transforms_do(name):
    architecture = speed.RELU if name == "ReLUScale" else speed.SIREN
    element = random_element(architecture, (1,))
    _, plain = singles.work_of(element)[name]
    moved = from_dws(*plain(to_dws(element), []), architecture)
    assert_same_function(element, moved, tolerance=1e-6)
    assert not torch.equal(element.weights[1], moved.weights[1])


@pytest.mark.parametrize(
    "name", ["Rotate", "Translate", "Scale", "Dropout", "QuantileDropout", "GaussianNoise", "Mixup, pool"]
)
def test_the_plain_code_for_one_network_changes_what_the_transforms_change(name):
    element = random_element(speed.SIREN, (2,), dtype=torch.float32)
    transform, plain = singles.work_of(element)[name]
    torch.manual_seed(0)
    ours = transform(element[:1])
    theirs = from_dws(*plain(to_dws(element[:1]), [to_dws(element[1:])]), speed.SIREN)
    for before, one, other in zip(element[:1].tensors(), ours.tensors(), theirs.tensors(), strict=True):
        if before.numel() > 32 or "Dropout" not in name:  # few numbers are kept or dropped by chance
            assert torch.equal(before, one) == torch.equal(before, other)


def test_singles_are_measured_for_every_transform():
    lines = singles.measure(speed.SIREN, speed.RELU, calls=1, rounds=1)
    assert {line.work for line in lines} >= set(singles.work_of(random_element(speed.SIREN, (1,))))
    assert "with conversion" in targets.singles_table([line._asdict() for line in lines])


def test_the_tables_of_the_page_come_from_the_results():
    results = {
        "machine": {"machine": "m", "threads": 2, "torch": "2", "numpy": "2", "numba": "not used"},
        "conditions": {"singles": {"load": 0.1, "copy_gb_s": 1.0, "matmul_gflop_s": 2.0, "sine_g_s": 3.0}},
        "figures": [
            figure("GaussianNoise", ours=150.0, clone=20.0, loop=900.0, draw=100.0),
            figure("SirenNegation", ours=100.0, clone=10.0, loop=3300.0),
            figure("SirenNegation", "default", 64, ours=100.0, clone=20.0, loop=1400.0),
        ],
        "memory": {"Mixup": 3.5, "Rotate": 0.1},
        "busy": [{"setting": "nothing set", "batch": 64, "alone": 50.0, "beside": 24000.0}],
        "training": [{"numbers": {"fitting speedup": 4.0}}],
    }
    tables = targets.page_tables(results)
    assert "| SirenNegation | >= 30 / >= 15 | 33 x | **14 x** | <= 6 clones | **10 x** | 5 x |" in tables["transforms"]
    assert "| GaussianNoise | >= 8 | **6 x** | - | <= 1.3 draws | **1.5 x** | - |" in tables["transforms"]
    assert "| fitting: one network at a time | >= 10 x | **4 x** |" in tables["other"]
    assert tables["other"].count("peak memory") == 1
    assert "**3.5 x the batch**" in tables["other"]
    assert "| nothing set, batch 64 | 50 | 24,000 |" in tables["busy"]
    assert "singles" not in tables
    assert "| singles | 0.1 | 1 | 2 | 3 |" in tables["machine"]


def test_dws_is_measured_against_its_blocks(monkeypatch):
    monkeypatch.setattr(training, "BATCH", 2)
    element = growth.networks(wa.Architecture.siren((2, 4, 3, 1)), 2)
    calls: list[object] = []

    def clock(function):
        calls.append(function())
        return 1.0

    lines = training.published_layers(element, clock, " here")
    assert [set(line.numbers) for line in lines] == [
        {f"{k} {n} here" for n in ("speedup", "bound")} for k in ("ds", "sab")
    ]
    assert len(calls) == 2 * 2 * 2 + 2  # two models, two set layers, two turns; and the machine's rates
