"""The golden vectors of `tests/golden`, written from the Python code that defines what is right.

One module a file: `tools/golden/NAME.py` has a function `content`, which gives what `tests/golden/NAME.json` holds.
`python -m tools.golden` writes them all; a test checks that they are current. Recordings of a real runtime are made by
`python -m tools.golden --record ARTIFACT` only, since they differ from machine to machine.
"""
