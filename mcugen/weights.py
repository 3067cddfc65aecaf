"""What the readers of foreign checkpoints share: settings with their types checked, and tensors brought under
llama2.c's names and shapes (ir.weight_shapes).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from mcugen.errors import InputError
from mcugen.ir import CONFIG_LIMITS, Config, weight_shapes

MAX_EXPERTS = 256
MAX_HEAD_DIM = 256  # firmware/kernels/kernels.h, mg_attention_t

Floats = NDArray[np.float32]
_Real = TypeVar("_Real", np.float32, np.float64)
_MISSING = object()


def shown(value: object) -> str:
    """A value as an error shows it: whatever a file holds, in a few dozen characters."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a nested bomb
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


class Fields:
    """The settings of a checkpoint. Each getter checks type and range, and remembers that the name was asked for."""

    def __init__(self, values: Mapping[str, object], where: str, hint: str = "check the file it comes from") -> None:
        self._values = values
        self._where = where
        self._hint = hint
        self._asked: set[str] = set()

    def __contains__(self, name: str) -> bool:
        """Whether a setting is there, and not null."""
        return self._values.get(name) is not None

    def get(self, name: str, default: object = None) -> object:
        """A value of any type; `default` where it is missing (null is not missing)."""
        self._asked.add(name)
        return self._values.get(name, default)

    def unasked(self, prefix: str) -> list[str]:
        """The names with this prefix that nobody asked for."""
        return sorted(name for name in self._values if name.startswith(prefix) and name not in self._asked)

    def fail(self, name: str, supported: str) -> NoReturn:
        """Refuse the value of a setting."""
        if name not in self._values:
            raise InputError(f"{name} is missing", where=self._where, hint=f"it must be {supported}")
        what = f"{name} is {shown(self._values[name])}"
        raise InputError(what, where=self._where, hint=f"it must be {supported}")

    def _value(self, name: str, default: object) -> object:
        """A value, or its default where it is missing or null."""
        value = self.get(name)
        return default if value is None and default is not _MISSING else value

    def integer(self, name: str, low: int, high: int, default: object = _MISSING) -> int:
        value = self._value(name, default)
        if type(value) is not int or not low <= value <= high:
            self.fail(name, f"an integer in [{low:,}, {high:,}]")
        return value

    def number(self, name: str, low: float, high: float, default: object = _MISSING) -> float:
        """A real number strictly between low and high."""
        value = self._value(name, default)
        if type(value) not in (int, float) or not low < cast(float, value) < high:
            self.fail(name, f"a number between {low:g} and {high:g}")
        return float(cast(float, value))

    def flag(self, name: str, default: object = _MISSING) -> bool:
        value = self._value(name, default)
        if type(value) is not bool:
            self.fail(name, "true or false")
        return value

    def choice(self, name: str, choices: Collection[str], default: object = _MISSING) -> str:
        value = self._value(name, default)
        if not isinstance(value, str) or value not in choices:
            self.fail(name, f"one of {', '.join(sorted(choices))}")
        return value

    def only(self, name: str, *neutral: object) -> None:
        """Refuse a setting that is there with any value but these."""
        value = self.get(name)
        if value is not None and not any(type(value) is type(other) and value == other for other in neutral):
            self.fail(name, f"{' or '.join(map(shown, neutral)) or 'left out'}: nothing else is supported")


def check_config(config: Config, where: str, max_vocab: int) -> Config:
    """Return the Config if its sizes make sense and go together, with windows and head size in their plainest form.

    max_vocab: tokens at most; CONFIG_LIMITS has what the firmware holds. Raises InputError.
    """

    def fail(what: str, hint: str) -> NoReturn:
        raise InputError(what, where=where, hint=hint)

    for name, limit in (CONFIG_LIMITS | {"vocab_size": max_vocab}).items():
        if not 1 <= getattr(config, name) <= limit:
            more = "; --vocab-from TEXT keeps the tokens that a text needs" if name == "vocab_size" else ""
            fail(f"{name} is {getattr(config, name):,}", f"1 to {limit:,} are supported{more}")
    if config.n_heads % config.n_kv_heads:
        fail(
            f"n_heads {config.n_heads} is not divisible by n_kv_heads {config.n_kv_heads}",
            "each KV head must serve the same number of query heads",
        )
    if not config.head_size and config.dim % config.n_heads:
        fail(f"dim {config.dim} is not divisible by n_heads {config.n_heads}", "state the size of a head")
    if config.head_dim % 2 or not 2 <= config.head_dim <= MAX_HEAD_DIM:
        fail(f"the head size is {config.head_dim}", f"even sizes of 2 to {MAX_HEAD_DIM} are supported")
    if config.n_experts and not 1 <= config.experts_per_token <= config.n_experts <= MAX_EXPERTS:
        fail(
            f"{config.experts_per_token} of {config.n_experts} experts per token",
            f"1 or more of at most {MAX_EXPERTS} are supported",
        )
    return config


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file. read: its values, float32[shape], decoded when they are wanted."""

    shape: tuple[int, ...]
    read: Callable[[], Floats]


@dataclass(frozen=True, slots=True)
class Naming:
    """How a format keeps the tensors of ir.weight_shapes.

    names: of a weight there, with {layer} and {expert} where the file has one tensor of each. halves: whether RoPE
    turns value j of a head with value j + head_dim / 2 there (rotate-half, NeoX) instead of neighbours.
    unit_norms: whether a norm's gain is 1 + what is stored (Gemma). zeros: weights that are not stored and all zero.
    factors: what weights are multiplied by. ignored: tensors that may be there and mean nothing.
    """

    names: Mapping[str, str]
    halves: bool
    unit_norms: bool = False
    zeros: Collection[str] = ()
    factors: Mapping[str, float] = field(default_factory=dict)
    ignored: Callable[[str], bool] = lambda name: False


def assemble(config: Config, naming: Naming, stored: Mapping[str, Stored], where: str) -> dict[str, Floats]:
    """Return the weights of a model, finite and read-only; stored: every tensor of the file(s) by its name there.

    Raises InputError, before anything is decoded, where a tensor is missing, left over, or has another shape.
    """
    shapes = {name: shape for name, shape in weight_shapes(config).items() if name not in naming.zeros}
    used = set()
    for weight, shape in shapes.items():
        for name, index in _parts(naming.names[weight], shape):
            used.add(name)
            expected = shape[len(index) :]
            if name not in stored:
                raise InputError(
                    f"the tensor {name} is missing ({len(stored):,} are there)",
                    where=where,
                    hint="save or download the model again, all files of it",
                )
            if stored[name].shape != expected:
                raise InputError(
                    f"the tensor {name} has the shape {list(stored[name].shape)}; the settings ask for "
                    f"{list(expected)}",
                    where=where,
                    hint="settings and weights must be of the same model: download both again",
                )
    left = sorted(name for name in stored if name not in used and not naming.ignored(name))
    if left:
        raise InputError(
            f"the tensor {left[0]} is left over, one of {len(left):,} that this architecture has no place for",
            where=where,
            hint="the model computes something else than its settings say: check its architecture",
        )
    weights: dict[str, Floats] = {}
    for weight, shape in weight_shapes(config).items():
        tensor = np.zeros(shape, np.float32)
        for name, index in () if weight in naming.zeros else _parts(naming.names[weight], shape):
            tensor[index] = _converted(weight, stored[name].read(), config, naming)
            check_finite(tensor[index], name, where)
        tensor.setflags(write=False)
        weights[weight] = tensor
    if config.shared_classifier:
        weights["wcls"] = weights["token_embedding_table"]
    return weights


def _parts(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors of a file that make up a weight, with where they lie in it."""
    if "{layer}" not in name:
        yield name, ()
        return
    for layer in range(shape[0]):
        if "{expert}" not in name:
            yield name.format(layer=layer), (layer,)
            continue
        for expert in range(shape[1]):
            yield name.format(layer=layer, expert=expert), (layer, expert)


_HEADS = {"wq": "n_heads", "bq": "n_heads", "wk": "n_kv_heads", "bk": "n_kv_heads", "q_norm": "", "k_norm": ""}


def _converted(weight: str, tensor: Floats, config: Config, naming: Naming) -> Floats:
    """One layer's tensor as ir.py has it."""
    if naming.unit_norms and (weight.startswith(("rms_", "post_")) or weight.endswith("_norm")):
        tensor = np.float32(1) + tensor
    if weight in naming.factors:
        with np.errstate(over="ignore"):  # check_finite names the tensor
            tensor = (tensor * np.float64(naming.factors[weight])).astype(np.float32)
    if naming.halves and weight in _HEADS:
        heads = getattr(config, _HEADS[weight]) if _HEADS[weight] else 1
        tensor = neighbouring_pairs(tensor, heads)
    return tensor


def neighbouring_pairs(tensor: NDArray[_Real], heads: int) -> NDArray[_Real]:
    """Rows [heads * head_dim, ...] whose pairs lie half a head apart, in an order that has them side by side."""
    halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def check_finite(tensor: Floats, name: str, where: str) -> None:
    """Refuse NaN and infinities, by name and index."""
    finite = np.isfinite(tensor)
    if finite.all():
        return
    index = np.unravel_index(int(np.argmin(finite)), tensor.shape)
    place = ", ".join(str(int(i)) for i in index)
    raise InputError(
        f"the weight {name}[{place}] is {tensor[index]}; {int((~finite).sum()):,} of {tensor.size:,} are not finite",
        where=where,
        hint="the training diverged or the file is damaged: export the model again",
    )


def llama3_factors(config: Config, factor: float, low: float, high: float, trained: float) -> tuple[float, ...]:
    """What Llama 3.1 divides the frequency of each pair by (transformers, modeling_rope_utils.py).

    Waves longer than trained / low positions are stretched by `factor`, those shorter than trained / high are left
    alone, and those between are interpolated.
    """
    factors = []
    for pair in range(config.head_dim // 2):
        wave = 2 * math.pi * config.rope_theta ** (2 * pair / config.head_dim)
        if wave < trained / high:
            factors.append(1.0)
        elif wave > trained / low:
            factors.append(factor)
        else:
            smooth = (trained / wave - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return tuple(factors)
