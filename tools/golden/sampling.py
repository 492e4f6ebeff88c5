"""Random numbers, the candidates that filters leave, and the tokens drawn from them."""

from typing import Any

import numpy as np

from runtimes.sampling import Sampler, Sampling, SplitMix64, candidates, penalize, weights

SEEDS = (0, 1, 42, 2**63 - 1)
VOCABULARY = 48
DRAWS = 12
SETTINGS = (
    {"temperature": 0.0},
    {"temperature": 0.0, "repetition_penalty": 1.3},
    {"temperature": 1.0},
    {"temperature": 0.6, "top_k": 20, "top_p": 0.95},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05},
    {"temperature": 1.5, "top_k": 5},
    {"temperature": 1.0, "top_p": 0.3},
    {"temperature": 1.0, "top_p": 0.001},
    {"temperature": 0.9, "min_p": 0.1},
    {"temperature": 2.0, "min_p": 0.02, "top_p": 0.9, "top_k": 30, "repetition_penalty": 0.8},
)
TIES = [1.0, 3.0, 2.0, 2.0, 2.0, 0.0, -1.0, 3.0]


def content() -> dict[str, Any]:
    """Vectors for the generator and for whole samplers."""
    return {"generator": [_generator(seed) for seed in SEEDS], "cases": _cases(), "refused": _refused()}


def _generator(seed: int) -> dict[str, Any]:
    bits, numbers = SplitMix64(seed), SplitMix64(seed)
    return {
        "seed": seed,
        "bits_hex": [f"{bits.bits():016x}" for _ in range(8)],
        "uniform": [numbers.uniform() for _ in range(8)],
    }


def _cases() -> list[dict[str, Any]]:
    random = SplitMix64(2026)
    spread = [np.float32((random.uniform() - 0.5) * 16) for _ in range(VOCABULARY)]
    flat = [np.float32((random.uniform() - 0.5) * 2) for _ in range(VOCABULARY)]
    history = [int(random.uniform() * VOCABULARY) for _ in range(12)]
    cases = [
        _case(f"{name} {number}", logits, history, setting)
        for number, setting in enumerate(SETTINGS)
        for name, logits in (("spread", spread), ("flat", flat))
    ]
    cases.append(_case("ties at the edge of top-k", TIES, [], {"temperature": 1.0, "top_k": 3}))
    cases.append(_case("ties, greedy takes the lowest id", TIES, [], {"temperature": 0.0}))
    cases.append(_case("negative logits are multiplied by the penalty", [-1.0, -1.2, -3.0], [0], {
        "temperature": 0.0, "repetition_penalty": 1.5,
    }))  # fmt: skip
    return cases


def _case(name: str, logits: list[Any], history: list[int], settings: dict[str, Any]) -> dict[str, Any]:
    sampling = Sampling(**settings, seed=7)
    scores = np.asarray(logits, np.float32)
    sampler = Sampler(sampling)
    case = {
        "name": name,
        "logits": [float(value) for value in scores],
        "history": history,
        "settings": {**settings, "seed": 7},
        "picks": [sampler.choose(scores, history) for _ in range(DRAWS)],
    }
    if sampling.temperature > 0:
        ids, kept = candidates(penalize(scores, history, sampling.repetition_penalty), sampling)
        case["candidates"] = ids.tolist()
        case["scores"] = [float(value) for value in kept]
        case["weights"] = weights(kept).tolist()
    return case


def _refused() -> list[dict[str, Any]]:
    """Settings outside their range; the error names the setting."""
    wrong: list[tuple[str, Any]] = [
        ("temperature", -0.1), ("top_k", -1), ("top_p", 0.0), ("top_p", 1.1), ("min_p", 1.0), ("min_p", -0.1),
        ("repetition_penalty", 0.0), ("seed", -1),
    ]  # fmt: skip
    return [{"setting": name, "value": value} for name, value in wrong]
