"""ExecuTorch's own `export_llm` for Qwen3.5: 8-bit dynamic activations, 4-bit weights in groups of 32, on XNNPACK.

Documented: the static shape of its Qwen3.5 README (one token a step, also in prefill) with the Llama README's 4-bit
embedding. Best: `enable_dynamic_shape`, which nobody documents for this model but works, with an 8-bit embedding. Its
upper bound is one token short of the length it announces, so prompts of exactly `max_seq_length` fail; ours stay below.
A `.pte` holds the tied table twice: as the head, in the delegate, and as the embedding, of which a step reads one row.
"""

from benchmarks.side_by_side.subjects import OUT, Build, Context, Peer, Subject, module_command, package_versions

MODULES = ("executorch", "torchao")
BEST_SEQUENCE = 1024
CONTEXT_LENGTH = 2048


def peer(context: Context) -> Peer:
    """The documented export and the best one."""
    documented = _build(context, "export-llm-documented", "export_llm, static, embedding 4,32", "4,32", CONTEXT_LENGTH)
    best = _build(
        context, "export-llm-best", "export_llm, dynamic, embedding 8,0", "8,0", BEST_SEQUENCE, "--dynamic-shape"
    )
    run = module_command("benchmarks.side_by_side.workers.run_text_llm_runner")
    return Peer(
        builds=(documented, best),
        subjects=tuple(
            Subject(name=build.name, build=build.name, label=f"{build.label}, in TextLLMRunner", command=run)
            for build in (documented, best)
        ),
    )


def _build(context: Context, name: str, label: str, embedding: str, max_seq_length: int, *more: str) -> Build:
    lengths = ("--max-seq-length", max_seq_length, "--max-context-length", CONTEXT_LENGTH)
    return Build(
        name=name,
        label=label,
        commands=(
            module_command(
                "benchmarks.side_by_side.workers.build_export_llm",
                *("--checkpoint", context.checkpoint, "--out", OUT, "--embedding", embedding),
                *lengths,
                *more,
            ),
        ),
        made_by=package_versions("executorch", "torchao"),
        weight_bytes=module_command(
            "benchmarks.side_by_side.workers.weight_bytes", "pte", OUT, "--less", _embedding_bytes(context, embedding)
        ),
    )


def _embedding_bytes(context: Context, embedding: str) -> int:
    """The size of the embedding's own copy: codes, and an fp32 scale per group (group 0 is the whole row)."""
    bits, group = (int(part) for part in embedding.split(","))
    rows, width = context.text_config["vocab_size"], context.text_config["hidden_size"]
    return int(rows * width * bits // 8 + rows * (width // group if group else 1) * 4)
