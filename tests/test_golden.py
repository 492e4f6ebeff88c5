"""The golden vectors are those of the code as it is, and the recorded chat replays."""

import json
from collections import deque
from typing import Any

import numpy as np
import pytest

from runtimes.runner import Logits, Tokens
from runtimes.tokenizer import load_tokenizer
from tools.golden import recording
from tools.golden.files import FOLDER, ROOT, names, text_of

RECORDING: dict[str, Any] = json.loads((FOLDER / "recording.json").read_text(encoding="utf-8"))


class Replay:
    """A runner that knows one conversation by heart and refuses any other."""

    def __init__(self, recorded: dict[str, Any], logits: Logits) -> None:
        self.context_length: int = recorded["context_length"]
        self.vocab_size: int = recorded["vocab_size"]
        self.prefill_chunk: int = recorded["prefill_chunk"]
        self.threads = 1
        self.position = 0
        self.calls = deque(recorded["calls"])
        self._logits = logits

    def forward(self, tokens: Tokens) -> Logits:
        call = self._next("forward")
        assert [int(token) for token in tokens] == call["tokens"]
        self.position += len(tokens)
        logits: Logits = self._logits[call["row"]].copy()
        return logits

    def reset(self) -> None:
        self._next("reset")
        self.position = 0

    def snapshot(self) -> Any:
        return (self._next("snapshot")["id"], self.position)

    def restore(self, snapshot: Any) -> None:
        identity, self.position = snapshot
        assert self._next("restore")["id"] == identity

    def close(self) -> None:
        assert not self.calls

    def _next(self, name: str) -> dict[str, Any]:
        call: dict[str, Any] = self.calls.popleft()
        assert call["call"] == name
        return call


SLOW = {"qwen_tokenizer"}  # finding the merges of 248,044 tokens takes many seconds
MARKED = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in names()]


@pytest.mark.parametrize("name", MARKED)
def test_a_golden_file_is_what_the_code_gives(name: str) -> None:
    written = (FOLDER / f"{name}.json").read_text(encoding="utf-8")
    assert written == text_of(name), "run python -m tools.golden"


def test_the_recorded_chat_replays() -> None:
    logits = np.fromfile(FOLDER / RECORDING["logits_file"], "<f4").reshape(-1, RECORDING["vocab_size"])
    replay = Replay(RECORDING, logits)
    answers = list(recording.play(replay, load_tokenizer(ROOT / recording.TOKENIZER), RECORDING["eos_token_ids"]))
    for step, answer in zip(RECORDING["script"], answers, strict=True):
        assert {key: step[key] for key in answer} == answer
    replay.close()


def test_every_golden_file_is_explained() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"`{place.name}`" in readme for place in FOLDER.iterdir() if place.suffix in (".json", ".bin"))
