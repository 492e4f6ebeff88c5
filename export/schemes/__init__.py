"""Schemes: how weights are quantized, as rules that know no backend; one file a scheme, first matching rule wins.

A scheme's file holds `SCHEME`. `layout` applies it to a model and fails on the first matrix that its rule cannot
quantize: a layer is never skipped silently.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

from export.config import ModelConfig
from export.errors import QuantizationError, SpecError
from export.weights import Unit, units

ActivationKind = Literal["int8", "int8_static", "float"]
CacheKind = Literal["float", "int8"]
FLOAT_BITS = 32
MIN_GROUP = 32


@dataclass(frozen=True, kw_only=True)
class Format:
    """How one matrix is held: 4-bit codes in groups, 8-bit codes in groups or per row (`group_size` None), or float.

    Codes are symmetric and scales representable in bfloat16 (the numeric contract of docs/design.md), so the same codes
    pack into every backend that holds the format: 4 bits in groups and 8 bits per row into all, 8 bits in groups into
    some. A float matrix may be restricted to 16 values in each run of `table_rows` rows, for backends that store tables
    (`HOLDS_TABLES`).
    """

    bits: int
    group_size: int | None = None
    table_rows: int | None = None

    @property
    def is_float(self) -> bool:
        return self.bits == FLOAT_BITS

    def groups(self, in_features: int) -> int:
        """Scales per row."""
        return in_features // (self.group_size or in_features)

    def __str__(self) -> str:
        if self.is_float:
            return "float" if self.table_rows is None else f"table4_r{self.table_rows}"
        return f"int{self.bits}_{f'g{self.group_size}' if self.group_size else 'row'}"


FLOAT = Format(bits=FLOAT_BITS)
INT8_ROW = Format(bits=8)
FORMAT_NAME = re.compile(r"int([48])_(?:g([1-9]\d{0,6})|row)")


def parse_format(text: str) -> Format:
    """A format from how it prints, such as 'int4_g32', 'int8_row' or 'float'; raises SpecError for another text."""
    if text == str(FLOAT):
        return FLOAT
    match = FORMAT_NAME.fullmatch(text)
    if match is None:
        raise SpecError(f"{text!r} is no format; expected such as int4_g32, int8_row or float")
    return Format(bits=int(match.group(1)), group_size=int(match.group(2)) if match.group(2) else None)


@dataclass(frozen=True, kw_only=True)
class Finest:
    """The format of that many bits with as many scales as a backend holds; its `FINEST` says which one that is."""

    bits: int


INT8_FINEST = Finest(bits=8)
ROWS_ONLY: Mapping[int, Format] = {8: INT8_ROW}  # what every backend holds


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Matrices whose name matches `pattern` (shell wildcards) are held as `format`."""

    pattern: str
    format: Format | Finest


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """Rules in order; `summary` is the line `--list` shows.

    Where `is_searched`, the rules only say how many bytes are usual: the formats are found once the checkpoint is open.
    `activations` is what quantized matrices are multiplied with: int8, made from the inputs as they come, int8 on
    grids that are learned beforehand where inputs allow it, or floats.
    `cache` is how keys and values of earlier tokens are kept: as floats, or as int8 codes with one calibrated scale a
    cache.
    """

    summary: str
    rules: tuple[Rule, ...]
    is_searched: bool = False
    activations: ActivationKind = "int8"
    cache: CacheKind = "float"

    @property
    def needs_calibration(self) -> bool:
        """Whether it has scales beside the weights', which are learned from text whatever the method."""
        return self.cache == "int8" or self.activations == "int8_static"

    def with_group_size(self, group_size: int | None) -> "Scheme":
        """The same scheme with the group size of its 4-bit rules replaced; None changes nothing."""
        if group_size is None:
            return self
        rules = tuple(
            replace(rule, format=Format(bits=4, group_size=group_size)) if rule.format.bits == 4 else rule
            for rule in self.rules
        )
        return replace(self, rules=rules)


Layout = Mapping[str, Format]

# in_proj_a and in_proj_b steer decay and write strength, are 0.1 % of the weights, and dominate the loss when quantized
KEEP_GATES = (Rule(pattern="*.in_proj_a", format=FLOAT), Rule(pattern="*.in_proj_b", format=FLOAT))


def layout(scheme: Scheme, config: ModelConfig, finest: Mapping[int, Format] = ROWS_ONLY) -> dict[str, Format]:
    """The format of every matrix of the model, by unit name; `finest` by bits is the backend's."""
    return {unit.name: _format_of(scheme, unit, finest) for unit in units(config)}


def check_format(unit: Unit, form: Format, why: str) -> None:
    """Refuse a format that does not divide a matrix; `why` says where the format was asked for."""
    group_size = form.group_size
    if form.table_rows is not None and unit.out_features % form.table_rows:
        raise QuantizationError(
            f"{unit.name}: {unit.out_features} rows are not divisible by {form.table_rows} rows a table ({why}); use "
            "the scheme int4 or int8"
        )
    if form.is_float:
        return
    if form.bits == 4 and (group_size is None or group_size % MIN_GROUP):
        raise QuantizationError(
            f"{unit.name}: 4-bit group_size {group_size} ({why}) is not a multiple of {MIN_GROUP}; use 32 or 64"
        )
    if group_size is not None and unit.in_features % group_size:
        usable = [str(size) for size in (32, 64, 128, 256) if unit.in_features % size == 0]
        raise QuantizationError(
            f"{unit.name}: in_features {unit.in_features} is not divisible by group_size {group_size} "
            f"({why}); use {' or '.join(usable) or 'the scheme float for it'}"
        )


def _format_of(scheme: Scheme, unit: Unit, finest: Mapping[int, Format]) -> Format:
    for rule in scheme.rules:
        if fnmatchcase(unit.name, rule.pattern):
            form = finest[rule.format.bits] if isinstance(rule.format, Finest) else rule.format
            check_format(unit, form, f"rule {rule.pattern!r}")
            return form
    patterns = ", ".join(rule.pattern for rule in scheme.rules)
    raise QuantizationError(f"{unit.name}: no rule of the scheme matches it (rules: {patterns}); add a rule '*'")
