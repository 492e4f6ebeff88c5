"""What an artifact takes from a checkpoint beside weights: tokenizer, chat template, ids that start and end text."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from export import user_cache
from export.errors import ConfigError, shown
from runtimes.errors import ChatTemplateError
from runtimes.template import ChatTemplate

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
GENERATION_CONFIG = "generation_config.json"
MAX_TEXT_BYTES = 64 << 20
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
        return self.encoder()(text)

    def encoder(self) -> Callable[[str], list[int]]:
        """`encode` for many texts: a large vocabulary takes a second to open."""
        tokenizer = Tokenizer.from_file(str(self.directory / TOKENIZER))
        return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)

    def content(self) -> dict[str, Any]:
        """Everything that goes into an artifact from here, as JSON values."""
        names = [name for name in (TOKENIZER, TOKENIZER_CONFIG, GENERATION_CONFIG) if (self.directory / name).exists()]
        files = {name: user_cache.file_sha256(self.directory / name) for name in names}
        ids = [list(self.eos_token_ids), self.bos_token_id, self.pad_token_id]
        return {"files": files, "ids": ids, "chat_template": self.chat_template}


def read_text_files(directory: Path, vocab_size: int) -> TextFiles:
    """Read and check the tokenizer files of a checkpoint directory."""
    _check_tokenizer(directory / TOKENIZER, vocab_size)
    generation = _read_json(directory / GENERATION_CONFIG)
    config = _read_json(directory / "config.json")
    text_config = config.get("text_config") if isinstance(config.get("text_config"), dict) else {}
    places = (text_config or {}, config, generation)  # the last one that says something holds
    settings = {name: value for place in places for name, value in place.items() if value is not None}
    ids = {
        name: _ids(settings, name, directory, vocab_size) for name in ("eos_token_id", "bos_token_id", "pad_token_id")
    }
    if not ids["eos_token_id"]:
        raise ConfigError(
            f"{directory}: neither {GENERATION_CONFIG} nor config.json names an eos_token_id; generation would never "
            "stop, "
            "so add the ids that end a turn"
        )
    return TextFiles(
        directory=directory,
        eos_token_ids=ids["eos_token_id"],
        bos_token_id=next(iter(ids["bos_token_id"]), None),
        pad_token_id=next(iter(ids["pad_token_id"]), None),
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
            f"{path}: {path.stat().st_size} bytes, more than {MAX_TOKENIZER_BYTES}; this is no tokenizer, download it "
            "again"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise ConfigError(
            f"{path}: not a tokenizer that the `tokenizers` library opens ({error}); download it again"
        ) from error
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if highest < 0:
        raise ConfigError(f"{path}: holds no tokens; download it again")
    if highest >= vocab_size:
        raise ConfigError(
            f"{path}: token ids up to {highest}, but the model's vocab_size is {vocab_size}; the tokenizer belongs to "
            "another model, so take the one of this checkpoint"
        )


def _chat_template(directory: Path) -> str | None:
    """The template from a file of its own, else from tokenizer_config.json; compiled once to see that it can be."""
    own, settings = directory / CHAT_TEMPLATE, directory / TOKENIZER_CONFIG
    place = own if own.exists() else settings
    template = _read_text(own) if own.exists() else _read_json(settings).get("chat_template")
    if template is None:
        return None
    if not isinstance(template, str):
        raise ConfigError(
            f"{place}: chat_template is a {type(template).__name__}, expected a text; put the one to use into "
            f"{CHAT_TEMPLATE}"
        )
    try:
        ChatTemplate(template)
    except ChatTemplateError as error:
        raise ConfigError(f"{place}: {error}; correct it, or take the template of the original model") from error
    return template


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no such file."""
    if not path.exists():
        return {}
    try:
        content = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds a {type(content).__name__}, expected an object; download it again")
    return content


def _read_text(path: Path) -> str:
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise ConfigError(
            f"{path}: {path.stat().st_size} bytes, more than {MAX_TEXT_BYTES}; this is no settings file, download it "
            "again"
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; download it again") from error


def _ids(settings: dict[str, Any], name: str, directory: Path, vocab_size: int) -> tuple[int, ...]:
    value = settings.get(name)
    found = value if isinstance(value, list) else [] if value is None else [value]
    for item in found:
        if isinstance(item, bool) or not isinstance(item, int) or not 0 <= item < vocab_size:
            raise ConfigError(
                f"{directory}: {name} holds {shown(item)}; expected token ids below the vocab_size {vocab_size}, so "
                f"correct it in {GENERATION_CONFIG} or config.json"
            )
    return tuple(dict.fromkeys(found))
