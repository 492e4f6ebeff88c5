"""Our own exports, each in our runner and in the format's stock runtime.

`--ours NAME=ARGUMENTS` adds more of them: other schemes of the same checkpoint, by the arguments of `python -m export`.
"""

from benchmarks.side_by_side.subjects import OUT, Build, Context, Peer, Subject, module_command, source_hash

STOCK_WORKERS = {"onnx": "run_genai", "executorch": "run_text_llm_runner"}
STOCK_RUNTIMES = {"onnx": "GenAI", "executorch": "TextLLMRunner"}
# an ONNX graph is counted as its peer's is; no one can look into a .pte, so the manifest's word is taken
COUNTED_IN = {"onnx": "onnx", "executorch": "manifest"}
DEFAULT_EXPORTS = {
    "ours-onnx": "--backend onnx --scheme int4 --method rtn --group-size 32",
    "ours-executorch": "--backend executorch --scheme int4 --method rtn --group-size 32",
}


def peer(context: Context, name: str, arguments: str) -> Peer:
    """One export with these arguments, in both runtimes."""
    words = arguments.split()
    backend = words[words.index("--backend") + 1]
    build = Build(
        name=name,
        label=f"ours, {backend}",
        commands=(
            module_command(
                "export",
                *("--target", "android", "--checkpoint", context.checkpoint),
                *("--context-length", context.context_length, *words, "--out", OUT),
            ),
        ),
        weight_bytes=module_command("benchmarks.side_by_side.workers.weight_bytes", COUNTED_IN[backend], OUT),
        made_by=(source_hash("export"),),
    )
    # GenAI is told the threads as its peer is; TextLLMRunner has no such setting
    stock_threads = ("--threads", context.threads) if backend == "onnx" else ()
    return Peer(
        builds=(build,),
        subjects=(
            Subject(
                name=name,
                build=name,
                label=f"{name}, in our runner",
                command=module_command("benchmarks.side_by_side.workers.run_ours", "--threads", context.threads),
            ),
            Subject(
                name=f"{name}-stock",
                build=name,
                label=f"{name}, in {STOCK_RUNTIMES[backend]}",
                command=module_command(f"benchmarks.side_by_side.workers.{STOCK_WORKERS[backend]}", *stock_threads),
            ),
        ),
    )
