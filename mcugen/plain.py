"""What close relatives of Llama add, and some targets do not compute."""

from __future__ import annotations

from mcugen.errors import UsageError
from mcugen.ir import QuantizedModel

TARGETS = {"tflm": "TensorFlow Lite Micro", "microtvm": "microTVM"}


def check_plain(model: QuantizedModel, target: str) -> None:
    """Raise UsageError where a model has ops that only the standalone C target knows. target: one of TARGETS.

    embedding_scale and logit_scale are in the multipliers of any target.
    """
    config = model.config
    added = {
        "head_size": config.head_size * (config.query_dim != config.dim),
        "activation": "" if config.activation == "silu" else config.activation,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "qk_norm": config.qk_norm,
        "post_norms": config.post_norms,
        "n_experts": config.n_experts,
        "layer_windows": any(config.layer_windows) and config.layer_windows,
        "value_bits": model.value_bits % 8,
    }
    for field, value in added.items():
        if value:
            raise UsageError(
                f"the {TARGETS[target]} target does not compute {field} {value}, which {model.name} has",
                where="--target",
                hint="--target c",
            )
