"""llama.cpp at Q4_0, through llama-cpp-python, which may live in a Python of its own (`--llama-python`).

Our writer makes the GGUF, llama.cpp's own quantizer makes it Q4_0, with the types it chooses: Q6_K for the tied
embedding and head, Q4_0 for the other matrices.
"""

from benchmarks.side_by_side.subjects import OUT, Build, Context, Peer, Subject, module_command, package_versions

MODULES = ("gguf",)
LLAMA_MODULES = ("llama_cpp",)


def peer(context: Context) -> Peer:
    """One file, one runtime."""
    whole, quantized = f"{OUT}/unquantized.gguf", f"{OUT}/model-q4_0.gguf"
    build = Build(
        name="llama-cpp",
        label="llama.cpp Q4_0",
        commands=(
            module_command(
                "benchmarks.side_by_side.workers.build_gguf", "--checkpoint", context.checkpoint, "--file", whole
            ),
            module_command(
                "benchmarks.side_by_side.workers.quantize_gguf",
                *("--source", whole, "--file", quantized, "--threads", context.threads),
                python=context.llama_python,
            ),
        ),
        made_by=package_versions("gguf"),
        weight_bytes=module_command("benchmarks.side_by_side.workers.weight_bytes", "gguf", OUT),
    )
    subject = Subject(
        name="llama-cpp",
        build=build.name,
        label="llama.cpp Q4_0",
        command=module_command(
            "benchmarks.side_by_side.workers.run_llama_cpp", "--threads", context.threads, python=context.llama_python
        ),
    )
    return Peer(builds=(build,), subjects=(subject,))
