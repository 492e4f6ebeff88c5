"""One HTML file with everything in it: style, script, chart library and data.

A content security policy allows the scripts and the style that were written here, by their hashes, and nothing else: no
request, no form, no frame, no script that came in with a record. Records stand in a JSON block whose `<`, `>` and `&`
are escaped, so that nothing in them ends the block; the script puts them into the page as text.
"""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

__all__ = ["html"]

HERE = Path(__file__).parent
# what JSON may hold and an HTML parser or an old JavaScript parser would understand
ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def html(content: dict[str, Any]) -> str:
    """The page that shows what `content.collect` found."""
    parts = {
        "style": _read("page.css"),
        "library": _without_map(_read("vendor/chart.umd.min.js")),
        "charts": _read("charts.js"),
        "page": _read("page.js"),
        "data": json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).translate(ESCAPES),
    }
    parts["policy"] = _policy([parts["library"], parts["charts"], parts["page"]], parts["style"])
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _read("page.html"))


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _without_map(script: str) -> str:
    """A script without its pointer to a source map, which developer tools would ask for."""
    return re.sub(r"\n//# sourceMappingURL=\S+\s*$", "\n", script)


def _policy(scripts: list[str], style: str) -> str:
    allowed = " ".join(_hash(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
