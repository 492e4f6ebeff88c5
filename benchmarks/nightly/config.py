"""`nightly.toml`: which models in which formats run on which devices, by which protocol.

A setting that starts with `$` is the value of an environment variable: serial numbers, project names and the like stand
in no repository. Tokens and keys are never settings; farms read them from the environment themselves.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from benchmarks import record
from benchmarks.errors import BenchmarkError
from benchmarks.protocol import COLD_LOADS
from benchmarks.text import Name

__all__ = ["Block", "DeviceEntry", "NightlyConfig", "NightlyConfigError", "ProtocolEntry", "read_config", "resolved"]

MAX_CONFIG_BYTES = 1_000_000
Setting = str | int | float | bool
Some = Annotated[tuple[Name, ...], Field(min_length=1, max_length=64)]


class NightlyConfigError(BenchmarkError):
    """The file of the nightly matrix says something that can't be done."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ProtocolEntry(_Part):
    """What every job is asked to do."""

    name: Name = "nightly"
    prompt_tokens: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, max_length=8)]
    new_tokens: Annotated[int, Field(ge=1)] = 64
    warm_ups: Annotated[int, Field(ge=0)] = 1
    repeats: Annotated[int, Field(ge=1)] = 5
    cold: Annotated[int, Field(ge=0)] = 2
    sustained_s: Annotated[float, Field(ge=0)] = 0
    settle_s: Annotated[float, Field(ge=0)] = 1
    cool_down_s: Annotated[float, Field(ge=0)] = 900
    max_start_temperature_c: float | None = None
    timeout_s: Annotated[float, Field(gt=0)] = 600

    def protocol(self) -> record.Protocol:
        """The protocol as records have it."""
        values = self.model_dump(exclude={"cold"})
        return record.Protocol(**values, sample_hz=1.0, details={COLD_LOADS: float(self.cold)})


class Block(_Part):
    """One product of models, backends, schemes and devices."""

    models: Some
    checkpoint: str | None = None
    target: Name = "android"
    method: Name | None = None
    backends: Some
    schemes: Some
    devices: Some


class DeviceEntry(BaseModel):
    """A device by name: the farm that has it, and what that farm wants to know of it."""

    model_config = ConfigDict(extra="allow", frozen=True)
    farm: Name

    def settings(self) -> dict[str, Any]:
        """What the farm wants to know, `$NAME` not resolved."""
        return dict(self.__pydantic_extra__ or {})


class NightlyConfig(_Part):
    """The whole file."""

    protocol: ProtocolEntry
    matrix: Annotated[tuple[Block, ...], Field(min_length=1)]
    devices: dict[Name, DeviceEntry]
    farms: dict[Name, dict[str, Setting]] = {}

    @model_validator(mode="after")
    def _devices_are_known(self) -> Self:
        for block in self.matrix:
            for name in block.devices:
                if name not in self.devices:
                    known = ", ".join(sorted(self.devices)) or "none"
                    raise ValueError(f"device {name!r} has no [devices.{name}]; known: {known}")
        return self


def read_config(place: Path) -> NightlyConfig:
    """Read a matrix, or say what is wrong with it."""
    try:
        with place.open("rb") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
        if len(content) > MAX_CONFIG_BYTES:
            raise NightlyConfigError(f"{place}: more than {MAX_CONFIG_BYTES} bytes; this is no matrix")
        return NightlyConfig.model_validate(tomllib.loads(content.decode()))
    except OSError as error:
        raise NightlyConfigError(f"{place}: {error.strerror}; name a file with --config") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise NightlyConfigError(f"{place}: not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise NightlyConfigError(f"{place}: {where}: {first['msg']}; docs/nightly.md has every key") from error


def resolved(settings: Mapping[str, Any], where: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Settings with `$NAME` replaced by the environment variable's value."""
    known = os.environ if environment is None else environment
    found = {}
    for key, value in settings.items():
        if isinstance(value, str) and value.startswith("$"):
            if value[1:] not in known:
                raise NightlyConfigError(f"{where}: {key} is {value}, and no such environment variable is set; set it")
            found[key] = known[value[1:]]
        else:
            found[key] = value
    return found
