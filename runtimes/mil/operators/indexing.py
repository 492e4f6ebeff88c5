"""Reading and writing by index.

In the opsets known here an index below zero is outside, and what a device answers to one outside is undefined; here it
is an error, since no right program depends on it.
"""

from typing import Final

import torch
from torch import Tensor

from runtimes.mil.errors import ProgramError, UnsupportedProgramError
from runtimes.mil.operators.kinds import Bools, Ints, Stored

SCATTER_MODES: Final = ("add", "div", "max", "min", "mul", "sub", "update")


def argsort(x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    return torch.argsort(x, dim=axis, descending=not ascending, stable=True).to(torch.int32)


def band_part(x: Stored, lower: int = -1, upper: int = -1) -> Tensor:
    """What is outside the band becomes zero, whatever it was."""
    below = torch.arange(x.shape[-2])[:, None] - torch.arange(x.shape[-1])[None, :]
    inside = ((below <= lower) | (lower < 0)) & ((-below <= upper) | (upper < 0))
    return torch.where(inside, x, torch.zeros((), dtype=x.dtype))


def gather(x: Stored, indices: Stored, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    _ = validate_indices  # always
    at = axis % x.dim()
    places = _inside(indices, x.shape[at])
    if batch_dims == 0:
        chosen = x.index_select(at, places.reshape(-1))
        return chosen.reshape(*x.shape[:at], *indices.shape, *x.shape[at + 1 :])
    batch = x.shape[:batch_dims]
    rows = x.reshape(-1, *x.shape[batch_dims:])
    picks = places.reshape(rows.shape[0], *indices.shape[batch_dims:])
    chosen = torch.stack([gather(row, pick, at - batch_dims) for row, pick in zip(rows, picks, strict=True)])
    return chosen.reshape(*batch, *chosen.shape[1:])


def gather_along_axis(x: Stored, indices: Stored, axis: int = 0, validate_indices: bool = False) -> Tensor:
    _ = validate_indices  # always
    places = _inside(indices, x.shape[axis])
    at = axis % x.dim()
    shape = [places.shape[at] if dim == at else size for dim, size in enumerate(x.shape)]
    return torch.gather(x, at, places.expand(shape))


def gather_nd(x: Stored, indices: Stored, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    _ = validate_indices  # always
    if batch_dims:
        rows = x.reshape(-1, *x.shape[batch_dims:])
        picks = indices.reshape(-1, *indices.shape[batch_dims:])
        chosen = torch.stack([gather_nd(row, pick) for row, pick in zip(rows, picks, strict=True)])
        return chosen.reshape(*x.shape[:batch_dims], *chosen.shape[1:])
    return x[_coordinates(x, indices)]


def non_zero(x: Stored) -> Tensor:
    return torch.nonzero(x).to(torch.int32)


def scatter(
    data: Tensor, indices: Stored, updates: Tensor, axis: int = 0, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    _ = validate_indices  # always
    places = _inside(indices, data.shape[axis])
    rows, changes = data.movedim(axis, 0).clone(), updates.movedim(axis, 0)
    for place, change in zip(places.tolist(), changes, strict=True):
        rows[place] = _combine(rows[place], change, mode)
    return rows.movedim(0, axis)


def scatter_along_axis(
    data: Tensor, indices: Stored, updates: Tensor, axis: int = 0, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    _ = validate_indices  # always
    places = _inside(indices, data.shape[axis])
    _check_mode(mode)
    if mode == "update":
        return data.scatter(axis, places, updates)
    if mode in ("sub", "div"):
        changes = -updates if mode == "sub" else 1 / updates
        return data.scatter_reduce(axis, places, changes, "sum" if mode == "sub" else "prod")
    return data.scatter_reduce(axis, places, updates, {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}[mode])


def scatter_nd(
    data: Tensor, indices: Stored, updates: Tensor, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    _ = validate_indices  # always
    places = torch.stack(_coordinates(data, indices), -1).reshape(-1, indices.shape[-1])
    changes = updates.reshape(places.shape[0], *data.shape[indices.shape[-1] :])
    result = data.clone()
    for place, change in zip(places.tolist(), changes, strict=True):
        result[tuple(place)] = _combine(result[tuple(place)], change, mode)
    return result


def slice_by_index(
    x: Stored,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    for axis, places in enumerate(_slices(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)):
        x = _pick(x, axis, places)
    return x.squeeze([axis for axis, alone in enumerate(squeeze_mask or ()) if alone])


def slice_by_size(x: Stored, begin: Ints, size: Ints) -> Tensor:
    """A size of -1 reaches to the end."""
    for axis, (start, length) in enumerate(zip(begin, size, strict=True)):
        first = start + x.shape[axis] if start < 0 else start
        count = x.shape[axis] - first if length == -1 else length
        if first < 0 or count < 0 or first + count > x.shape[axis]:
            raise ProgramError(f"cannot take {length} from {start} on of an axis of {x.shape[axis]}")
        x = x.narrow(axis, first, count)
    return x


def slice_update(
    x: Stored,
    update: Stored,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    places = _slices(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    shape = [len(axis_places) for axis_places in places]
    alone = squeeze_mask or (False,) * x.dim()
    wanted = [size for size, dropped in zip(shape, alone, strict=True) if not dropped]
    if list(update.shape) != wanted:
        raise ProgramError(f"an update of shape {tuple(update.shape)} does not fit the slice of {tuple(wanted)}")
    result = x.clone()
    if all(along.step == 1 for along in places):
        result[tuple(slice(p.start, p.stop) for p in places)] = update.reshape(shape)
        return result
    grid = torch.meshgrid(
        *(torch.tensor(list(axis_places), dtype=torch.int64) for axis_places in places), indexing="ij"
    )
    result[grid] = update.reshape(shape)
    return result


def sliding_windows(x: Stored, axis: int, size: int, stride: int = 1) -> Tensor:
    at = axis % x.dim()
    return x.unfold(at, size, stride).movedim(-1, at + 1)


def topk(
    x: Stored,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> tuple[Tensor, ...]:
    """Sorted whether asked or not; of equals the first."""
    _ = sort
    count = x.shape[axis] if k == -1 else k
    order = torch.argsort(x, dim=axis, descending=not ascending, stable=True).narrow(axis, 0, count)
    values = torch.gather(x, axis, order)
    indices = order.to({"int32": torch.int32, "uint16": torch.uint16}[output_indices_dtype])
    return (values, indices) if return_indices else (values,)


def _inside(indices: Tensor, size: int) -> Tensor:
    """Indices as torch takes them, once they are known to lie inside an axis."""
    places = indices.to(torch.int64)
    if places.numel() and not 0 <= int(places.min()) <= int(places.max()) < size:
        raise ProgramError(f"an index between {int(places.min())} and {int(places.max())} is outside an axis of {size}")
    return places


def _coordinates(x: Tensor, indices: Tensor) -> tuple[Tensor, ...]:
    """One index tensor an axis, from the last axis of `indices`."""
    return tuple(_inside(indices[..., axis], x.shape[axis]) for axis in range(indices.shape[-1]))


def _slices(
    x: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None,
    begin_mask: Bools | None,
    end_mask: Bools | None,
    squeeze_mask: Bools | None,
) -> list[range]:
    """The places along each axis; what reaches outside is cut, as Python's slices do."""
    rank = x.dim()
    masks = [mask or (False,) * rank for mask in (begin_mask, end_mask, squeeze_mask)]
    steps = stride or (1,) * rank
    if any(len(part) != rank for part in (begin, end, steps, *masks)):
        raise ProgramError(f"a slice of {begin} to {end} does not fit a tensor of shape {tuple(x.shape)}")
    places = []
    for axis, size in enumerate(x.shape):
        from_start, to_end, alone = (mask[axis] for mask in masks)
        if alone:
            first = begin[axis] + size if begin[axis] < 0 else begin[axis]
            if not 0 <= first < size:
                raise ProgramError(f"place {begin[axis]} is outside an axis of {size}")
            places.append(range(first, first + 1))
            continue
        cut = slice(None if from_start else begin[axis], None if to_end else end[axis], steps[axis])
        places.append(range(*cut.indices(size)))
    return places


def _pick(x: Tensor, axis: int, places: range) -> Tensor:
    if places.step == 1:
        return x.narrow(axis, places.start, len(places)) if len(places) else x.narrow(axis, 0, 0)
    return x.index_select(axis, torch.tensor(list(places), dtype=torch.int64))


def _combine(old: Tensor, new: Tensor, mode: str) -> Tensor:
    _check_mode(mode)
    if mode == "update":
        return new
    if mode in ("add", "sub"):
        return old + new if mode == "add" else old - new
    if mode in ("mul", "div"):
        return old * new if mode == "mul" else old / new
    return torch.maximum(old, new) if mode == "max" else torch.minimum(old, new)


def _check_mode(mode: str) -> None:
    if mode not in SCATTER_MODES:
        raise UnsupportedProgramError(f"scatter has no mode {mode!r}; it has {', '.join(SCATTER_MODES)}")
