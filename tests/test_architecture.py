"""Architecture, Activation: look-ups, JSON, hashing, and errors that name what is wrong."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import nn

from tests.networks import RESIDUAL, SIREN, mlps
from weightaug import Activation, Architecture, Layer, Space
from weightaug._differences import difference

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


# -- fields as people give them ----------------------------------------------------------------------


def test_numpy_numbers_lists_and_names_become_plain_fields() -> None:
    loose = Architecture(
        [Space("x", np.int64(2)), Space("h", torch.tensor(4), "tanh"), Space("y", np.uint8(1))],  # type: ignore[arg-type]
        [
            Layer("a", np.str_("x"), "h", kernel=[np.int32(3), 3], bias=np.True_),  # type: ignore[arg-type]
            Layer("b", "h", "y", bias=np.False_),  # type: ignore[arg-type]
        ],
        output_offset=np.float32(0.5),  # type: ignore[arg-type]
    )
    plain = Architecture(
        (Space("x", 2), Space("h", 4, Activation("tanh")), Space("y", 1)),
        (Layer("a", "x", "h", kernel=(3, 3)), Layer("b", "h", "y", bias=False)),
        output_offset=0.5,
    )
    assert loose == plain
    assert hash(loose) == hash(plain)
    assert loose.to_json() == plain.to_json()
    assert Architecture.from_json(loose.to_json()) == plain
    fields = [loose.spaces[0].size, loose.layers[0].kernel[0], loose.layers[0].bias, loose.layers[0].reads]
    assert [type(f) for f in fields] == [int, int, bool, str]
    assert type(Activation("sine", np.float64(30)).omega) is float
    assert type(Activation("sine", torch.tensor(30)).omega) is float  # type: ignore[arg-type]
    assert Architecture.mlp(np.array([2, 8, 1]), "tanh") == Architecture.mlp((2, 8, 1), "tanh")  # type: ignore[arg-type]


WRONG_FIELDS: dict[str, tuple[object, str]] = {
    "float size": (lambda: Space("h", 4.0), r"space 'h': size: expected an int, got 4\.0 \(float\)"),
    "bool size": (lambda: Space("h", True), r"space 'h': size: expected an int, got True \(bool\)"),
    "numpy bool size": (lambda: Space("h", np.True_), "size: expected an int"),
    "tensor bool size": (lambda: Space("h", torch.tensor(True)), "size: expected an int"),
    "tensor float size": (lambda: Space("h", torch.tensor(2.5)), "size: expected an int"),
    "string size": (lambda: Space("h", "4"), "size: expected an int"),
    "no size": (lambda: Space("h", None), "size: expected an int"),
    "name of a space": (lambda: Space(1, 4), r"Space: name: expected a string, got 1 \(int\)"),
    "module for an activation": (lambda: Space("h", 4, nn.ReLU()), r"got ReLU\(\); for example Activation\('relu'\)"),
    "class for an activation": (lambda: Space("h", 4, nn.LeakyReLU), r"Activation\('leaky_relu'\)"),
    "function for an activation": (lambda: Space("h", 4, torch.tanh), r"Activation\('tanh'\)"),
    "module in an MLP": (lambda: Architecture.mlp((2, 4, 1), nn.SiLU()), r"Activation\('silu'\)"),
    "modules in an MLP": (
        lambda: Architecture.mlp((2, 4, 4, 1), ["tanh", nn.Hardswish()]),
        "an Activation or its name",
    ),
    "no activation in an MLP": (lambda: Architecture.mlp((2, 4, 1), None), "an Activation or its name, got None"),
    "module for a name": (lambda: Activation(nn.Tanh()), r"Activation: name: expected a string, got Tanh\(\)"),
    "string for omega": (lambda: Activation("sine", "30"), "'sine': omega: expected a number, got '30'"),
    "bool for omega": (lambda: Activation("sine", True), "omega: expected a number"),
    "many for omega": (lambda: Activation("sine", torch.ones(2)), "omega: expected a number"),
    "float kernel": (lambda: Layer("a", "x", "h", kernel=(3.0,)), "layer 'a': kernel: expected an int"),
    "lone kernel": (lambda: Layer("a", "x", "h", kernel=3), "layer 'a': kernel: expected a tuple of ints, got 3"),
    "string kernel": (lambda: Layer("a", "x", "h", kernel="33"), "kernel: expected a tuple of ints"),
    "int for bias": (lambda: Layer("a", "x", "h", bias=1), "layer 'a': bias: expected True or False, got 1"),
    "space for its name": (lambda: Layer("a", X, "h"), "layer 'a': reads: expected a string"),
    "names for spaces": (lambda: Architecture("xy", ()), "spaces: expected a tuple of Space objects, got 'xy'"),
    "one space": (lambda: Architecture(X, ()), "spaces: expected a tuple of Space objects"),
    "dicts for layers": (lambda: Architecture((X, Y), ({"name": "a"},)), "layers: expected a tuple of Layer objects"),
    "string for an offset": (lambda: Architecture((X, Y), (Layer("a", "x", "y"),), "0.5"), "output_offset: expected"),
    "float sizes of an MLP": (lambda: Architecture.mlp((2, 4.7, 1), "relu"), r"sizes: expected an int, got 4\.7"),
    "one size of an MLP": (lambda: Architecture.mlp(4, "relu"), "sizes: expected a tuple of ints, got 4"),
    "string for a frequency": (lambda: Architecture.siren((2, 4, 1), omega="30"), "omega: expected a number"),
}


@pytest.mark.parametrize(("make", "message"), WRONG_FIELDS.values(), ids=WRONG_FIELDS)
def test_fields_of_another_type_are_refused_where_they_are_made(make: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError, match=message) as error:
        make()
    assert len(str(error.value)) < 300


def test_differences_are_short_and_name_what_differs() -> None:
    siren = Architecture.siren((2, 8, 8, 1))
    assert difference(siren, siren) == "nothing"
    assert difference(siren, Architecture.siren((2, 8, 8, 1), first_omega=29)) == (
        "space 'hidden1': activation omega 30.0 and 29.0"
    )
    assert difference(siren, Architecture.siren((2, 8, 4, 1), output_offset=0.5)) == (
        "sizes 2-8-8-1 and 2-8-4-1; output_offset 0.0 and 0.5"
    )
    assert difference(siren, Architecture.siren((2, 8, 1))).startswith(
        "sizes 2-8-8-1 and 2-8-1; space 'hidden2' only in the first; layer 'layer1': writes 'hidden2' and 'output'"
    )
    assert "layer 'layer0': bias True and False" in difference(
        Architecture.mlp((2, 8, 1), "relu"), Architecture.mlp((2, 8, 1), "relu", bias=False)
    )
    swapped = Architecture(siren.spaces, (siren.layers[1], siren.layers[0], siren.layers[2]))
    assert difference(siren, swapped) == "the order of the layers"


@given(mlps(), mlps())
def test_differences_are_found_and_short(first: Architecture, second: Architecture) -> None:
    text = difference(first, second)
    assert (text == "nothing") == (first == second)
    assert len(text) < 400


def test_differences_of_deep_networks_stay_short() -> None:
    deep = [Architecture.mlp((2, *[width] * 300, 1), name) for width, name in ((8, "relu"), (9, "tanh"))]
    assert len(difference(*deep)) < 400
    assert difference(*deep).endswith("and 298 more")


def test_a_changed_copy_of_layers_follows_them():
    import dataclasses

    old = Architecture.mlp((2, 8, 1), "tanh")
    layers = tuple(dataclasses.replace(layer, bias=False) for layer in old.layers)
    new = dataclasses.replace(old, layers=layers)
    assert new == Architecture.mlp((2, 8, 1), "tanh", bias=False)
    assert new.num_parameters == 24
