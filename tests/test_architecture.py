"""Architecture, Activation: look-ups, JSON, hashing, and errors that name what is wrong."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from hypothesis import given

from tests.networks import RESIDUAL, SIREN, mlps
from weightaug import Activation, Architecture, Layer, Space

X, Y = Space("x", 2), Space("y", 1)
H = Space("h", 3, Activation("relu"))
XH, HY = Layer("xh", "x", "h"), Layer("hy", "h", "y")


@pytest.mark.parametrize("name", Activation.known())
def test_declared_symmetries_hold(name: str) -> None:
    act = Activation(name, omega=2.5)
    z = torch.linspace(-2, 2, 41, dtype=torch.float64)
    close = lambda a, b: torch.allclose(a, b, atol=1e-12)
    assert close(act(-z), -act(z)) == act.odd
    assert close(act(-z), act(z)) == act.even
    assert close(act(3 * z), 3 * act(z)) == act.positively_homogeneous
    if act.half_period is not None:
        assert close(act(z + act.half_period), -act(z))
    assert set(act.symmetries) == {"permutation"} | {
        n
        for n, has in {
            "sign": act.odd or act.even,
            "phase": act.half_period is not None,
            "scale": act.positively_homogeneous,
        }.items()
        if has
    }


def test_half_period_follows_omega() -> None:
    assert Activation("sine", omega=30.0).half_period == pytest.approx(math.pi / 30)


def test_unknown_activation_warns_suggests_and_cannot_be_evaluated() -> None:
    with pytest.warns(UserWarning, match=r"'siren'.*only the permutation symmetry"):
        act = Activation("siren")
    with pytest.warns(UserWarning, match="did you mean 'sine'"):
        Activation("sin")
    assert not act.is_known
    assert act.symmetries == ("permutation",)
    with pytest.raises(ValueError, match=r"cannot evaluate the unknown activation 'siren'; known: .*sine"):
        act(torch.zeros(1))


@pytest.mark.parametrize("omega", [0.0, -1.0, math.inf, math.nan])
def test_omega_must_be_positive_and_finite(omega: float) -> None:
    with pytest.raises(ValueError, match="'sine': omega must be a positive finite number, got"):
        Activation("sine", omega)


@pytest.mark.parametrize(
    ("spaces", "layers", "message"),
    [
        ((), (XH,), "needs at least one space, got none"),
        ((X, Y), (), "needs at least one layer, got none"),
        ((X, X, Y), (Layer("l", "x", "y"),), "space name 'x' is used 2 times"),
        ((X, H, Y), (XH, Layer("xh", "h", "y")), "layer name 'xh' is used 2 times"),
        ((Space("x", 0), Y), (Layer("l", "x", "y"),), "space 'x': size must be at least 1, got 0"),
        ((X, Y), (Layer("l", "x", "z"),), r"layer 'l' writes 'z', which is no space; spaces: \['x', 'y'\]"),
        ((X, Y), (Layer("l", "x", "y", kernel=(3, 0)),), r"layer 'l': kernel sizes must be positive, got \(3, 0\)"),
        ((X, H, Y), (XH, Layer("l", "x", "y")), "hidden space 'h' is never read"),
        ((X, H, Y), (HY, Layer("l", "x", "y")), "hidden space 'h' is never written"),
        ((X, Space("h", 3), Y), (XH, HY), "space 'h' is both written and read, .*needs an activation"),
        ((X, Y, Space("z", 1)), (Layer("l", "x", "y"),), "space 'z' is neither read nor written"),
        ((X, H, Y), (XH, HY, Layer("hh", "h", "h")), r"cycle through the spaces \['h', 'y'\]"),
    ],
)
def test_errors_name_the_part(spaces: tuple[Space, ...], layers: tuple[Layer, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Architecture(spaces, layers)


def test_constructors_check_their_arguments() -> None:
    with pytest.raises(ValueError, match=r"at least an input and an output size, got \(3,\)"):
        Architecture.mlp((3,), "relu")
    with pytest.raises(ValueError, match="have 2 hidden spaces, got 1 activations"):
        Architecture.mlp((2, 3, 3, 1), ["relu"])
    with pytest.raises(ValueError, match="output_offset must be finite, got nan"):
        Architecture.mlp((2, 3, 1), "relu", output_offset=math.nan)


def test_siren_layers_and_omegas() -> None:
    assert [s.activation.omega for s in SIREN.hidden if s.activation] == [20.0, 30.0]
    assert [SIREN.weight_shape(i) for i in range(3)] == [(5, 2), (4, 5), (3, 4)]
    assert [SIREN.bias_shape(i) for i in range(3)] == [(5,), (4,), (3,)]
    assert SIREN.num_parameters == 15 + 24 + 15
    assert SIREN.is_chain
    assert not RESIDUAL.is_chain


def test_wiring_of_a_residual_network() -> None:
    wiring = RESIDUAL.wiring
    assert wiring.read_slots == (None, 0, None, 1, 0)
    assert wiring.write_slots == (0, 1, 1, None, None)
    assert wiring.bias_carriers == (0, 1)
    assert RESIDUAL.inputs == (RESIDUAL.spaces[0],)
    assert RESIDUAL.outputs == (RESIDUAL.spaces[3],)


@given(mlps())
def test_json_pickle_and_hash_round_trip(arch: Architecture) -> None:
    for copy in (Architecture.from_json(arch.to_json()), pickle.loads(pickle.dumps(arch))):
        assert copy == arch
        assert hash(copy) == hash(arch)
        assert copy.wiring == arch.wiring


@pytest.mark.parametrize("broken", [{}, {"spaces": [{"name": "x"}], "layers": [], "output_offset": 0.0}, {"spaces": 3}])
def test_from_dict_refuses_what_is_no_architecture(broken: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"not an architecture: .*Architecture.to_dict"):
        Architecture.from_dict(broken)


def test_a_cached_hash_does_not_travel_to_another_process() -> None:
    ours, theirs = Architecture.siren((2, 4, 1)), Architecture.siren((2, 4, 1))
    object.__setattr__(theirs, "_hash", hash(ours) + 1)  # as a process with another hash seed has it
    assert hash(theirs) != hash(ours)
    assert {ours: "found"}[pickle.loads(pickle.dumps(theirs))] == "found"
