"""Write `docs/commands.md` from the parsers themselves, so that what is documented is what is accepted."""

import argparse
from pathlib import Path

from export import catalog
from export.cli import build_command_parser
from export.cli import build_parser as export_parser
from runtimes.cli import build_parser as runtimes_parser

PAGE = Path(__file__).resolve().parent.parent / "docs" / "commands.md"
HEADER = """\
# Commands

Written by `tools/write_command_docs.py`; a test compares it with the parsers. Logs and progress go to stderr, results
to stdout. Exit status: 0 done, 1 a named error, 2 wrong usage, 130 interrupted.
"""


def page() -> str:
    """Return the whole page."""
    commands = [line for name in catalog.names("commands") for line in section(build_command_parser(name))]
    return "\n".join([HEADER, *section(export_parser()), *commands, *section(runtimes_parser())])


def section(parser: argparse.ArgumentParser) -> "list[str]":
    """Return one command as Markdown: its options, or those of each of its subcommands."""
    lines = [f"## `{parser.prog}`", "", parser.description or "", ""]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, subparser in action.choices.items():
                lines += [f"### `{parser.prog} {name}`", "", *table(subparser)]
            return lines + example(parser)
    return lines + table(parser) + example(parser)


def table(parser: argparse.ArgumentParser) -> "list[str]":
    rows = [row(action) for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    return ["| option | meaning |", "| --- | --- |", *rows, ""]


def row(action: argparse.Action) -> str:
    name = ", ".join(action.option_strings) or str(action.metavar)
    takes_value = action.option_strings and action.nargs != 0
    choices = f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.metavar or action.dest.upper()
    value = f" {choices}" if takes_value else ""
    meaning = (action.help or "") % {"default": action.default}
    return f"| `{cell(name + value)}` | {cell(meaning)} |"


def cell(text: str) -> str:
    """Escape what would end a table's cell."""
    return text.replace("|", "\\|")


def example(parser: argparse.ArgumentParser) -> "list[str]":
    return ["```", (parser.epilog or "").strip(), "```", ""] if parser.epilog else []


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
