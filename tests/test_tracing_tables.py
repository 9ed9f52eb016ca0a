"""Tables written by hand, from what is known of an architecture, against those that are derived from its module."""

from __future__ import annotations

import torch

from tests.families import ResNet18, WildPark, exercised
from weightaug import Activation, Architecture, GroupElement, Space, TensorSpec, WeightSpaceElement, act

RELU, NORM = Activation("relu"), Activation("batch_norm")
WIDTHS = (64, 128, 256, 512)


def normed(table: dict[str, str], norm: str, pre: str, post: str) -> None:
    """A BatchNorm between two spaces."""
    table |= {f"{norm}.weight": f"+{post}", f"{norm}.bias": f"+{post}"}
    table |= {f"{norm}.running_mean": f"+{pre}", f"{norm}.running_var": f"2{pre}"}


def by_hand(spaces: tuple[Space, ...], table: dict[str, str], names: list[str]) -> Architecture:
    assert set(table) == set(names)
    sizes = {space.name: space.size for space in spaces}
    specs = [TensorSpec.parse(n, table[n], sizes, 1e-5 if n.endswith("var") else None) for n in names]
    return Architecture(spaces, tensors=tuple(specs))


def assert_same_but_for_names(hand: Architecture, derived: Architecture) -> dict[str, str]:
    """That every tensor follows corresponding spaces, with equal degrees; the derived name of every space by hand."""
    pairs: dict[str, str] = {}
    for mine, theirs in zip(hand.tensors, derived.tensors, strict=True):
        assert (mine.name, mine.shape, mine.eps) == (theirs.name, theirs.shape, theirs.eps)
        flat = [[f.roles for axis in spec.axes for section in axis for f in section] for spec in (mine, theirs)]
        for x, y in zip(*flat, strict=True):
            assert len(x) == len(y), mine.name
            for (m, d), (t, e) in zip(x, y, strict=True):
                assert d == e, mine.name
                assert pairs.setdefault(m, t) == t, mine.name
    ours = {space.name: space for space in derived.hidden}
    assert sorted(pairs.values()) == sorted(ours)  # one to one

    def moves_like(architecture: Architecture, name: str) -> frozenset[str]:
        slots = [space.name for space in architecture.hidden]
        master = architecture.masters[slots.index(name)]
        return frozenset(n for n, m in zip(slots, architecture.masters, strict=True) if m == master)

    for space in hand.hidden:
        other = ours[pairs[space.name]]
        assert (other.size, other.activation) == (space.size, space.activation)
        assert moves_like(derived, other.name) == {pairs[n] for n in moves_like(hand, space.name)}
    return pairs


def test_a_small_network_with_a_skip():
    torch.manual_seed(0)
    derived = Architecture.from_module(exercised(WildPark()), torch.randn(2, 1, 9, 9, dtype=torch.float64))
    spaces = (
        Space("a", 6, NORM), Space("post_a", 6, RELU, permutes_with="a"), Space("b", 6, NORM, permutes_with="a"),
        Space("c", 5, NORM), Space("post_c", 5, RELU, permutes_with="c"),
    )  # fmt: skip
    table = {
        "first.weight": "+a 1 3 3", "first.bias": "+a", "second.weight": "+b -post_a 3 3", "second.bias": "+b",
        "third.weight": "+c -post_a 3 3", "third.bias": "+c", "head.weight": "3 -post_c", "head.bias": "3",
    }  # fmt: skip
    for norm, pre, post in ((0, "a", "post_a"), (1, "b", "post_a"), (2, "c", "post_c")):
        normed(table, f"norms.{norm}", pre, post)
    assert_same_but_for_names(by_hand(spaces, table, [spec.name for spec in derived.tensors]), derived)


def resnet18_by_hand(names: list[str]) -> Architecture:
    """ResNet-18: a stream for each stage, and the channels inside of each block, 4 + 8 permutations in all.

    A stream is written by the second convolution of both blocks of its stage, and by the stem or the convolution on the
    skip; it is read by the first convolutions of its blocks, the second block's skip passing it on, and by the next
    stage. Before every BatchNorm, factors are free: 20 spaces more.
    """
    spaces: list[Space] = []
    table: dict[str, str] = {"fc.weight": "1000 -stream4", "fc.bias": "1000"}

    def convolution(conv: str, norm: str, post: str, kernel: int, read: str) -> None:
        pre = f"pre_{norm.replace('.', '_')}"
        spaces.append(Space(pre, WIDTHS[stage - 1], NORM, permutes_with=post))
        table[f"{conv}.weight"] = f"+{pre} {read} {kernel} {kernel}"
        normed(table, norm, pre, post)

    for stage, width in enumerate(WIDTHS, 1):
        stream = f"stream{stage}"
        spaces.append(Space(stream, width, RELU))
        if stage == 1:
            convolution("conv1", "bn1", stream, 7, "3")
        else:
            skip = f"layer{stage}.0.downsample"
            convolution(f"{skip}.0", f"{skip}.1", stream, 1, f"-stream{stage - 1}")
        for block in range(2):
            path = f"layer{stage}.{block}"
            inside = f"inside{stage}_{block}"
            spaces.append(Space(inside, width, RELU))
            before = stage - 1 if block == 0 and stage > 1 else stage
            convolution(f"{path}.conv1", f"{path}.bn1", inside, 3, f"-stream{before}")
            convolution(f"{path}.conv2", f"{path}.bn2", stream, 3, f"-{inside}")
    return by_hand(tuple(spaces), table, names)


def test_resnet18():
    torch.manual_seed(0)
    module = exercised(ResNet18())
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    derived = Architecture.from_module(module, x)
    hand = resnet18_by_hand([spec.name for spec in derived.tensors])
    assert len(set(hand.masters)) == 4 + 8
    assert len(hand.hidden) == len(derived.hidden) == 12 + 20
    pairs = assert_same_but_for_names(hand, derived)

    # One symmetry, written for both, moves the module's tensors alike, and the module computes the same.
    generator = torch.Generator().manual_seed(0)
    permutation, scale = {}, {}
    for slot, space in enumerate(hand.hidden):
        draw = torch.rand(space.size, generator=generator, dtype=torch.float64)
        permutation[space.name] = draw.argsort() if hand.masters[slot] == slot else None
        scale[space.name] = 1.2 ** (2 * draw - 1)
    by_derived = {theirs: mine for mine, theirs in pairs.items()}
    state = module.state_dict()
    moved = []
    for architecture, name_of in ((hand, {n: n for n in permutation}), (derived, by_derived)):
        names = [name_of[space.name] for space in architecture.hidden]
        permutations = list[torch.Tensor | None](None for _ in names)
        for name in names:  # the space that holds the permutation may be another one of those that share it
            if (order := permutation[name]) is not None:
                permutations[architecture.masters[names.index(name)]] = order
        group = GroupElement.of(
            architecture, permutation=tuple(permutations), scale=tuple(scale[name] for name in names)
        )
        tensors = tuple(state[spec.name] for spec in architecture.tensors)
        moved.append(act(WeightSpaceElement(architecture, tensors, ()), group))
    for (name, one), other in zip(moved[0].named_tensors(), moved[1].tensors(), strict=True):
        assert torch.equal(one, other), name
        assert name == "fc.bias" or not torch.equal(one, state[name]), name
    with torch.no_grad():
        expected = module(x)
        got = torch.func.functional_call(module, dict(moved[0].named_tensors()), (x,))
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-9
