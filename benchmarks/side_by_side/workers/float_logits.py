"""Logits of the float checkpoint in transformers, in fp32: what every artifact is compared with."""

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Qwen3_5ForConditionalGeneration

from benchmarks.side_by_side.workers.logits import LogitsOf, Settings, collect


def load(settings: Settings) -> LogitsOf:
    torch.set_num_threads(settings.threads)
    model = Qwen3_5ForConditionalGeneration.from_pretrained(settings.artifact, dtype=torch.float32).eval()

    def logits_of(window: list[int]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = model(input_ids=torch.tensor([window])).logits[0].float().numpy()
        return logits

    return logits_of


if __name__ == "__main__":
    collect(load, __doc__)
