"""What an artifact takes from a checkpoint beside weights: tokenizer, chat template, ids that start and end text."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from export.errors import ConfigError

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
GENERATION_CONFIG = "generation_config.json"
MAX_JSON_BYTES = 64 << 20
MAX_TOKENIZER_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True)
class TextFiles:
    """The tokenizer side of a checkpoint, checked; `chat_template` is None for a Base model without one."""

    directory: Path
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    pad_token_id: int | None
    chat_template: str | None

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text."""
        return list(Tokenizer.from_file(str(self.directory / TOKENIZER)).encode(text, add_special_tokens=False).ids)


def read_text_files(directory: Path, vocab_size: int) -> TextFiles:
    """Read and check the tokenizer files of a checkpoint directory."""
    _check_tokenizer(directory / TOKENIZER, vocab_size)
    generation = _read_json(directory / GENERATION_CONFIG) if (directory / GENERATION_CONFIG).exists() else {}
    config = _read_json(directory / "config.json")
    text_config = config.get("text_config") if isinstance(config.get("text_config"), dict) else {}
    settings = {**(text_config or {}), **{k: v for k, v in config.items() if v is not None}, **generation}
    eos = _ids(settings.get("eos_token_id"), "eos_token_id", directory, vocab_size)
    if not eos:
        raise ConfigError(
            f"{directory}: neither {GENERATION_CONFIG} nor config.json names an eos_token_id; generation would never stop, "
            "so add the ids that end a turn"
        )
    return TextFiles(
        directory=directory,
        eos_token_ids=eos,
        bos_token_id=next(iter(_ids(settings.get("bos_token_id"), "bos_token_id", directory, vocab_size)), None),
        pad_token_id=next(iter(_ids(settings.get("pad_token_id"), "pad_token_id", directory, vocab_size)), None),
        chat_template=_chat_template(directory),
    )


def copy_text_files(files: TextFiles, into: Path) -> list[Path]:
    """Copy the tokenizer files into an artifact and return what was written."""
    written = [into / TOKENIZER]
    shutil.copyfile(files.directory / TOKENIZER, into / TOKENIZER)
    for name in (TOKENIZER_CONFIG, GENERATION_CONFIG):
        if (files.directory / name).exists():
            shutil.copyfile(files.directory / name, into / name)
            written.append(into / name)
    if files.chat_template is not None:
        (into / CHAT_TEMPLATE).write_text(files.chat_template, encoding="utf-8")
        written.append(into / CHAT_TEMPLATE)
    return written


def _check_tokenizer(path: Path, vocab_size: int) -> None:
    if not path.is_file():
        raise ConfigError(
            f"{path}: not found; a checkpoint needs a Hugging Face fast tokenizer (tokenizer.json) beside its weights"
        )
    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise ConfigError(
            f"{path}: {path.stat().st_size} bytes, more than {MAX_TOKENIZER_BYTES}; this is not a tokenizer"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise ConfigError(
            f"{path}: not a tokenizer that the `tokenizers` library opens ({error}); download it again"
        ) from error
    if tokenizer.get_vocab_size() > vocab_size:
        raise ConfigError(
            f"{path}: {tokenizer.get_vocab_size()} tokens, but the model's vocab_size is {vocab_size}; the tokenizer belongs to "
            "another model"
        )


def _chat_template(directory: Path) -> str | None:
    place = directory / CHAT_TEMPLATE
    if place.exists():
        return place.read_text(encoding="utf-8")
    if not (directory / TOKENIZER_CONFIG).exists():
        return None
    template = _read_json(directory / TOKENIZER_CONFIG).get("chat_template")
    if template is not None and not isinstance(template, str):
        raise ConfigError(
            f"{directory / TOKENIZER_CONFIG}: chat_template is a {type(template).__name__}; put the one to use into {CHAT_TEMPLATE}"
        )
    return template


def _read_json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ConfigError(
            f"{path}: {path.stat().st_size} bytes, more than {MAX_JSON_BYTES}; this is not a settings file"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds a {type(content).__name__}, expected an object; download it again")
    return content


def _ids(value: object, name: str, directory: Path, vocab_size: int) -> tuple[int, ...]:
    found = value if isinstance(value, list) else [] if value is None else [value]
    for item in found:
        if isinstance(item, bool) or not isinstance(item, int) or not 0 <= item < vocab_size:
            raise ConfigError(
                f"{directory}: {name} holds {item!r}; expected token ids below the vocab_size {vocab_size}"
            )
    return tuple(dict.fromkeys(found))
