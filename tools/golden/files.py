"""Where the golden files are, and how their JSON is written."""

import importlib
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "golden"
NO_VECTORS = {"__init__", "__main__", "files", "recording"}


def names() -> list[str]:
    """The files that code alone determines."""
    return sorted(place.stem for place in Path(__file__).parent.glob("*.py") if place.stem not in NO_VECTORS)


def text_of(name: str) -> str:
    """What `NAME.json` should hold now."""
    return to_json(importlib.import_module(f"tools.golden.{name}").content())


def to_json(content: Any) -> str:
    """JSON with one case a line: small, and a change shows as the lines it touches."""
    lines = []
    for key, value in content.items():
        if isinstance(value, list) and value:
            items = ",\n".join(f"  {_compact(item)}" for item in value)
            lines.append(f" {json.dumps(key)}: [\n{items}\n ]")
        else:
            lines.append(f" {json.dumps(key)}: {_compact(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def write(name: str, content: bytes) -> None:
    """Write one golden file and say so."""
    place = FOLDER / name
    place.write_bytes(content)
    print(f"{place.relative_to(ROOT)}: {len(content)} bytes")


def _compact(value: Any) -> str:
    # escaped: control characters and lone marks would be lost on the way through editors
    return json.dumps(value, ensure_ascii=True, allow_nan=False)
