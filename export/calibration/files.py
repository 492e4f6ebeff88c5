"""A user's text to learn from or to judge by: plain, or JSON lines with "text", "messages", or "prompt" and "response".

All of it is read and judged before any weight is: a file that teaches nothing shall cost no minute.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.errors import CalibrationError, ExportError, shown
from runtimes.errors import ChatTemplateError
from runtimes.template import ChatTemplate

MAX_FILE_BYTES = 256 << 20
LINES_SUFFIX = ".jsonl"
WANTED = '"text", "messages", or "prompt" and "response"'


@dataclass(frozen=True, kw_only=True)
class Flag:
    """The flag that named a file, and the error of its command."""

    name: str
    error: type[ExportError]


CALIBRATION = Flag(name="--calibration", error=CalibrationError)


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text, or one conversation for the chat template; `line` is where it stands in its file."""

    line: int
    text: str = ""
    messages: tuple[dict[str, Any], ...] = ()

    def render(self, template: ChatTemplate | None, path: Path, flag: Flag = CALIBRATION) -> str:
        """The text that the model reads."""
        if not self.messages:
            return self.text
        if template is None:
            raise flag.error(
                f"{flag.name} {path}, line {self.line}: holds a conversation, but the checkpoint has no chat "
                'template; give lines with "text"'
            )
        try:
            return template.render(list(self.messages), add_generation_prompt=False)
        except ChatTemplateError as error:
            raise flag.error(
                f"{flag.name} {path}, line {self.line}: the chat template refuses it ({error}); correct the messages"
            ) from error


def read_documents(path: Path, flag: Flag = CALIBRATION) -> list[Document]:
    """The documents of a file, at least one, none of them empty."""
    if not path.is_file():
        raise flag.error(f"{flag.name} {path}: no such file; name a text, or a .jsonl with {WANTED}")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise flag.error(
            f"{flag.name} {path}: {path.stat().st_size} bytes, more than {MAX_FILE_BYTES}; give a part of it"
        )
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise flag.error(
            f"{flag.name} {path}, line {line}: not UTF-8 at byte {error.start}; convert the file"
        ) from error
    lines = path.suffix == LINES_SUFFIX
    documents = list(_json_lines(path, text, flag)) if lines else [Document(line=1, text=text)]
    if not any(document.text.strip() or document.messages for document in documents):
        raise flag.error(f"{flag.name} {path}: holds no text; give some pages of what the model will read")
    return [document for document in documents if document.text.strip() or document.messages]


def _json_lines(path: Path, text: str, flag: Flag) -> Iterator[Document]:
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: a JSON string may hold U+2028
        if line.strip():
            try:
                document = _document(number, line)
            except ValueError as error:
                raise flag.error(f"{flag.name} {path}, line {number}: {error}") from error
            yield document


def _document(number: int, line: str) -> Document:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error}); write one object a line") from error
    if not isinstance(entry, dict):
        raise ValueError(f"holds {shown(entry)}; expected an object with {WANTED}")
    if isinstance(entry.get("text"), str):
        return Document(line=number, text=entry["text"])
    if "messages" in entry:
        return Document(line=number, messages=_messages(entry["messages"]))
    if isinstance(entry.get("prompt"), str) and isinstance(entry.get("response"), str):
        turn = ({"role": "user", "content": entry["prompt"]}, {"role": "assistant", "content": entry["response"]})
        return Document(line=number, messages=turn)
    raise ValueError(f"holds {', '.join(map(shown, entry)) or 'nothing'}; expected {WANTED}")


def _messages(found: Any) -> tuple[dict[str, Any], ...]:
    right = isinstance(found, list) and all(
        isinstance(message, dict) and isinstance(message.get("role"), str) and "content" in message for message in found
    )
    if not right or not found:
        raise ValueError(f'messages is {shown(found)}; expected a list of {{"role", "content"}}')
    return tuple(found)
