"""Run a .pte in ExecuTorch's stock TextLLMRunner, as its users do.

The runner's own clock counts in whole milliseconds, which is fine at 64 tokens. Its prefill time here starts after the
prompt is tokenized. The number of steps is what it reports: a model that writes an end token stops it early.
"""

import json
from pathlib import Path

import executorch.extension.llm.custom_ops.custom_ops  # registers llama::
import executorch.kernels.quantized  # noqa: F401  # registers quantized_decomposed::
from executorch.extension.llm.runner import GenerationConfig, Stats, TextLLMRunner

from benchmarks.side_by_side.workers.engine import Settings, Timing, run


class TextLlmEngine:
    def __init__(self, settings: Settings) -> None:
        self.runner = TextLLMRunner(str(_program(settings.artifact)), str(settings.tokenizer))
        # the runner loads its model on the first call, and that belongs to the load time
        self.runner.generate("Hello", GenerationConfig(echo=False, max_new_tokens=1, temperature=0.0))

    def generate(self, text: str, ids: list[int], decode_steps: int) -> Timing:
        self.runner.reset()
        collected: list[Stats] = []
        config = GenerationConfig(echo=False, max_new_tokens=decode_steps + 1, temperature=0.0)
        # no token callback: it raises UnicodeDecodeError on a token that ends inside a UTF-8 character
        self.runner.generate(text, config, None, collected.append)
        stats = json.loads(collected[-1].to_json_string())
        if stats["prompt_tokens"] != len(ids):
            raise SystemExit(f"the runner read {stats['prompt_tokens']} tokens where the prompt has {len(ids)}")
        return Timing(
            prefill_s=(stats["prompt_eval_end_ms"] - stats["inference_start_ms"]) / 1000,
            decode_s=(stats["inference_end_ms"] - stats["prompt_eval_end_ms"]) / 1000,
            decode_steps=stats["generated_tokens"],  # the first new token, sampled in the prefill, is not counted
        )


def _program(artifact: Path) -> Path:
    found = sorted(artifact.rglob("*.pte"))
    if len(found) != 1:
        raise SystemExit(f"{artifact}: {len(found)} .pte files, one is needed")
    return found[0]


if __name__ == "__main__":
    run(TextLlmEngine, __doc__)
