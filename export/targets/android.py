"""android: phones with arm64 cores; both engines have an AAR that runs these files on the CPU."""

SUMMARY = "Android phones, arm64: ONNX Runtime and ExecuTorch"
BACKENDS = ("onnx", "executorch")
OPTIONAL_BACKENDS = ("onnx-portable",)
THREADS = 2  # the performance cores of a mid-range phone; our runners choose by the device they find
