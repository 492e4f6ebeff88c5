"""ios: iPhones and iPads, by Core ML from iOS 18 and Core AI from iOS 27 on; ExecuTorch on the CPU as a third way."""

SUMMARY = "iPhones and iPads: Core ML (iOS 18 and later), Core AI (iOS 27 and later), and ExecuTorch on the CPU"
BACKENDS = ("coreml", "coreai", "executorch")
OPTIONAL_BACKENDS = ("coreml-float32", "executorch-coreml", "coreai-float32")
THREADS = 2  # the performance cores
