"""Stock onnxruntime-genai on the artifact's directory as it lies there, `genai_config.json` included."""

import json
import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, as the library loads

import numpy as np
import onnxruntime_genai

from runtimes.artifact import Artifact
from runtimes.errors import RuntimeFailedError
from runtimes.stock import Answers, Script, Traits, Turn

TRAITS = Traits(
    name=f"onnxruntime-genai {onnxruntime_genai.__version__}",
    chooses_eos=True,
    keeps_last_token=True,
    checks_first_token=True,
    shows_tokens=True,
)


def run_script(artifact: Artifact, script: Script) -> Answers:
    """The greedy choices of onnxruntime-genai; its end tokens are laid over the artifact's configuration."""
    try:
        config = onnxruntime_genai.Config(str(artifact.path))
        config.overlay(json.dumps({"model": {"eos_token_id": list(script.eos_token_ids)}}))
        model = onnxruntime_genai.Model(config)
        parameters = onnxruntime_genai.GeneratorParams(model)
        parameters.set_search_options(do_sample=False, max_length=artifact.manifest.context_length)
        generator = onnxruntime_genai.Generator(model, parameters)
        return Answers(turns=[_run_turn(generator, turn) for turn in script.turns])
    except Exception as error:  # its errors are plain exceptions
        raise RuntimeFailedError(f"{TRAITS.name} failed on {artifact.path}: {error}") from error


def _run_turn(generator: onnxruntime_genai.Generator, turn: Turn) -> list[int]:
    generator.append_tokens(np.array([turn.tokens], dtype=np.int32))
    tokens: list[int] = []
    while len(tokens) < turn.steps:
        generator.generate_next_token()
        tokens.append(int(generator.get_next_tokens()[0]))
        if generator.is_done():
            return tokens
    # the last token has not run yet; appending would drop it, asking for its logits runs it
    generator.get_logits()
    return tokens
