"""Strings from outside: names that can stand in a path or a table, and text without control characters.

A phone's output, a farm's answer and another team's database are all untrusted. What passes here can be printed at a
terminal, used as one component of a path (`Name`) and put into HTML after escaping.
"""

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

__all__ = ["Label", "Name", "Sha256", "Text"]

MAX_TEXT = 4000
# letters and digits of any script, marks, punctuation, symbols, spaces: no controls, no direction overrides, no
# surrogates, nothing unassigned
HARMLESS = {"L", "M", "N", "P", "S"}


def _harmless(text: str) -> str:
    for character in text:
        if character not in " \n\t" and unicodedata.category(character)[0] not in HARMLESS:
            raise ValueError(f"the character U+{ord(character):04X} is not allowed")
    return text


def _one_line(text: str) -> str:
    if "\n" in text or "\t" in text:
        raise ValueError("more than one line is not allowed")
    return _harmless(text)


def _no_parent(text: str) -> str:
    if ".." in text:
        raise ValueError("'..' is not allowed in a name")
    return text


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"), AfterValidator(_no_parent)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_one_line)]
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT), AfterValidator(_harmless)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
