"""The runtimes' own runners, as an app uses them without us: each must write the text that our runner writes.

The script is one conversation of three turns. The first turn ends by its end token wherever the stock runner lets us
choose one, the second by count, the third shows that nothing of the second was lost. Greedy choices are compared token
by token, and may part only where our two best logits are closer than parity's tolerance: from there on the two runners
legitimately read different texts.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtimes.artifact import Artifact
from runtimes.errors import RuntimeUnavailableError
from runtimes.runner import Runner
from runtimes.tokenizer import Tokenizer, load_tokenizer

OPENING = "Once upon a time there was a little house by the sea"
FOLLOW_UPS = ("And then the old man said to them", "In the morning they")
STEPS = 64
LAST_STEPS = 8
MARGIN_OF_EOS = 2  # the end token we choose appears first after at least so many others


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


def compare_with_stock(artifact: Artifact, runner: Runner, tolerance: float) -> tuple[str | None, dict[str, Any]]:
    """Run the script in the stock runner of the artifact's runtime; the reason of a failure, and figures."""
    tokenizer = load_tokenizer(artifact.tokenizer_file)
    engine = _engine(artifact.manifest.runtime.name)
    script = write_script(artifact, runner, tokenizer, choose_eos=engine.CAN_CHOOSE_EOS)
    ours = run_script(runner, script)
    theirs: list[list[int]] = engine.run_script(artifact, script, tokenizer)
    figures: dict[str, Any] = {
        "stock": engine.NAME,
        "tokens": sum(len(turn) for turn in theirs),
        "ended_by_eos": [bool(turn) and turn[-1] in script.eos_token_ids for turn in theirs],
        "first_difference": None,
    }
    for at, (our_turn, their_turn) in enumerate(zip(ours, theirs, strict=True)):
        place = _first_difference([step.token for step in our_turn], their_turn)
        if place is None:
            continue
        margin = our_turn[place].margin if place < len(our_turn) else float("inf")
        figures["first_difference"] = {"turn": at + 1, "step": place + 1, "margin": min(margin, 1e30)}
        if margin > tolerance:
            return _explain(at, place, our_turn, their_turn, tolerance), figures
        return None, figures  # from here on the two read different texts
    return None, figures


def write_script(artifact: Artifact, runner: Runner, tokenizer: Tokenizer, *, choose_eos: bool) -> Script:
    """A conversation that fits the context, with an end token that the first turn will meet where one can be chosen."""
    eos = artifact.manifest.eos_token_ids
    end = tokenizer.token_text(eos[0]) or ""
    texts = [OPENING, *(f"{end}\n{text}" for text in FOLLOW_UPS)]
    tokens = [tuple(tokenizer.encode(text)) for text in texts]
    room = runner.context_length - sum(map(len, tokens)) - LAST_STEPS - len(texts)
    if room < 2 * (MARGIN_OF_EOS + 1):
        raise RuntimeUnavailableError(f"a context of {runner.context_length} is too short for three turns")
    steps = min(STEPS, room // 2)
    counts = (steps, steps, LAST_STEPS)
    turns = tuple(
        Turn(text=text, tokens=ids, steps=count) for text, ids, count in zip(texts, tokens, counts, strict=True)
    )
    if choose_eos:
        first = run_script(runner, Script(turns=turns[:1], eos_token_ids=()))[0]
        eos = _eos_within([step.token for step in first]) or eos
    return Script(turns=turns, eos_token_ids=eos)


def run_script(runner: Runner, script: Script) -> list[list[Step]]:
    """Our runner's greedy choices, turn by turn; an end token is never fed, a last token by count is."""
    runner.reset()
    pending: list[int] = []
    answers: list[list[Step]] = []
    for turn in script.turns:
        logits = runner.forward([*pending, *turn.tokens])
        steps: list[Step] = []
        while True:
            best_two = np.partition(logits, -2)[-2:]
            steps.append(Step(token=int(logits.argmax()), margin=float(best_two[1] - best_two[0])))
            if steps[-1].token in script.eos_token_ids or len(steps) == turn.steps:
                break
            logits = runner.forward([steps[-1].token])
        pending = [] if steps[-1].token in script.eos_token_ids else [steps[-1].token]
        answers.append(steps)
    runner.reset()
    return answers


def _engine(runtime: str) -> Any:
    """The stock runner of a runtime: the file of its name in this folder."""
    try:
        return importlib.import_module(f"runtimes.stock.{runtime}")
    except ModuleNotFoundError as error:
        raise RuntimeUnavailableError(
            f"the stock runner for {runtime!r} needs {error.name!r}, not installed"
        ) from error


def _eos_within(tokens: Sequence[int]) -> tuple[int, ...] | None:
    """A token that first appears late enough to end a turn in its middle."""
    fresh = [token for at, token in enumerate(tokens) if at >= MARGIN_OF_EOS and token not in tokens[:at]]
    return (fresh[len(fresh) // 2],) if fresh else None


def _first_difference(ours: Sequence[int], theirs: Sequence[int]) -> int | None:
    for at, (our_token, their_token) in enumerate(zip(ours, theirs, strict=False)):
        if our_token != their_token:
            return at
    return None if len(ours) == len(theirs) else min(len(ours), len(theirs))


def _explain(turn: int, place: int, ours: Sequence[Step], theirs: Sequence[int], tolerance: float) -> str:
    our_token = ours[place].token if place < len(ours) else "nothing"
    their_token = theirs[place] if place < len(theirs) else "nothing"
    margin = f"{ours[place].margin:.3g}" if place < len(ours) else "none"
    return (
        f"turn {turn + 1}, step {place + 1}: ours chose {our_token}, the stock runner {their_token}; "
        f"our margin {margin} is over the tolerance {tolerance:.3g}"
    )
