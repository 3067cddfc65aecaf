"""How a model's weights become integers: the precision of each matrix, and how it is rounded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Precision:
    """Of a matrix. bits: 8 or 4. group: columns that share a scale, 32 or 64; 0 for one scale per row."""

    bits: int
    group: int = 0


INT8, INT4 = Precision(8), Precision(4, 32)


@dataclass(frozen=True, slots=True)
class Recipe:
    """default: the precision of the layers' matrices; embedding and classifier are int8."""

    name: str
    default: Precision

    def precision(self, label: str) -> Precision:
        """Of the matrix with this label, "layers.0.wq"."""
        return self.default

    def describe(self) -> str:
        """For provenance: QuantizedModel.recipe begins with it."""
        return f"w{self.default.bits}a8kv8"


W8 = Recipe("w8", INT8)
W4_NEAREST = Recipe("w4-nearest", INT4)
