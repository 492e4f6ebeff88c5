"""Render a checkpoint's own chat template, as transformers does.

The template is code from a checkpoint, so it runs in jinja2's immutable sandbox: it can compute text and nothing else.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runtimes.artifact import Artifact
from runtimes.errors import ChatTemplateError

MAX_TEMPLATE_BYTES = 1024 * 1024
SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")

Message = Mapping[str, Any]


class GenerationTag(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's text for training; when rendering it is only its body."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A compiled chat template with the names its checkpoint gives to special tokens."""

    def __init__(self, source: str, special_tokens: Mapping[str, str] | None = None) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", GenerationTag]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = _strftime_now
        self._special_tokens = dict(special_tokens or {})
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ChatTemplateError(
                f"the chat template does not compile: line {error.lineno}: {error.message}"
            ) from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of a conversation; `options` are the template's own switches, such as `enable_thinking`."""
        given = {"messages": messages, "tools": tools, "add_generation_prompt": add_generation_prompt}
        try:
            return self._template.render({**self._special_tokens, **given, **(options or {})})
        except ChatTemplateError:
            raise
        except Exception as error:  # whatever a foreign template does
            raise ChatTemplateError(f"the chat template failed: {type(error).__name__}: {error}") from error


def load_template(artifact: Artifact) -> ChatTemplate:
    """The chat template of an artifact."""
    name = artifact.manifest.chat_template_file
    if name is None:
        raise ChatTemplateError(f"{artifact.path}: has no chat template (a base model?); generate with --raw")
    return ChatTemplate(_read(artifact.file(name)), _special_tokens(artifact))


def _read(place: Path) -> str:
    if place.stat().st_size > MAX_TEMPLATE_BYTES:
        raise ChatTemplateError(f"{place}: more than {MAX_TEMPLATE_BYTES} bytes are no chat template")
    try:
        return place.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ChatTemplateError(f"{place}: not UTF-8 at byte {error.start}") from error


def _special_tokens(artifact: Artifact) -> dict[str, str]:
    """The special tokens by name, from `tokenizer_config.json` where the artifact has one."""
    names = [entry.path for entry in artifact.manifest.files if Path(entry.path).name == "tokenizer_config.json"]
    if not names:
        return {}
    place = artifact.file(names[0])
    try:
        config = json.loads(place.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ChatTemplateError(f"{place}: not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ChatTemplateError(f"{place}: expected a JSON object, found {type(config).__name__}")
    found = {name: config.get(name) for name in SPECIAL_TOKENS}
    texts = {name: token["content"] if isinstance(token, dict) else token for name, token in found.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON; jinja2's own filter escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise ChatTemplateError(f"the chat template refuses this conversation: {message}")


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
