"""Recovery of what quantization lost, by training: `python -m export finetune`.

QAT trains the weights through the rounding of the export itself (export/finetune/fake_quantize.py), QLoRA trains small
adapters over frozen codes (export/finetune/adapters.py). The teacher is the float model: the loss is how far the
quantized model's predictions are from its own, on the user's text or on text that it makes up itself. What comes out is
a checkpoint that the ordinary export reads.
"""

from export.errors import ExportError


class FinetuneError(ExportError):
    """Training cannot start, or has to stop."""
