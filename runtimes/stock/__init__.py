"""The runtimes' own runners, as an app uses them without us: each must write what our runner writes.

The script is one conversation of three turns. The first ends by its end token wherever the stock runner lets us choose
one, the second by count, the third shows what became of the second's last token. Greedy choices are compared one by
one, and may part only where our two best logits are closer than parity's tolerance: from there on the two runners
legitimately read different texts. What stock runners do differently from each other is written down in their traits.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.artifact import Artifact
from runtimes.errors import ChatTemplateError, RuntimeUnavailableError
from runtimes.runner import Runner
from runtimes.template import load_template
from runtimes.tokenizer import Tokenizer, load_tokenizer

MESSAGES = ("Tell me about the sea.", "And what did the old man say?", "What then?")
STEPS = 64
LAST_STEPS = 8
FEWEST_STEPS = 4
ENDLESS = 1e30  # stands for an endless margin, since JSON has no infinity


@dataclass(frozen=True, kw_only=True)
class Traits:
    """How a stock runner behaves."""

    name: str
    chooses_eos: bool  # its end tokens can be replaced from outside
    keeps_last_token: bool  # a turn that ended by count is remembered whole; else its last token is never fed
    checks_first_token: bool  # whether a turn can end with its first token
    shows_tokens: bool  # else it shows the text of each token


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What is appended, and how many tokens are generated at most."""

    text: str
    tokens: tuple[int, ...]
    steps: int


@dataclass(frozen=True, kw_only=True)
class Script:
    """Turns of one conversation, and the tokens that end one."""

    turns: tuple[Turn, ...]
    eos_token_ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One greedy choice of ours: the token, and by how much it was best."""

    token: int
    margin: float


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a stock runner wrote, turn by turn, as tokens or as their texts; `cut_short` says why it is not all."""

    turns: Sequence[Sequence[int | str]]
    cut_short: str | None = None


def compare_with_stock(artifact: Artifact, runner: Runner, tolerance: float) -> tuple[str | None, dict[str, Any]]:
    """Run the script in both runners, ours first; the reason of a failure, and figures. Closes our runner."""
    tokenizer = load_tokenizer(artifact.tokenizer_file)
    engine = stock_engine(artifact.manifest.runtime.name)
    traits: Traits = engine.traits_of(artifact) if hasattr(engine, "traits_of") else engine.TRAITS
    script = write_script(artifact, runner, tokenizer, traits)
    ours = run_script(runner, script, traits)
    runner.close()  # before the model is loaded a second time
    theirs: Answers = engine.run_script(artifact, script)
    shown = [[_show(step.token, tokenizer, traits) for step in turn] for turn in ours]
    figures: dict[str, Any] = {
        "stock": traits.name,
        "tokens": sum(len(turn) for turn in theirs.turns),
        "ended_by_eos": [turn[-1].token in script.eos_token_ids for turn in ours],
        "cut_short": theirs.cut_short,
        "first_difference": None,
    }
    place = _first_difference(shown, theirs)
    if place is None:
        return None, figures
    turn, step = place
    margin = ours[turn][step].margin if step < len(ours[turn]) else ENDLESS
    figures["first_difference"] = {"turn": turn + 1, "step": step + 1, "margin": margin}
    if margin <= tolerance:
        return None, figures
    reason = (
        f"turn {turn + 1}, step {step + 1}: ours chose {_at(shown[turn], step)}, the stock runner "
        f"{_at(theirs.turns[turn], step)}; our margin {margin:.3g} is over the tolerance {tolerance:.3g}"
    )
    return reason, figures


def write_script(artifact: Artifact, runner: Runner, tokenizer: Tokenizer, traits: Traits) -> Script:
    """A conversation that fits the context, with an end token that the first turn will meet where one can be chosen."""
    eos = artifact.manifest.eos_token_ids
    end = tokenizer.token_text(eos[0]) or ""
    messages = [_message(artifact, text) for text in MESSAGES]
    texts = [messages[0], *(f"{end}\n{text}" for text in messages[1:])]
    tokens = [tuple(tokenizer.encode(text)) for text in texts]
    room = runner.context_length - sum(map(len, tokens)) - LAST_STEPS - len(texts)
    if room < 2 * FEWEST_STEPS:
        raise RuntimeUnavailableError(f"a context of {runner.context_length} is too short for three turns")
    steps = min(STEPS, room // 2)
    turns = tuple(
        Turn(text=text, tokens=ids, steps=count)
        for text, ids, count in zip(texts, tokens, (steps, steps, LAST_STEPS), strict=True)
    )
    if traits.chooses_eos:
        first = [step.token for step in run_script(runner, Script(turns=turns[:1], eos_token_ids=()), traits)[0]]
        if not set(first[1:]) & set(eos):  # a model that ends its answers by itself needs no other end
            eos = _eos_within(first) or eos
    return Script(turns=turns, eos_token_ids=eos)


def run_script(runner: Runner, script: Script, traits: Traits) -> list[list[Step]]:
    """Our runner's greedy choices, turn by turn, with tokens fed as the stock runner feeds them."""
    runner.reset()
    pending: list[int] = []
    answers: list[list[Step]] = []
    for turn in script.turns:
        steps, ended = _run_turn(runner, [*pending, *turn.tokens], turn.steps, script, traits)
        pending = [steps[-1].token] if traits.keeps_last_token and not ended else []
        answers.append(steps)
    runner.reset()
    return answers


def _run_turn(
    runner: Runner, tokens: Sequence[int], most: int, script: Script, traits: Traits
) -> tuple[list[Step], bool]:
    """One turn, and whether an end token ended it."""
    logits = runner.forward(tokens)
    steps: list[Step] = []
    while True:
        best_two = np.partition(logits, -2)[-2:]
        steps.append(Step(token=int(logits.argmax()), margin=float(best_two[1] - best_two[0])))
        checked = traits.checks_first_token or len(steps) > 1
        if checked and steps[-1].token in script.eos_token_ids:
            return steps, True
        if len(steps) == most:
            return steps, False
        logits = runner.forward([steps[-1].token])


def stock_engine(runtime: str) -> Any:
    """The stock runner of a runtime: the file of its name in this folder."""
    if not (Path(__file__).parent / f"{runtime}.py").is_file():
        raise RuntimeUnavailableError(
            f"runtime {runtime!r} comes without a runner of its own, so there is none to compare"
        )
    try:
        return importlib.import_module(f"runtimes.stock.{runtime}")
    except ModuleNotFoundError as error:
        raise RuntimeUnavailableError(
            f"the stock runner for {runtime!r} needs {error.name!r}, not installed"
        ) from error


def _message(artifact: Artifact, text: str) -> str:
    """A user message as the model expects it; a base model without a template gets the plain text."""
    if artifact.manifest.chat_template_file is None:
        return text
    try:
        return load_template(artifact).render([{"role": "user", "content": text}])
    except ChatTemplateError as error:
        raise RuntimeUnavailableError(f"no conversation to compare: {error}") from error


def _eos_within(tokens: Sequence[int]) -> tuple[int, ...] | None:
    """A token that first appears in the middle, and so ends the turn there."""
    fresh = [token for at, token in enumerate(tokens) if at > 0 and token not in tokens[:at]]
    return (fresh[len(fresh) // 2],) if fresh else None


def _show(token: int, tokenizer: Tokenizer, traits: Traits) -> int | str:
    return token if traits.shows_tokens else tokenizer.token_text(token) or ""


def _first_difference(ours: Sequence[Sequence[int | str]], theirs: Answers) -> tuple[int, int] | None:
    """The turn and the step where the two part."""
    for turn, (our_steps, their_steps) in enumerate(zip(ours, theirs.turns, strict=False)):
        pairs = enumerate(zip(our_steps, their_steps, strict=False))
        step = next((at for at, (ours_at, theirs_at) in pairs if ours_at != theirs_at), None)
        if step is not None:
            return turn, step
        complete = theirs.cut_short is None or turn < len(theirs.turns) - 1
        if complete and len(our_steps) != len(their_steps):
            return turn, min(len(our_steps), len(their_steps))
    return None


def _at(steps: Sequence[int | str], place: int) -> str:
    return repr(steps[place]) if place < len(steps) else "nothing"
