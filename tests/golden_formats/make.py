"""Write logits.npz: what transformers computes for the tiny models of tests/foreign.py.

Not run by CI. In a virtual environment of its own: pip install numpy torch transformers, then
`python tests/golden_formats/make.py`. Everything is float32 on the CPU; logits are float32[tokens, vocab] by case.
Last written with transformers 5.23.0 and torch 2.13.0.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from foreign import CASES, TOKENS, write_folder  # noqa: E402


def logits(folder: Path) -> np.ndarray:
    """What transformers makes of a folder, which must have every tensor that it wants and no other."""
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    with torch.no_grad():
        return model.eval()(torch.tensor(TOKENS[None])).logits[0].numpy()


with tempfile.TemporaryDirectory() as folder:
    found = {name: logits(write_folder(Path(folder) / name, settings)) for name, settings in CASES.items()}
np.savez(HERE / "logits.npz", **found)
