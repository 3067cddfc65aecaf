"""Train the default model and write it to its folder.

    python -m mcugen.models.home.train [--steps N] [--out FOLDER]

Needs PyTorch (pip install "mcugen[train]"); mcugen/models/training.py does the work.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import torch

from mcugen.ir import Config, Tokenizer
from mcugen.models import training

from .evaluate import FOLDER, Score, evaluate_all, float_generate, load, report
from .grammar import stream
from .vocabulary import PROMPT_SUFFIX, VOCAB_SIZE, WordEncoder, learn

SEED: Final = 20_250
VOCABULARY_SEED: Final = 7
STEPS: Final = 7_000  # about 17 minutes of one core
THREADS: Final = 1  # threads of a model this small mostly wait for one another
BATCH: Final = 128
POOL: Final = 32  # batches that are drawn together and sorted by length, so that little is padding
LONGEST: Final = 110  # tokens; longer examples are dropped
PROMPT_WEIGHT: Final = 0.1  # of a prompt's token in the loss; an action's token weighs 1
EVALUATION_SIZE: Final = 1_500

CONFIG: Final = Config(
    dim=64,
    hidden_dim=176,
    n_layers=4,
    n_heads=4,
    n_kv_heads=2,
    vocab_size=VOCAB_SIZE,
    seq_len=256,
    shared_classifier=True,
)


def rows(encoder: WordEncoder, seed: int) -> Iterator[training.Row]:
    """The examples of a seed; those that are too long are dropped."""
    for text, action in stream(seed):
        prompt, answer = encoder.prompt(text), encoder.action(action)
        if len(prompt) + len(answer) <= LONGEST:
            yield prompt + answer, [PROMPT_WEIGHT] * (len(prompt) - 1) + [1.0] * len(answer)


def train(steps: int, tokenizer: Tokenizer, out: Path, progress: Callable[[str], None]) -> None:
    """Train, saving to `out` every 500 steps and at the end."""
    torch.manual_seed(SEED)
    model = training.Decoder(CONFIG)
    data = training.batches(rows(WordEncoder(tokenizer), SEED), BATCH, POOL, SEED)

    def save(step: int) -> None:
        training.write_model(model, tokenizer, out)
        write_facts(out, step, {})

    training.train(model, data, steps, save, progress)


def write_facts(out: Path, steps: int, accuracy: Mapping[str, Score]) -> None:
    facts = {
        "name": "home",
        "description": "Commands in plain English to the actions of a small house.",
        "lowercase": True,
        "prompt_suffix": PROMPT_SUFFIX,
        "data": "synthetic, drawn from mcugen/models/home; licence MIT, as the project",
        "training": {
            "steps": steps,
            "batch": BATCH,
            "seed": SEED,
            "vocabulary_seed": VOCABULARY_SEED,
            "threads": THREADS,
        },
        "accuracy": {
            name: {"right": s.right, "total": s.total, "share": round(s.share, 4)} for name, s in accuracy.items()
        },
    }
    training.write(out / "model.json", (json.dumps(facts, indent=2) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description="Train mcugen's default model.")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    train(arguments.steps, learn(VOCABULARY_SEED), arguments.out, partial(print, flush=True))
    scores = evaluate_all(float_generate(*load(arguments.out)), EVALUATION_SIZE)
    write_facts(arguments.out, arguments.steps, scores)
    print(report(scores))


if __name__ == "__main__":
    main()
