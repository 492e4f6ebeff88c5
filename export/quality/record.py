"""Write a report's figures into the manifests of the artifacts it measured, outside their hashes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from export.quality.metrics import as_json
from export.quality.report import Report, Row
from export.user_cache import write_atomically
from runtimes.artifact import MANIFEST_NAME, read_manifest


def record(report: Report) -> list[Path]:
    """Put each artifact's rows into its manifest; returns the artifacts that were written."""
    by_path: dict[Path, list[Row]] = {}
    for row in report.rows:
        if (Path(row.path) / MANIFEST_NAME).is_file():
            by_path.setdefault(Path(row.path), []).append(row)
    for place, rows in by_path.items():
        record_quality(place, _content(report, rows))
    return list(by_path)


def record_quality(directory: Path, quality: dict[str, Any]) -> None:
    """Put quality figures into a sealed manifest, in one step; the artifact's hash does not cover them."""
    manifest = read_manifest(directory)
    measured = replace(manifest.measured, quality=quality)
    write_atomically(directory / MANIFEST_NAME, replace(manifest, measured=measured).to_json().encode())


def _content(report: Report, rows: list[Row]) -> dict[str, Any]:
    return {
        "against": report.checkpoint_sha256,
        "text": dict(report.text),
        "measured": [
            {
                "how": row.how,
                "figures": as_json(row.figures),
                "own_answers": as_json(row.own_answers),
                "free_text": as_json(row.free_text),
            }
            for row in rows
        ],
        "noise_floor": {row.name: as_json(row.figures) for row in report.noise_floor},
        "warnings": list(report.warnings),
    }
