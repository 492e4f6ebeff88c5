"""Commands beside the export itself: `export/commands/quality.py` is `python -m export quality`; one file a command.

A command's module holds `SUMMARY`, `add_arguments(parser)` and `run(arguments) -> int` (the exit status; a ProjectError
is printed and becomes 1). Its options are documented without running it, so what is heavy is imported in `run`.
"""
