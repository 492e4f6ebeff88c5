"""ios: iPhones and iPads with iOS 18 and later, by Core ML; the CPU, through ExecuTorch, as the second way."""

SUMMARY = "iPhones and iPads, iOS 18 and later: Core ML, and ExecuTorch on the CPU"
BACKENDS = ("coreml", "executorch")
OPTIONAL_BACKENDS = ("coreml-float32", "executorch-coreml", "coreai", "coreai-float32")
THREADS = 2  # the performance cores
