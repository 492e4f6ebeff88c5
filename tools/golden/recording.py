"""A chat on a real runtime, call by call: what a fake engine replays in the tests of the apps.

The tiny trained model answers in ONNX Runtime through our own conversation. Each call of the runner is noted with its
arguments, each forward's logits go to `recording.bin` (float32, little endian, one row a call). Whoever replays the
same script has to make the same calls and gets the same text. Row by row the logits are those of the machine that
recorded, so a test checks that they replay, not that they can be recorded anew.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from runtimes.artifact import Artifact
from runtimes.chat import Conversation
from runtimes.generate import Piece, Settings
from runtimes.runner import Logits, Runner, Tokens, open_runner
from runtimes.sampling import Sampling
from runtimes.template import ChatTemplate
from runtimes.tokenizer import Tokenizer, load_tokenizer
from tools.golden.files import ROOT, to_json, write

TOKENIZER = "export/models/tiny/tokenizer.json"
TEMPLATE = "export/models/tiny/chat_template.jinja"
SYSTEM = "You tell short stories for small children."
OPTIONS = {"enable_thinking": False}
DRAWN = {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05, "seed": 11}
SCRIPT: list[dict[str, Any]] = [
    {"do": "say", "text": "Tell me a story about a little cat.", "settings": {"max_tokens": 20}},
    {"do": "regenerate", "settings": {"max_tokens": 16, **DRAWN}},
    {"do": "say", "text": "Then what happened? 猫は？ 🐈", "settings": {"max_tokens": 12, **DRAWN}},
    {"do": "edit_last", "text": "And the dog?", "settings": {"max_tokens": 12}},
    {"do": "regenerate", "settings": {"max_tokens": 12, "stop_strings": [" four"]}},
    {"do": "reset"},
    {"do": "say", "text": "Hello", "settings": {"max_tokens": 8}},
]
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")


class Recorder:
    """A runner that notes what is asked of another one."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._snapshots: list[Any] = []
        self.calls: list[dict[str, Any]] = []
        self.rows: list[Logits] = []
        self.context_length = runner.context_length
        self.vocab_size = runner.vocab_size
        self.prefill_chunk = runner.prefill_chunk
        self.threads = runner.threads

    @property
    def position(self) -> int:
        return self._runner.position

    def forward(self, tokens: Tokens) -> Logits:
        logits = self._runner.forward(tokens)
        self.calls.append({"call": "forward", "tokens": [int(token) for token in tokens], "row": len(self.rows)})
        self.rows.append(logits)
        return logits

    def reset(self) -> None:
        self._runner.reset()
        self.calls.append({"call": "reset"})

    def snapshot(self) -> Any:
        snapshot = self._runner.snapshot()
        self.calls.append({"call": "snapshot", "id": len(self._snapshots)})
        self._snapshots.append(snapshot)
        return snapshot

    def restore(self, snapshot: Any) -> None:
        self._runner.restore(snapshot)
        self.calls.append({"call": "restore", "id": self._snapshots.index(snapshot)})

    def close(self) -> None:
        self._runner.close()


def record(artifact: Artifact) -> None:
    """Run the script on an artifact and write `recording.json` and `recording.bin`."""
    runner = Recorder(open_runner(artifact, threads=1))
    tokenizer = load_tokenizer(ROOT / TOKENIZER)
    eos = artifact.manifest.eos_token_ids
    script = [{**step, **answer} for step, answer in zip(SCRIPT, play(runner, tokenizer, eos), strict=True)]
    facts = {
        "runtime": f"{artifact.manifest.runtime.name} {artifact.manifest.runtime.version}",
        "tokenizer_file": TOKENIZER,
        "template_file": TEMPLATE,
        "system": SYSTEM,
        "options": OPTIONS,
        "eos_token_ids": list(eos),
        "context_length": runner.context_length,
        "prefill_chunk": runner.prefill_chunk,
        "vocab_size": runner.vocab_size,
        "logits_file": "recording.bin",
    }
    write("recording.json", to_json(facts | {"script": script, "calls": runner.calls}).encode())
    write("recording.bin", np.stack(runner.rows).astype("<f4").tobytes())
    runner.close()


def play(runner: Runner, tokenizer: Tokenizer, eos_token_ids: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Play the script; each step's pieces and how it ended."""
    conversation = Conversation(
        runner=runner,
        tokenizer=tokenizer,
        template=ChatTemplate((ROOT / TEMPLATE).read_text(encoding="utf-8")),
        settings=Settings(eos_token_ids=tuple(eos_token_ids)),
        system=SYSTEM,
        options=OPTIONS,
    )
    for step in SCRIPT:
        conversation.settings = _settings(step.get("settings", {}), eos_token_ids)
        yield _answer(_pieces(conversation, step)) if step["do"] != "reset" else _reset(conversation)


def _pieces(conversation: Conversation, step: dict[str, Any]) -> list[Piece]:
    if step["do"] == "say":
        return list(conversation.say(step["text"]))
    if step["do"] == "edit_last":
        return list(conversation.edit_last(step["text"]))
    return list(conversation.regenerate())


def _reset(conversation: Conversation) -> dict[str, Any]:
    conversation.reset()
    return {}


def _answer(pieces: list[Piece]) -> dict[str, Any]:
    return {
        "tokens": [piece.token for piece in pieces],
        "pieces": [piece.text for piece in pieces],
        "stop": pieces[-1].stop,
    }


def _settings(given: dict[str, Any], eos_token_ids: Sequence[int]) -> Settings:
    return Settings(
        eos_token_ids=tuple(eos_token_ids),
        sampling=Sampling(**{name: given[name] for name in SAMPLING if name in given}),
        max_tokens=given.get("max_tokens"),
        stop_strings=tuple(given.get("stop_strings", ())),
    )
