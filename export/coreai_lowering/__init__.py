"""From the captured decoder to a Core AI asset: emit operators, pack codes as they are, write the same bytes again."""

import coreai.authoring  # noqa: F401 (the dialects that modules here import can't be the first part of it to load)
