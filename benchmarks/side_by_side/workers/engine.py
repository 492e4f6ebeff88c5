"""The one way a subject is measured: what an engine must offer, and the worker around it.

A worker file gives `run` a function that loads its engine. Everything else, the order of the prompts, the clocks and
the memory readings, is the same for all.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.process_memory import read_status

__all__ = ["Engine", "Settings", "Timing", "run"]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One prompt read and some tokens written; the step that yields the first new token belongs to the prefill."""

    prefill_s: float
    decode_s: float
    decode_steps: int


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a worker is told on its command line."""

    artifact: Path
    tokenizer: Path
    threads: int | None
    context_length: int


class Engine(Protocol):
    """A loaded model that can be asked again and again."""

    def generate(self, text: str, ids: list[int], decode_steps: int) -> Timing:
        """Start a new sequence, read the prompt, then take `decode_steps` further steps of one token."""


WARM_UP_NEW_TOKENS = 4


def run(
    load: Callable[[Settings], Engine],
    description: str | None,
    arguments: Sequence[str] | None = None,
    *,
    import_runtime: Callable[[Settings], None] | None = None,
) -> None:
    """Measure one engine in this process and print the figures as one JSON line.

    `import_runtime` is for an engine that learns from its artifact what to import: it must happen before the first look
    at the memory, as it does in a worker that imports at its top.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--artifact", type=Path, required=True, help="the build's directory")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json")
    parser.add_argument("--workload", type=Path, required=True, help="what benchmarks.workload wrote")
    parser.add_argument("--threads", type=int, help="threads; left to the engine when not given")
    options = parser.parse_args(arguments)
    work = json.loads(options.workload.read_text())
    settings = Settings(
        artifact=options.artifact,
        tokenizer=options.tokenizer,
        threads=options.threads,
        context_length=work["context_length"],
    )
    if import_runtime is not None:
        import_runtime(settings)
    imports_rss_bytes = read_status()["VmRSS"]
    started = time.perf_counter()
    engine = load(settings)
    load_s = time.perf_counter() - started
    engine.generate(work["warm_up"]["text"], work["warm_up"]["ids"], WARM_UP_NEW_TOKENS)
    timings = {}
    for prompt in work["prompts"]:
        last = prompt is work["prompts"][-1]
        steps = work["decode_tokens"] if last else 1
        timings[len(prompt["ids"])] = engine.generate(prompt["text"], prompt["ids"], steps)
    memory = read_status()
    longest = timings[max(timings)]
    result = {
        "imports_rss_bytes": imports_rss_bytes,
        "load_s": load_s,
        "prefill_s": {str(count): timing.prefill_s for count, timing in timings.items()},
        "decode_s": longest.decode_s,
        "decode_steps": longest.decode_steps,
        "peak_rss_bytes": memory["VmHWM"],
        "rss_anon_bytes": memory["RssAnon"],
        "rss_file_bytes": memory["RssFile"],
    }
    sys.stdout.write("\n" + json.dumps(result) + "\n")
