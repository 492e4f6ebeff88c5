"""Stock ExecuTorch on the `.pte` and the tokenizer: TextLLMRunner, or MultimodalRunner where the model sees.

They are what Android's LlmModule drives. They take text and show the text of each token. Their Python binding fails on
a token that ends inside a character, which ends the comparison there. They never feed the last token of a turn, and do
not look for an end token in the first.
"""

import contextlib
import importlib.metadata
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the binding warns that it is experimental
    # the runner needs the operators that these register
    from executorch.extension.llm.custom_ops import custom_ops as _llm_operators  # noqa: F401
    from executorch.extension.llm.runner import GenerationConfig, MultimodalInput, MultimodalRunner, TextLLMRunner
    from executorch.extension.pybindings import portable_lib as _portable_lib  # noqa: F401
    from executorch.kernels import quantized as _quantized_operators  # noqa: F401

from runtimes.artifact import Artifact
from runtimes.errors import RuntimeFailedError
from runtimes.stock import Answers, Script, Traits, Turn

TEXT, SEEING = "TextLLMRunner", "MultimodalRunner"
TRAITS = Traits(
    name=f"executorch {TEXT} {importlib.metadata.version('executorch')}",
    chooses_eos=False,
    keeps_last_token=False,
    checks_first_token=False,
    shows_tokens=False,
)


def traits_of(artifact: Artifact) -> Traits:
    """The two runners differ in name only."""
    return TRAITS if artifact.manifest.vision is None else replace(TRAITS, name=TRAITS.name.replace(TEXT, SEEING))


def run_script(artifact: Artifact, script: Script) -> Answers:
    """What the runner writes at temperature 0."""
    turns: list[list[str]] = []
    try:
        with stdout_kept_clean():
            runner = open_runner(artifact)
            for turn in script.turns:
                turns.append([])
                _run_turn(runner, turn, turns[-1])
    except UnicodeDecodeError:
        return Answers(turns=turns, cut_short="the binding cannot show a token that ends inside a character")
    except RuntimeError as error:
        raise RuntimeFailedError(f"{traits_of(artifact).name} failed on {artifact.model_file}: {error}") from error
    return Answers(turns=turns)


def open_runner(artifact: Artifact) -> TextLLMRunner | MultimodalRunner:
    """The stock runner that opens the artifact."""
    kind = TextLLMRunner if artifact.manifest.vision is None else MultimodalRunner
    return kind(str(artifact.model_file), str(artifact.tokenizer_file))


def _run_turn(runner: TextLLMRunner | MultimodalRunner, turn: Turn, pieces: list[str]) -> None:
    config = GenerationConfig(echo=False, max_new_tokens=turn.steps, temperature=0.0)
    if isinstance(runner, TextLLMRunner):
        runner.generate(turn.text, config, pieces.append, None)
    else:
        runner.generate([MultimodalInput(turn.text)], config, pieces.append, None)


@contextlib.contextmanager
def stdout_kept_clean() -> Iterator[None]:
    """Send to stderr what the C++ runner prints on stdout, where only results belong."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
