"""Every Kotlin and Swift file parses, is short, and lies where its package says."""

import re
from functools import cache
from pathlib import Path

import pytest
import tree_sitter_kotlin
import tree_sitter_swift
from tree_sitter import Language, Node, Parser

from tests.apps.sources import ANDROID_DEMO, ANDROID_LIBRARY, ROOT, kotlin_files, swift_files

KOTLIN = kotlin_files(ANDROID_LIBRARY, ANDROID_DEMO)
SWIFT = swift_files(ROOT / "runtimes" / "ios", ROOT / "ios_demo")
LONGEST_LINE = 140
LONGEST_FILE = 400


@cache
def parser(language: str) -> Parser:
    grammar = {".swift": tree_sitter_swift, ".kt": tree_sitter_kotlin, ".kts": tree_sitter_kotlin}[language]
    return Parser(Language(grammar.language()))


def faults(node: Node) -> list[int]:
    """The lines that are no sentence of the language."""
    here = [node.start_point[0] + 1] if node.type == "ERROR" or node.is_missing else []
    return here + [line for child in node.children if child.has_error or child.is_missing for line in faults(child)]


@pytest.mark.parametrize("place", [*KOTLIN, *SWIFT], ids=lambda place: str(place.relative_to(ROOT)))
def test_a_source_parses(place: Path) -> None:
    assert not faults(parser(place.suffix).parse(place.read_bytes()).root_node)


def test_a_broken_source_does_not_parse() -> None:
    assert faults(parser(".kt").parse(b"fun f( = 1").root_node)
    assert faults(parser(".swift").parse(b"func f( {").root_node)


def test_sources_are_short() -> None:
    texts = {place: place.read_text(encoding="utf-8").splitlines() for place in KOTLIN}
    assert not [place.name for place, lines in texts.items() if len(lines) > LONGEST_FILE]
    long = {place.name: max(map(len, lines)) for place, lines in texts.items() if max(map(len, lines)) > LONGEST_LINE}
    assert not long


def test_a_file_lies_where_its_package_says() -> None:
    for place in KOTLIN:
        if place.suffix == ".kt":
            package = re.search(r"^package (\S+)$", place.read_text(encoding="utf-8"), re.MULTILINE)
            assert package, place
            assert place.parent.as_posix().endswith("/kotlin/" + package[1].replace(".", "/"))
