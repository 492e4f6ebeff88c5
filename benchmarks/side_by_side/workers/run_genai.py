"""Run an ONNX directory in stock onnxruntime-genai, as its users do."""

import json
import time

import onnxruntime_genai as genai

from benchmarks.side_by_side.workers.engine import Settings, Timing, run


class GenaiEngine:
    def __init__(self, settings: Settings) -> None:
        config = genai.Config(str(_directory(settings)))
        if settings.threads is not None:
            session = {"intra_op_num_threads": settings.threads}
            config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self.model = genai.Model(config)
        self.context_length = settings.context_length

    def generate(self, text: str, ids: list[int], decode_steps: int) -> Timing:
        del text  # this runtime takes tokens
        parameters = genai.GeneratorParams(self.model)
        # min_length keeps a random model from stopping early; max_length is what the cache is allocated for
        parameters.set_search_options(
            do_sample=False, max_length=self.context_length, min_length=len(ids) + decode_steps + 2
        )
        generator = genai.Generator(self.model, parameters)
        started = time.perf_counter()
        generator.append_tokens(ids)
        generator.generate_next_token()
        prefilled = time.perf_counter()
        for _ in range(decode_steps):
            generator.generate_next_token()
        ended = time.perf_counter()
        return Timing(prefill_s=prefilled - started, decode_s=ended - prefilled, decode_steps=decode_steps)


def _directory(settings: Settings) -> object:
    """Where genai_config.json lies: the directory itself, or the ONNX artifact of a bundle."""
    found = sorted(settings.artifact.rglob("genai_config.json"))
    if len(found) != 1:
        raise SystemExit(f"{settings.artifact}: {len(found)} genai_config.json files, one is needed")
    return found[0].parent


if __name__ == "__main__":
    run(GenaiEngine, __doc__)
