"""Run a job of tests/arm/inside.py on every CPU model at once, and read what it wrote."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.arm.machine import CPUS, Machine

RUN_SECONDS = 3600


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one CPU model answered, by the name of the artifact or product."""

    reports: Mapping[str, dict[str, Any]]
    logits: Mapping[str, np.ndarray]
    products: Mapping[str, np.ndarray]


def run_everywhere(machine: Machine, job: Mapping[str, Any], root: Path) -> dict[str, Run]:
    """The answers of each CPU model; a run that ends badly fails with what it printed."""
    started = {}
    try:
        for cpu in CPUS:
            (root / cpu).mkdir()
            file = root / cpu / "job.json"
            file.write_text(json.dumps({**job, "out": str(root / cpu)}), encoding="utf-8")
            started[cpu] = machine.start(cpu, ["-m", "tests.arm.inside", str(file)], root / cpu / "log.txt")
        for cpu, process in started.items():
            assert process.wait(RUN_SECONDS) == 0, (root / cpu / "log.txt").read_text(errors="replace")[-2000:]
    finally:
        for process in started.values():
            process.kill()
    return {cpu: _read(root / cpu) for cpu in CPUS}


def _read(out: Path) -> Run:
    products: dict[str, np.ndarray] = {}
    if (out / "products.npz").exists():
        with np.load(out / "products.npz") as file:
            products = dict(file)
    return Run(
        reports={file.stem: json.loads(file.read_text().splitlines()[-1])["report"] for file in out.glob("*.jsonl")},
        logits={file.stem: np.load(file) for file in out.glob("*.npy")},
        products=products,
    )
