"""Train the model of little stories and write it to its folder.

    python -m mcugen.models.tales.train [--steps N] [--out FOLDER]

Needs PyTorch (pip install "mcugen[train]"); mcugen/models/training.py does the work. What it is trained on is drawn
from grammar.py: no text from anywhere else.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import torch

from mcugen.ir import Config, Tokenizer
from mcugen.models import training

from .evaluate import FOLDER, float_model, integer_model, load, measure, report
from .grammar import stream
from .vocabulary import VOCAB_SIZE, StoryEncoder, learn

SEED: Final = 20_251
VOCABULARY_SEED: Final = 7
STEPS: Final = 3_500  # about 10 minutes of one core
THREADS: Final = 1
BATCH: Final = 16
POOL: Final = 32  # batches that are drawn together and sorted by length, so that little is padding
EVALUATION_SIZE: Final = 200
LOWERED: Final = 0.05  # share of stories whose first words are in small letters, as people type them

CONFIG: Final = Config(
    dim=64,
    hidden_dim=176,
    n_layers=5,
    n_heads=4,
    n_kv_heads=2,
    vocab_size=VOCAB_SIZE,
    seq_len=256,
    shared_classifier=True,
)


def rows(encoder: StoryEncoder, seed: int) -> Iterator[training.Row]:
    """The stories of a seed; those that are longer than the context are dropped.

    Small letters at the beginning are read, not learned: their weight is 0.
    """
    rng = Random(seed)
    for text in stream(seed):
        lowered = 0
        if rng.random() < LOWERED:
            first = " ".join(text.split(" ")[: rng.randrange(1, 9)])
            text = first.lower() + text.removeprefix(first)
            lowered = len(encoder.encode(f" {first.lower()}"))
        tokens = encoder.story(text)
        if len(tokens) <= CONFIG.seq_len:
            yield tokens, [0.0] * lowered + [1.0] * (len(tokens) - 1 - lowered)


def train(steps: int, tokenizer: Tokenizer, out: Path, progress: Callable[[str], None]) -> None:
    """Train, saving to `out` every 500 steps and at the end."""
    torch.manual_seed(SEED)
    model = training.Decoder(CONFIG)
    data = training.batches(rows(StoryEncoder(tokenizer), SEED), BATCH, POOL, SEED)

    def save(step: int) -> None:
        training.write_model(model, tokenizer, out)
        write_facts(out, step, {})

    training.train(model, data, steps, save, progress)


def write_facts(out: Path, steps: int, figures: Mapping[str, object]) -> None:
    facts = {
        "name": "tales",
        "description": "Little stories for children, from a few words or from none.",
        "lowercase": False,
        "prompt_suffix": "",
        "data": "synthetic, drawn from mcugen/models/tales; licence MIT, as the project",
        "training": {
            "steps": steps,
            "batch": BATCH,
            "seed": SEED,
            "vocabulary_seed": VOCABULARY_SEED,
            "threads": THREADS,
        },
        **figures,
    }
    training.write(out / "model.json", (json.dumps(facts, indent=2) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the model of little stories.")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    train(arguments.steps, learn(VOCABULARY_SEED), arguments.out, partial(print, flush=True))
    loaded = load(arguments.out)
    of_float = measure(float_model(*loaded), loaded[1], EVALUATION_SIZE)
    of_integers = measure(integer_model(*loaded), loaded[1], EVALUATION_SIZE)
    facts = {"figures": asdict(of_float), "integer_figures": asdict(of_integers)}
    write_facts(arguments.out, arguments.steps, facts)
    print(report(of_float), report(of_integers), sep="\n\n")


if __name__ == "__main__":
    main()
