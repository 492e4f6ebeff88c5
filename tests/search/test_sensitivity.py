"""Predicted and measured divergence of the tiny model, and Ray beside the process itself."""

import pytest
import torch

from export import catalog
from export.config import parse_config, read_config
from export.schemes import Format
from export.search.evaluator import Job, evaluate_here, evaluate_on_ray, open_subject, traced
from export.search.layouts import Space, describe, searched, smallest_layout, uniform_layouts
from export.search.sensitivity import direct_costs, fisher_costs
from export.text_files import read_text_files
from tests.fixtures import TINY

G64 = Format(bits=4, group_size=64)
TOKENS = 64


@pytest.fixture(scope="module")
def job() -> Job:
    config = parse_config(read_config(TINY), "tiny")
    text = read_text_files(TINY, config.vocab_size)
    ids = text.encode((TINY / "held_out.txt").read_text(encoding="utf-8"))
    return Job(
        checkpoint=TINY, config=config, tokens=torch.tensor(ids[: 24 * TOKENS]).view(-1, TOKENS), method="weighted"
    )


@pytest.fixture(scope="module")
def space(job: Job) -> Space:
    return Space(config=job.config, backend=catalog.load("backends", "onnx"), context_length=64)


def ranks(values: list[float]) -> torch.Tensor:
    return torch.tensor(values).argsort().argsort().double()


def test_the_fisher_pass_ranks_matrices_as_measurement_does(job: Job, space: Space) -> None:
    subject = open_subject(job)
    seen = traced(subject, job.tokens, lambda *_: None)
    names = [
        name for name, forms in space.candidates.items() if G64 in forms and name.startswith(("layers.0", "layers.3"))
    ]
    candidates = dict.fromkeys(names, (G64, space.backend.FINEST[8]))
    predicted = fisher_costs(subject, seen, candidates, 0, lambda *_: None)
    measured = direct_costs(subject, seen, candidates, lambda *_: None)
    pairs = [(predicted[name][form], measured[name][form]) for name in names for form in candidates[name]]
    both = torch.stack([ranks([pair[0] for pair in pairs]), ranks([pair[1] for pair in pairs])])
    assert float(torch.corrcoef(both)[0, 1]) > 0.85
    assert sum(pair[0] for pair in pairs) == pytest.approx(sum(pair[1] for pair in pairs), rel=0.6)


@pytest.mark.slow
def test_ray_measures_what_this_process_measures(job: Job, space: Space) -> None:
    pytest.importorskip("ray")
    small = Job(checkpoint=job.checkpoint, config=job.config, tokens=job.tokens[:2], method=job.method)
    layouts = [smallest_layout(space), *uniform_layouts(space).values()][:3]
    here = evaluate_here(small)(layouts)
    assert evaluate_on_ray(small)(layouts) == pytest.approx(here, rel=1e-4)
    assert len(set(here)) == 3


def test_matrices_that_a_backend_ties_share_a_format(job: Job) -> None:
    space = Space(config=job.config, backend=catalog.load("backends", "executorch"), context_length=64)
    tied = [{unit.name.rpartition(".")[2] for unit in members} for members in space.groups() if len(members) > 1]
    assert {"q_proj", "k_proj", "v_proj"} in tied
    assert {"in_proj_qkv", "in_proj_z"} in tied
    costs = {unit: dict.fromkeys(forms, 1.0) for unit, forms in searched(space.candidates).items()}
    layout = smallest_layout(space)
    assert layout["layers.3.self_attn.q_proj"] == layout["layers.3.self_attn.v_proj"]
    assert describe(space, costs, layout).predicted_kld > 0
