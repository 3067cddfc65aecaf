"""What close relatives of Llama add, and some targets do not compute."""

from __future__ import annotations

from mcugen.errors import UsageError
from mcugen.ir import Config

TARGETS = {"tflm": "TensorFlow Lite Micro", "microtvm": "microTVM"}


def check_plain(config: Config, name: str, target: str) -> None:
    """Raise UsageError where a model has ops that only the standalone C target knows. target: one of TARGETS.

    embedding_scale and logit_scale are in the multipliers of any target.
    """
    added = {
        "head_size": config.head_size * (config.query_dim != config.dim),
        "activation": "" if config.activation == "silu" else config.activation,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "qk_norm": config.qk_norm,
        "post_norms": config.post_norms,
        "n_experts": config.n_experts,
    }
    for field, value in added.items():
        if value:
            raise UsageError(
                f"the {TARGETS[target]} target does not compute {field} {value}, which {name} has",
                where="--target",
                hint="--target c",
            )
