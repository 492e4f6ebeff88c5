"""Logits of an ONNX directory in stock onnxruntime-genai, token by token: a pruned graph gives only the last ones."""

import numpy as np
import onnxruntime_genai as genai
from numpy.typing import NDArray

from benchmarks.side_by_side.workers.logits import LogitsOf, Settings, collect


def load(settings: Settings) -> LogitsOf:
    directories = [path.parent for path in settings.artifact.rglob("genai_config.json")]
    if len(directories) != 1:
        raise SystemExit(f"{settings.artifact}: {len(directories)} genai_config.json files, one is needed")
    model = genai.Model(genai.Config(str(directories[0])))

    def logits_of(window: list[int]) -> NDArray[np.float32]:
        parameters = genai.GeneratorParams(model)
        parameters.set_search_options(do_sample=False, max_length=len(window) + 1)
        generator = genai.Generator(model, parameters)
        rows = []
        for token in window:
            generator.append_tokens([token])
            rows.append(np.asarray(generator.get_logits(), np.float32).reshape(-1))
        return np.stack(rows)

    return logits_of


if __name__ == "__main__":
    collect(load, __doc__)
