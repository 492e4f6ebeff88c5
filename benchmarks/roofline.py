"""How close decoding comes to what the memory allows.

A decoded token reads every weight once, the recurrent and convolution states, and the keys and values so far. Bytes
times tokens per second, over the measured read bandwidth, is the share in use; the rest is arithmetic, calls and
copies. Writes are left out, on all sides alike.
"""

from typing import Any

__all__ = ["bandwidth_share", "state_bytes_read"]

FLOAT_BYTES = 4


def state_bytes_read(text_config: dict[str, Any], position: int) -> int:
    """Bytes of fp32 state that a step at `position` reads."""
    linear = text_config["layer_types"].count("linear_attention")
    full = text_config["layer_types"].count("full_attention")
    keys = text_config["linear_num_key_heads"] * text_config["linear_key_head_dim"]
    values = text_config["linear_num_value_heads"] * text_config["linear_value_head_dim"]
    recurrent = values * text_config["linear_key_head_dim"]
    conv = (2 * keys + values) * (text_config["linear_conv_kernel_dim"] - 1)
    cached = 2 * text_config["num_key_value_heads"] * text_config["head_dim"] * position
    return int((linear * (recurrent + conv) + full * cached) * FLOAT_BYTES)


def bandwidth_share(bytes_per_token: float, tokens_per_s: float, bandwidth_bytes_per_s: float) -> float:
    """The share of the read bandwidth that decoding uses."""
    return bytes_per_token * tokens_per_s / bandwidth_bytes_per_s
