"""Fit the arguments that a program gives an operator to the signature of our function for it."""

import inspect
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Final, get_args, get_origin

from torch import Tensor

from runtimes.mil.arithmetic import Arithmetic
from runtimes.mil.constants import widen
from runtimes.mil.errors import ProgramError, UnsupportedProgramError
from runtimes.mil.operators import Operator

NARROW: Final = "arithmetic"  # a parameter of ours: how to accumulate


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How one parameter arrives: `several` tensors or one, `stored` as they are, or a plain `python` type."""

    python: Any = None
    several: bool = False
    stored: bool = False

    def convert(self, value: Any) -> Any:
        """A value as the operator wants it."""
        if self.several:
            return [self._tensor(item) for item in (value if isinstance(value, list) else [value])]
        if isinstance(value, list):
            if len(value) != 1:
                raise ProgramError(f"{len(value)} values are given where one belongs")
            value = value[0]
        if self.python is None:
            return self._tensor(value)
        return _plain(value, self.python)

    def _tensor(self, value: Any) -> Tensor:
        if not isinstance(value, Tensor):
            raise ProgramError(f"text {value!r} stands where a tensor belongs")
        return value if self.stored else widen(value)


@dataclass(frozen=True, kw_only=True)
class Signature:
    """The parameters of one operator."""

    kinds: Mapping[str, Kind]
    required: frozenset[str]
    accumulates: bool


@cache
def signature_of(operator: Operator) -> Signature:
    """What an operator takes, read from the annotations of our function."""
    hints = typing.get_type_hints(operator, include_extras=True)
    parameters = inspect.signature(operator).parameters
    kinds = {name: _kind(hints[name]) for name in parameters if name != NARROW}
    required = frozenset(name for name in kinds if parameters[name].default is inspect.Parameter.empty)
    return Signature(kinds=kinds, required=required, accumulates=NARROW in parameters)


def check_parameters(signature: Signature, given: set[str]) -> None:
    """Refuse a parameter that the operator does not have, and one that is missing."""
    unknown = sorted(given - set(signature.kinds))
    if unknown:
        raise UnsupportedProgramError(f"parameter {unknown[0]!r} is not known; known: {', '.join(signature.kinds)}")
    missing = sorted(signature.required - given)
    if missing:
        raise ProgramError(f"parameter {missing[0]!r} is missing")


def _kind(hint: Any) -> Kind:
    if get_origin(hint) in (types.UnionType, typing.Union):
        hint = next(part for part in get_args(hint) if part is not type(None))
    stored = get_origin(hint) is Annotated
    bare = get_args(hint)[0] if stored else hint
    if bare is Tensor:
        return Kind(stored=stored)
    if get_origin(bare) is list:
        return Kind(several=True, stored=stored)
    if bare is Arithmetic:
        raise TypeError(f"{NARROW!r} is the only name for an Arithmetic")
    return Kind(python=bare)


def _plain(value: Any, wanted: Any) -> Any:
    """A number, text, or tuple of numbers out of a constant or a computed tensor."""
    if wanted is str or isinstance(value, str):
        if not (wanted is str and isinstance(value, str)):
            raise ProgramError(f"{value!r} stands where {getattr(wanted, '__name__', wanted)} belongs")
        return value
    if get_origin(wanted) is tuple:
        item = get_args(wanted)[0]
        if value.dim() > 1:
            raise ProgramError(f"a tensor of shape {tuple(value.shape)} stands where a list of numbers belongs")
        return tuple(item(number) for number in value.reshape(-1).tolist())
    if value.numel() != 1:
        raise ProgramError(f"a tensor of shape {tuple(value.shape)} stands where one number belongs")
    return wanted(value.item())
