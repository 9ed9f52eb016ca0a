"""The assignment solver: the best total, whatever the scores and prices."""

import sys
from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from scipy.optimize import linear_sum_assignment

from tests.test_matching import (
    ARCHITECTURES,
    networks,
    solver,  # noqa: F401  (an autouse fixture: with numba and without)
)
from weightaug import _loops
from weightaug.matching import assign, restarts
from weightaug.matching.assignment import assign_again, unknown_prices
from weightaug.matching.descent import Pairs
from weightaug.matching.rules import resolve


@given(st.integers(0, 999), st.integers(1, 12), st.sampled_from([0, 1, 3, 1000]))
def test_assignments_are_the_best_ones_and_come_with_prices(seed, n, values):
    # Few different values mean many ties; zero means that all are equal.
    generator = torch.Generator().manual_seed(seed)
    score = torch.randint(values + 1, (5, n, n), generator=generator).double()
    found, prices = assign_again(score, unknown_prices(score))
    assert torch.equal(found.sort(1).values, torch.arange(n).expand(5, n))
    reached = score.gather(2, found.unsqueeze(2)).squeeze(2)
    for i in range(5):
        rows, columns = linear_sum_assignment(score[i].numpy(), maximize=True)
        assert reached[i].sum() == pytest.approx(score[i, rows, columns].sum().item())
    if _loops.load("matching") is not None:  # then these are exact: no row would like another column better
        gain = (score - prices.unsqueeze(1)) - (reached - prices.gather(1, found)).unsqueeze(2)
        assert gain.max() <= 1e-9 * (values + 1)


def test_no_networks_no_assignments():
    score = torch.empty(0, 3, 3, dtype=torch.float64)
    assert assign(score).shape == assign_again(score, unknown_prices(score))[0].shape == (0, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(value):
    score = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    score[1, 2, 3] = value
    with pytest.raises(ValueError, match=r"4 x 4 scores that are finite.* 1 that"):
        assign(score)


@pytest.mark.parametrize("size", [1e-300, 1.0, 1e100, 1e160, 1.7e308])
@pytest.mark.parametrize("again", [False, True])
def test_scores_of_any_size_are_assigned(size, again):
    score = (torch.rand(4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1) * size
    score[3] /= size  # each matrix has a size of its own
    for _ in range(2):
        found = assign_again(score, unknown_prices(score))[0] if again else assign(score)
        expected = [linear_sum_assignment(s.numpy() / s.abs().max().item(), maximize=True)[1] for s in score]
        assert found.tolist() == [e.tolist() for e in expected]


@pytest.mark.parametrize(
    "score",
    [
        torch.tensor([[[1, 5], [2, 3]]]),
        torch.tensor([[[False, True], [False, False]]]),
        torch.tensor([[[-60000.0, 60000.0], [0.0, -60000.0]]], dtype=torch.float16),
        torch.tensor([[[1.0, 5.0], [2.0, 3.0]]], dtype=torch.bfloat16),
        torch.tensor([[[1.0, 5.0], [2.0, 3.0]]], requires_grad=True),
        torch.tensor([[[1.0, 2.0], [5.0, 3.0]]]).mT,
        torch.tensor([[[1.0, 5.0], [2.0, 3.0]]]).expand(3, 2, 2),
    ],
    ids=["int", "bool", "half", "bfloat16", "grad", "transposed", "expanded"],
)
def test_scores_of_any_form_are_assigned(score):
    found, prices = assign_again(score, unknown_prices(score))
    for result in (assign(score), found, assign_again(score, prices)[0]):
        assert result.tolist() == [[1, 0]] * len(score)
        assert result.dtype == torch.int64
        assert not result.requires_grad


def test_assignments_of_nothing():
    for shape in ((0, 3, 3), (2, 0, 0), (0, 0, 0)):
        assert assign(torch.zeros(shape)).shape == shape[:2]
        assert assign_again(torch.zeros(shape), unknown_prices(torch.zeros(shape)))[0].shape == shape[:2]


@pytest.mark.parametrize(
    ("score", "error", "message"),
    [
        (torch.zeros(1, 6, 4), ValueError, r"\(batch, n, n\), got shape \(1, 6, 4\).*fill up the smaller side"),
        (torch.zeros(4, 4), ValueError, r"got shape \(4, 4\).*unsqueeze\(0\)"),
        (torch.zeros(1, 2, 2, dtype=torch.complex64), TypeError, "real numbers, got a tensor of torch.complex64"),
        ([[[1.0]]], TypeError, "got list; torch.as_tensor"),
        (torch.eye(2).numpy()[None], TypeError, "got ndarray; torch.as_tensor"),
    ],
)
def test_what_are_no_scores_is_refused(score, error, message):
    with pytest.raises(error, match=message):
        assign(score)


@settings(deadline=None)
@given(st.sampled_from([x for x in ARCHITECTURES if x.hidden]), st.integers(0, 10**6), st.integers(0, 6))
def test_a_compiled_visit_finds_what_the_readable_one_finds(arch, seed, count):
    loops = _loops.load("matching")
    if loops is None:
        pytest.skip("compares numba's loops with the others: once is enough")
    rules = resolve(arch, "auto")
    a, b = (networks(arch, 5, seed=s) for s in (seed, seed + 1))
    compiled, readable = Pairs(a, b, rules), Pairs(a, b, rules)
    readable.loops = None
    moves = readable.descend(restarts.random_moves(b, rules, torch.Generator().manual_seed(seed)), max_sweeps=1)
    todo = None if count > 5 else torch.randperm(5, generator=torch.Generator().manual_seed(seed))[:count]
    for slot in range(len(rules)):
        for known in (None, frozenset(), frozenset([0])):
            for search in (True, False):
                pairs = torch.arange(5) if todo is None else todo
                if not len(pairs):
                    continue
                ours = compiled._visit(slot, moves, todo, known, search=search)
                theirs = readable._visit(slot, moves, todo, known, search=search)
                score, *_ = compiled.decide(slot, *ours[:2], todo)
                expected, *_ = readable.decide(slot, *theirs[:2], todo)
                torch.testing.assert_close(score, expected)  # ties may be broken differently
                torch.testing.assert_close(ours[2], theirs[2])


def test_assignments_stay_on_the_gpu_if_they_can(monkeypatch):
    # No GPU here: a stand-in for the solver, and for the flag of a tensor that says that it is on one.
    calls = []

    def solver(cost):  # noqa: F811
        calls.append(cost.shape)
        return torch.stack([cost[i].argmin(-1) for i in range(len(cost))])

    class OnGPU(torch.Tensor):
        is_cuda = True

    fake = torch.eye(4).repeat(3, 1, 1).as_subclass(OnGPU)
    from weightaug.matching import assignment

    monkeypatch.setattr(assignment, "on_device_solver", lambda: True)
    monkeypatch.setitem(sys.modules, "torch_linear_assignment", SimpleNamespace(batch_linear_assignment=solver))
    assert torch.equal(torch.as_tensor(assignment.assign(fake)), torch.arange(4).expand(3, 4))
    assert calls == [(3, 4, 4)]
    assignment.assign(torch.eye(4).repeat(3, 1, 1))
    assert len(calls) == 1  # host tensors go to the host's solver


def test_prices_without_numba_come_close(monkeypatch):
    monkeypatch.setattr(_loops, "load", lambda name: None)
    score = torch.rand(20, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, prices = assign_again(score, unknown_prices(score))

    def regret(prices):
        """How much better a row would like another column at most."""
        priced = score - prices.unsqueeze(1)
        return (priced - priced.gather(2, found.unsqueeze(2))).amax((1, 2)).mean()

    assert regret(prices) < 0.35 * regret(torch.zeros_like(prices))
