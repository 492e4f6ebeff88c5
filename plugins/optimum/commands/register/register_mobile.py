"""`optimum-cli export mobile`: the exporter as a subcommand of Hugging Face optimum, by the same code.

optimum finds this file through its namespace package `optimum.commands.register` (PEP 420: no `__init__.py` on the
way). It loads every such file at each start, so what is heavy is imported in `run`. The options are those of
`python -m export` and go to it as they are; a test compares the two lists. `--task` is optimum's word for what we call
a modality, and optimum's `TasksManager` knows its synonyms.
"""

import sys
from argparse import SUPPRESS, ArgumentParser
from typing import Any

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand

# the contract of `python -m export`, by flag: what each does is said there
OPTIONS: dict[str, dict[str, Any]] = {
    "--target": {"metavar": "NAME", "help": "device class to build for, such as android"},
    "--model": {"metavar": "NAME", "help": "a hub id such as Qwen/Qwen3.5-0.8B, or a name of the catalog such as tiny"},
    "--checkpoint": {"metavar": "PATH", "help": "a local checkpoint directory, or 'random'"},
    "--source": {"metavar": "NAME", "help": "hub to fetch from: huggingface (default) or modelscope"},
    "--scheme": {"metavar": "NAME", "help": "how weights are quantized: mixed (default), auto, int4, int8 ..."},
    "--method": {"metavar": "NAME", "help": "how weights are rounded"},
    "--group-size": {"metavar": "N", "help": "weights that share a scale"},
    "--calibration": {"metavar": "FILE", "help": "what the method learns from: text, or .jsonl"},
    "--calibration-tokens": {"metavar": "N", "help": "how much of that file it learns from"},
    "--backend": {"metavar": "NAME", "action": "append", "help": "onnx, executorch ...; repeatable"},
    "--modality": {"metavar": "NAME", "help": "text or image"},
    "--context-length": {"metavar": "TOKENS", "help": "longest conversation"},
    "--budget": {"metavar": "SIZE", "help": "fail early if the bundle would be larger, such as 480MB"},
    "--workers": {"metavar": "NAME", "help": "where --scheme auto tries layouts: local or ray"},
    "--out": {"metavar": "DIR", "help": "the bundle's directory"},
    "--into": {"metavar": "APP", "help": "put the bundle where an app finds it: android_demo or ios_demo"},
    "--plan": {"action": "store_true", "help": "print what would be done and stop"},
    "--list": {"action": "store_true", "help": "print everything that can be named and stop"},
    "--json": {"action": "store_true", "help": "results as JSON lines"},
}
SHORT = {"--model": "-m"}
MODALITIES = {"text-generation": "text", "text-generation-with-past": "text"}


class MobileExportCommand(BaseOptimumCLICommand):  # type: ignore[misc]  # optimum ships no types
    """Turn a Qwen3.5 checkpoint into verified, quantized bundles for phones."""

    COMMAND = CommandInfo(name="mobile", help="Export Qwen3.5 for phones: verified ONNX and ExecuTorch bundles.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the options; what is not given stays out of the namespace, so that the exporter's defaults hold."""
        for flag, settings in OPTIONS.items():
            names = (SHORT[flag], flag) if flag in SHORT else (flag,)
            parser.add_argument(*names, default=SUPPRESS, **settings)
        parser.add_argument("--task", default=SUPPRESS, metavar="NAME", help="optimum's name for --modality")

    def run(self) -> None:
        """Run the exporter and leave with its status."""
        from export.cli import main

        sys.exit(main(to_argv(vars(self.args))))


def to_argv(given: dict[str, Any]) -> list[str]:
    """Return the exporter's command line for parsed options."""
    argv: list[str] = []
    for flag in OPTIONS:
        value = given.get(flag.removeprefix("--").replace("-", "_"))
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                argv += [flag] if one is True else [flag, str(one)]
    if "task" in given:
        argv += ["--modality", modality_of(given["task"])]
    return argv


def modality_of(task: str) -> str:
    """Translate a task, by any name that optimum knows for it."""
    from optimum.exporters.tasks import TasksManager

    canonical = TasksManager.map_from_synonym(task)
    if canonical not in MODALITIES:
        known = ", ".join(sorted(MODALITIES))
        print(f"error: task {task!r} cannot be exported for phones; known: {known}", file=sys.stderr)
        sys.exit(1)
    return MODALITIES[canonical]


REGISTER_COMMANDS = [(MobileExportCommand, ExportCommand)]
