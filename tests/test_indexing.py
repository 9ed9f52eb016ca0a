"""Indices of networks: the same kinds for elements and rows, compared with NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weightaug import Architecture, WeightSpaceElement
from weightaug._indexing import normalise, rows

COUNT = 7
KINDS: dict[str, Any] = {
    "int": 3,
    "negative": -2,
    "numpy int": np.int32(3),
    "zero-dimensional tensor": torch.tensor(3),
    "zero-dimensional array": np.array(3),
    "slice": slice(1, 6, 2),
    "slice of NumPy ints": slice(np.int64(1), np.int64(6)),
    "backwards": slice(None, None, -2),
    "ellipsis": ...,
    "list": [1, 2, -1],
    "range": range(2, 5),
    "list of tensors": [torch.tensor(1), torch.tensor(5)],
    "empty list": [],
    "array": np.array([6, 0, -3]),
    "array of small ints": np.array([6, 0], dtype=np.uint8),
    "reversed array": np.arange(4)[::-1],
    "tensor": torch.tensor([1, 1, -7]),
    "int32 tensor": torch.tensor([1, 4], dtype=torch.int32),
    "mask list": [True, False, True, False, False, False, True],
    "mask array": np.arange(7) > 4,
    "mask tensor": torch.arange(7) < 2,
}


def networks(*batch: int) -> WeightSpaceElement:
    """Networks of 12 parameters whose every value is unique."""
    architecture = Architecture.mlp((2, 2, 2), "tanh")
    count = int(np.prod(batch)) * architecture.num_parameters
    return WeightSpaceElement.unflatten(architecture, torch.arange(count).double().reshape(*batch, -1))


def numbers(element: WeightSpaceElement) -> np.ndarray[Any, Any]:
    """The number of each network in the order of making."""
    return element.flatten()[..., 0].numpy()


def as_numpy(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(as_numpy(i) for i in index)
    if isinstance(index, list):
        return np.asarray([int(i) if isinstance(i, torch.Tensor) else i for i in index], dtype=None if index else int)
    return index.numpy() if isinstance(index, torch.Tensor) else index


@pytest.mark.parametrize("index", KINDS.values(), ids=KINDS)
def test_every_kind_means_what_it_means_to_numpy(index: Any) -> None:
    element = networks(COUNT)
    expected = element.flatten().numpy()[as_numpy(index)]
    np.testing.assert_array_equal(element[index].flatten().numpy(), expected)
    got = rows(index, COUNT)
    np.testing.assert_array_equal(np.arange(COUNT)[as_numpy(index)], got)
    assert isinstance(got, int) == (np.ndim(np.arange(COUNT)[as_numpy(index)]) == 0)


@pytest.mark.parametrize("index", KINDS.values(), ids=KINDS)
def test_every_kind_on_every_dimension(index: Any) -> None:
    if index is ... or (isinstance(index, slice) and index.step == -2):
        return
    for shape, where in (
        ((2, COUNT), (0, index)),
        ((2, COUNT), (slice(None), index)),
        ((2, COUNT, 3), (..., index, slice(1, None))),
        ((2, COUNT, 3), (1, index, 2)),
        ((2, COUNT), (None, slice(None), index)),
    ):
        np.testing.assert_array_equal(numbers(networks(*shape)[where]), numbers(networks(*shape))[as_numpy(where)])


@given(st.data())
def test_any_index_of_ints_and_slices(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    index = []
    for size in shape[: data.draw(st.integers(0, len(shape)))]:
        ends = st.none() | st.integers(-4, 4)
        index.append(
            data.draw(st.integers(-size, size - 1) | st.builds(slice, ends, ends, st.none() | st.integers(1, 3)))
        )
    batch = networks(*shape)
    np.testing.assert_array_equal(numbers(batch[tuple(index)]), numbers(batch)[tuple(index)])


NONE_AT_ALL: dict[str, Any] = {
    "float": 1.7,
    "float list": [1.7],
    "numpy float": np.float64(1.0),
    "float array": np.array([1.0]),
    "float tensor": torch.tensor([1.0]),
    "zero-dimensional float": torch.tensor(1.0),
    "string": "1",
    "strings": ["1", "2"],
    "bytes": b"1",
    "None": None,
    "list with None": [1, None],
    "bool": True,
    "numpy bool": np.True_,
    "zero-dimensional mask": torch.tensor(True),
    "mixed": [True, 2],
    "ragged": [[1, 2], [3]],
    "set": {1, 2},
    "dict": {0: 1},
    "complex": torch.ones(2, dtype=torch.complex64),
    "uint8 tensor": torch.ones(7, dtype=torch.uint8),
    "slice of floats": slice(0.0, 2.0),
    "slice of bools": slice(False, True),
}
BEYOND: dict[str, Any] = {
    "int": 7,
    "negative": -8,
    "large": 2**70,
    "list": [0, 7],
    "array": np.array([-8]),
    "unsigned": np.array([2**64 - 1], dtype=np.uint64),
    "tensor": torch.tensor([7]),
    "short mask": [True] * 6,
    "long mask": np.ones(8, dtype=bool),
    "mask of two dimensions": torch.ones(7, 2, dtype=torch.bool),
}


@pytest.mark.parametrize("index", NONE_AT_ALL.values(), ids=NONE_AT_ALL)
def test_what_is_no_index_is_refused(index: Any) -> None:
    calls = [lambda: networks(COUNT)[index], lambda: rows(index, COUNT)]
    if index is not None:
        calls.append(lambda: networks(2, COUNT)[0, index])
    for call in calls:
        with pytest.raises(IndexError, match=r"index of networks|mixes bools") as error:
            call()
        assert len(str(error.value)) < 300


@pytest.mark.parametrize("index", BEYOND.values(), ids=BEYOND)
def test_what_reaches_beyond_is_refused(index: Any) -> None:
    for call in (lambda: networks(COUNT)[index], lambda: rows(index, COUNT)):
        with pytest.raises(IndexError):
            call()


def test_a_mask_of_the_shape_of_the_weights_is_refused() -> None:
    for mask in (np.eye(2) > 0, torch.eye(2) > 0, [[True, False], [False, True]]):
        with pytest.raises(IndexError, match=r"reaches beyond the batch \(2,\)"):
            networks(2)[mask]


def test_rows_take_a_tuple_as_a_list_and_one_dimension_only() -> None:
    assert torch.equal(rows((1, 2), COUNT), torch.tensor([1, 2]))  # type: ignore[arg-type]
    with pytest.raises(IndexError, match="one dimension of rows"):
        rows(torch.zeros(2, 2, dtype=torch.long), COUNT)


def test_messages_name_the_index_and_the_range() -> None:
    with pytest.raises(IndexError, match=r"index 9 is out of range for 3 networks \(batch \(2, 3\), dimension 1\)"):
        networks(2, 3)[0, 9]
    with pytest.raises(IndexError, match=r"uint8\) is no index of networks; \.bool\(\) makes a mask"):
        networks(2)[torch.ones(2, dtype=torch.uint8)]
    with pytest.raises(IndexError, match=r"more than one \.\.\."):
        networks(2, 3)[..., ...]
    with pytest.raises(IndexError, match="steps must be positive"):
        networks(2, 3)[0, ::-1]


def test_another_default_device_changes_nothing() -> None:
    batch = networks(4)
    with torch.device("meta"):
        assert normalise([0, 1], (4,))[0].device.type == "cpu"  # type: ignore[union-attr]
        taken = [batch[i] for i in ([1, 2], np.array([1, 2]), slice(2, 0, -1))]
        taken_rows = rows(slice(1, 3), 4)
    assert all(e.device.type == "cpu" for e in taken)
    assert torch.equal(taken_rows, torch.tensor([1, 2]))  # type: ignore[arg-type]
