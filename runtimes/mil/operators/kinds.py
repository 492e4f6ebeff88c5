"""How parameters of operators arrive; used in their annotations."""

from typing import Annotated

from torch import Tensor

Stored = Annotated[Tensor, "stored"]  # as the file types it, not widened
Tensors = list[Tensor]  # widened
StoredTensors = Annotated[list[Tensor], "stored"]
Ints = tuple[int, ...]
Bools = tuple[bool, ...]
