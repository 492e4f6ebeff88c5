"""`genai_config.json`: what stock onnxruntime-genai needs to open the artifact unedited (src/config.cpp, 0.18).

Differences from what its own builder writes: `max_length` is the context the artifact was made for (GenAI allocates a
cache of that length at once), every EOS id is listed, and the thread count is set, since by default GenAI counts
physical cores and runs on one thread where a virtual machine shows it one. `chunk_size` bounds the activations of a
long prompt: the fused operators take as long per token at 128 tokens as at 512.
"""

from typing import Any

from export.backends import LoweringRequest
from export.onnx_lowering.vision import EMBEDDING_FILE, TOWER_FILE
from export.vision.request import VisionRequest
from runtimes.vision.spec import ImageSpec

PROCESSOR_FILE = "processor_config.json"


def genai_config(request: LoweringRequest, model_file: str, prefill_chunk: int) -> dict[str, Any]:
    """The configuration of a text model in the layout of `export.onnx_lowering.graph`."""
    config = request.config
    eos = list(request.eos_token_ids)
    written: dict[str, Any] = {
        "model": {
            "bos_token_id": request.bos_token_id if request.bos_token_id is not None else eos[0],
            "context_length": request.context_length,
            "decoder": {
                "session_options": {
                    "log_id": "onnxruntime-genai",
                    "intra_op_num_threads": request.threads,
                    # plans memory per input shape on top of what the arena holds: 63 MB for 512 tokens of 0.8B
                    "enable_mem_pattern": False,
                    "provider_options": [],
                },
                "filename": model_file,
                "head_size": config.head_dim,
                "hidden_size": config.hidden_size,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "position_ids": "position_ids",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                    "past_conv_names": "past.%d.conv",
                    "past_recurrent_names": "past.%d.recurrent",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                    "present_conv_names": "present.%d.conv",
                    "present_recurrent_names": "present.%d.recurrent",
                },
                "num_attention_heads": config.num_attention_heads,
                "num_hidden_layers": config.num_layers,
                "num_key_value_heads": config.num_key_value_heads,
            },
            "eos_token_id": eos if len(eos) > 1 else eos[0],
            # GenAI masks pad tokens out of a prompt, so never the id that ends a turn, which a second turn contains
            "pad_token_id": request.pad_token_id if request.pad_token_id is not None else eos[-1],
            "type": "qwen3_5_text",
            "vocab_size": config.vocab_size,
        },
        "search": {
            "diversity_penalty": 0.0,
            "chunk_size": prefill_chunk,
            "do_sample": False,
            "early_stopping": True,
            "length_penalty": 1.0,
            "max_length": request.context_length,
            "min_length": 0,
            "no_repeat_ngram_size": 0,
            "num_beams": 1,
            "num_return_sequences": 1,
            "past_present_share_buffer": True,
            "repetition_penalty": 1.0,
            "temperature": 1.0,
            "top_k": 1,
            "top_p": 1.0,
        },
    }
    if request.vision is not None:
        _add_vision(written["model"], request.vision)
        del written["search"]["chunk_size"]  # a prompt with images is not cut
    return written


def processor_config(images: ImageSpec) -> dict[str, Any]:
    """How onnxruntime-genai prepares an image: the same steps in onnxruntime-extensions' operators."""
    smallest = images.factor
    steps: list[tuple[str, str, dict[str, Any]]] = [
        ("decode_image", "DecodeImage", {"color_space": "RGB"}),
        ("convert_to_rgb", "ConvertRGB", {}),
        (
            "resize",
            "Resize",
            {
                "width": smallest,
                "height": smallest,
                "smart_resize": 1,
                "min_pixels": images.min_pixels,
                "max_pixels": images.max_pixels,
                "patch_size": images.patch_size,
                "merge_size": images.merge_size,
                "interpolation": "CUBIC",
            },
        ),
        ("rescale", "Rescale", {"rescale_factor": 1 / 255}),
        ("normalize", "Normalize", {"mean": list(images.mean), "std": list(images.std), "qwen3_vl": 1}),
        (
            "patch_image",
            "PatchImage",
            {
                "patch_size": images.patch_size,
                "temporal_patch_size": images.temporal_patch_size,
                "merge_size": images.merge_size,
            },
        ),
    ]
    operations = [{"operation": {"name": name, "type": kind, "attrs": attributes}} for name, kind, attributes in steps]
    return {"processor": {"name": "qwen3_vl_image_processor", "transforms": operations}}


def _add_vision(model: dict[str, Any], request: VisionRequest) -> None:
    """Turn a text model's section into that of a model of three graphs."""
    config = request.config
    inputs = model["decoder"]["inputs"]
    model["decoder"]["inputs"] = {"inputs_embeds": "inputs_embeds", **inputs}
    del model["decoder"]["inputs"]["input_ids"]
    model |= {
        "type": "qwen3_5",
        "image_token_id": config.image_token_id,
        "video_token_id": config.video_token_id,
        "vision_start_token_id": config.vision_start_token_id,
        "embedding": {
            "filename": EMBEDDING_FILE,
            "inputs": {"input_ids": "input_ids", "image_features": "image_features"},
            "outputs": {"inputs_embeds": "inputs_embeds"},
        },
        "vision": {
            "filename": TOWER_FILE,
            "config_filename": PROCESSOR_FILE,
            "spatial_merge_size": config.merge_size,
            "patch_size": config.patch_size,
            "inputs": {"pixel_values": "pixel_values", "image_grid_thw": "image_grid_thw"},
            "outputs": {"image_features": "image_features"},
        },
    }
