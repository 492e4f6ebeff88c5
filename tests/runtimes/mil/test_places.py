"""Operators that move elements, against numpy over shapes and places that hypothesis chooses."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from runtimes.mil.errors import ProgramError
from runtimes.mil.operators import creation, indexing, reduction, shapes

settings.register_profile("mil", deadline=None, max_examples=80, derandomize=True)
settings.load_profile("mil")

Array = NDArray[Any]
SHAPES = arrays.array_shapes(min_dims=1, max_dims=4, max_side=5)


def numbered(shape: tuple[int, ...]) -> Array:
    """Every element is another number."""
    return np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)


@st.composite
def slices(draw: Callable[..., Any]) -> dict[str, Any]:
    """A shape and a slice of it as Core ML writes one."""
    shape = draw(SHAPES)
    rank = len(shape)

    def each(choice: Callable[[int], Any]) -> tuple[Any, ...]:
        return tuple(draw(choice(size)) for size in shape)

    begin = each(lambda size: st.integers(-size, size - 1))
    return {
        "shape": shape,
        "begin": begin,
        "end": each(lambda size: st.integers(-size, size)),
        "stride": each(lambda _size: st.sampled_from([1, 1, 2, 3, -1, -2])),
        "begin_mask": draw(st.tuples(*[st.booleans()] * rank)),
        "end_mask": draw(st.tuples(*[st.booleans()] * rank)),
        "squeeze_mask": draw(st.tuples(*[st.sampled_from([False, False, True])] * rank)),
    }


def numpy_index(cut: dict[str, Any]) -> tuple[Any, ...]:
    """The same as numpy's basic index."""
    index: list[Any] = []
    for axis in range(len(cut["shape"])):
        if cut["squeeze_mask"][axis]:
            index.append(cut["begin"][axis])
            continue
        begin = None if cut["begin_mask"][axis] else cut["begin"][axis]
        end = None if cut["end_mask"][axis] else cut["end"][axis]
        index.append(slice(begin, end, cut["stride"][axis]))
    return tuple(index)


@given(cut=slices())
def test_a_slice_is_numpys(cut: dict[str, Any]) -> None:
    x = numbered(cut["shape"])
    parameters = {name: value for name, value in cut.items() if name != "shape"}
    found = indexing.slice_by_index(torch.from_numpy(x), **parameters)
    np.testing.assert_array_equal(found.numpy(), x[numpy_index(cut)])


@given(cut=slices())
def test_an_updated_slice_is_numpys_and_leaves_the_original(cut: dict[str, Any]) -> None:
    x = numbered(cut["shape"])
    wanted = x.copy()
    update = -1 - numbered(wanted[numpy_index(cut)].shape)
    wanted[numpy_index(cut)] = update
    parameters = {name: value for name, value in cut.items() if name != "shape"}
    given_x = torch.from_numpy(x)
    found = indexing.slice_update(given_x, torch.from_numpy(np.asarray(update)), **parameters)
    np.testing.assert_array_equal(found.numpy(), wanted)
    np.testing.assert_array_equal(given_x.numpy(), numbered(cut["shape"]))


@given(shape=SHAPES, data=st.data())
def test_gathering_is_numpys_take(shape: tuple[int, ...], data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    indices = data.draw(arrays.arrays(np.int32, SHAPES, elements=st.integers(0, shape[axis] - 1)))
    x = numbered(shape)
    found = indexing.gather(torch.from_numpy(x), torch.from_numpy(indices), axis)
    np.testing.assert_array_equal(found.numpy(), np.take(x, indices, axis))


@given(batch=st.integers(1, 3), sizes=st.tuples(*[st.integers(1, 4)] * 3), data=st.data())
def test_gathering_in_batches_is_gathering_in_each(
    batch: int, sizes: tuple[int, int, int], data: st.DataObject
) -> None:
    x = numbered((batch, *sizes))
    axis = data.draw(st.integers(1, 3))
    indices = data.draw(arrays.arrays(np.int32, (batch, 2), elements=st.integers(0, x.shape[axis] - 1)))
    found = indexing.gather(torch.from_numpy(x), torch.from_numpy(indices), axis, 1)
    wanted = np.stack([np.take(row, picks, axis - 1) for row, picks in zip(x, indices, strict=True)])
    np.testing.assert_array_equal(found.numpy(), wanted)


@pytest.mark.parametrize("index", [-1, 3])
def test_an_index_outside_is_an_error(index: int) -> None:
    x, indices = torch.zeros(3, 2), torch.tensor([index], dtype=torch.int32)
    for gathering in (indexing.gather, indexing.gather_nd):
        with pytest.raises(ProgramError, match=f"an index between {index} and {index} is outside an axis of 3"):
            gathering(x, indices)
    with pytest.raises(ProgramError, match="outside an axis of 3"):
        indexing.gather_along_axis(x, indices.reshape(1, 1))


@given(shape=SHAPES, data=st.data())
def test_padding_is_numpys(shape: tuple[int, ...], data: st.DataObject) -> None:
    mode = data.draw(st.sampled_from(["constant", "reflect", "replicate"]))
    count = data.draw(st.integers(1, len(shape)))
    most = min(shape[-count:]) - 1 if mode == "reflect" else 4
    amounts = data.draw(st.lists(st.integers(0, most), min_size=2 * count, max_size=2 * count))
    pairs = [(0, 0)] * (len(shape) - count) + list(zip(amounts[::2], amounts[1::2], strict=True))
    x = numbered(shape)
    found = shapes.pad(torch.from_numpy(x), tuple(amounts), mode)
    np.testing.assert_array_equal(found.numpy(), np.pad(x, pairs, {"replicate": "edge"}.get(mode, mode)))


@given(shape=SHAPES, data=st.data())
def test_sums_along_an_axis_are_numpys(shape: tuple[int, ...], data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = numbered(shape)
    plain = np.cumsum(x, axis)
    found = {
        (exclusive, reverse): reduction.cumsum(torch.from_numpy(x), axis, exclusive, reverse).numpy()
        for exclusive in (False, True)
        for reverse in (False, True)
    }
    backwards = np.flip(np.cumsum(np.flip(x, axis), axis), axis)
    np.testing.assert_array_equal(found[False, False], plain)
    np.testing.assert_array_equal(found[True, False], plain - x)
    np.testing.assert_array_equal(found[False, True], backwards)
    np.testing.assert_array_equal(found[True, True], backwards - x)


@given(values=st.lists(st.integers(-3, 3), min_size=1, max_size=12), ascending=st.booleans(), data=st.data())
def test_the_best_of_equals_is_the_first(values: list[int], ascending: bool, data: st.DataObject) -> None:
    x = torch.tensor(values, dtype=torch.float32)
    k = data.draw(st.integers(1, len(values)))
    best, places = indexing.topk(x, k, -1, ascending)
    order = sorted(range(len(values)), key=lambda at: (values[at] if ascending else -values[at], at))[:k]
    assert places.tolist() == order
    assert best.tolist() == [values[at] for at in order]
    assert int(reduction.reduce_argmax(x)) == values.index(max(values))
    assert int(reduction.reduce_argmin(x)) == values.index(min(values))


@given(indices=st.lists(st.integers(-1, 5), min_size=1, max_size=6), axis=st.sampled_from([-1, 0, 1]))
def test_one_hot_vectors_stand_along_their_axis(indices: list[int], axis: int) -> None:
    found = creation.one_hot(torch.tensor(indices, dtype=torch.int32), 5, axis)
    wanted = (np.array(indices)[:, None] == np.arange(5)).astype(np.int32)
    np.testing.assert_array_equal(found.numpy(), wanted.T if axis == 0 else wanted)


@given(shape=SHAPES, data=st.data())
def test_axes_that_are_added_come_off_again(shape: tuple[int, ...], data: st.DataObject) -> None:
    rank = len(shape) + data.draw(st.integers(1, 2))
    axes = tuple(
        data.draw(
            st.lists(st.integers(0, rank - 1), min_size=rank - len(shape), max_size=rank - len(shape), unique=True)
        )
    )
    x = torch.from_numpy(numbered(shape))
    widened = shapes.expand_dims(x, axes)
    np.testing.assert_array_equal(widened.numpy(), np.expand_dims(x.numpy(), axes))
    assert torch.equal(shapes.squeeze(widened, axes), x)
    perm = data.draw(st.permutations(range(rank)))
    np.testing.assert_array_equal(shapes.transpose(widened, tuple(perm)).numpy(), widened.numpy().transpose(perm))
