"""onnxruntime-genai's own model builder: round-to-nearest int4 in blocks of 32, run in GenAI.

As it comes, and at its best: `prune_lm_head` computes logits for the last position only, and the thread count is set,
because GenAI counts physical cores and a virtual machine shows it one. `exclude_mtp` is needed for both: a checkpoint
that declares an MTP layer otherwise gets a second model built, which `prune_lm_head` refuses. `max_length` is set for
both when running: the 262144 it writes makes GenAI fill gigabytes of cache. Source: onnxruntime-genai 0.18,
`python -m onnxruntime_genai.models.builder --help`.
"""

from benchmarks.side_by_side.subjects import OUT, Build, Context, Peer, Subject, module_command, package_versions

MODULES = ("onnxruntime_genai", "onnx")
OPTIONS = ("block_size=32", "accuracy_level=4", "exclude_mtp=true")


def peer(context: Context) -> Peer:
    """The builder's default and its best."""
    default = _build(context, "genai-default", "GenAI builder, default")
    pruned = _build(context, "genai-pruned", "GenAI builder, prune_lm_head", "prune_lm_head=true")
    return Peer(
        builds=(default, pruned),
        subjects=(
            Subject(
                name="genai-default",
                build=default.name,
                label="builder default, in GenAI",
                command=module_command("benchmarks.side_by_side.workers.run_genai"),
            ),
            Subject(
                name="genai-best",
                build=pruned.name,
                label="builder pruned, threads set, in GenAI",
                command=module_command("benchmarks.side_by_side.workers.run_genai", "--threads", context.threads),
            ),
        ),
    )


def _build(context: Context, name: str, label: str, *more: str) -> Build:
    options = ("-i", context.checkpoint, "-o", OUT, "-p", "int4", "-e", "cpu", "-c", f"{OUT}/cache")
    return Build(
        name=name,
        label=label,
        commands=(module_command("onnxruntime_genai.models.builder", *options, "--extra_options", *OPTIONS, *more),),
        made_by=package_versions("onnxruntime-genai"),
        weight_bytes=module_command("benchmarks.side_by_side.workers.weight_bytes", "onnx", OUT),
    )
