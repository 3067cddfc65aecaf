"""Train the model of little stories and write it to its folder.

    python -m mcugen.models.tales.train [--out FOLDER]

Needs PyTorch (pip install "mcugen[train]"); mcugen/models/training.py does the work. What it is trained on is drawn
from grammar.py: no text from anywhere else.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Final

import torch

from mcugen.ir import Config, Tokenizer
from mcugen.models import training

from .evaluate import FOLDER, float_model, integer_model, load, measure, report
from .grammar import COLORS, ELDERS, GENDERS, HEROES, THINGS, TRAITS, stream
from .plots import FOUND, NOISE, PLOTS, Plot
from .vocabulary import VOCAB_SIZE, StoryEncoder, learn

SEED: Final = 20_251
VOCABULARY_SEED: Final = 7
THREADS: Final = 1
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


@dataclass(frozen=True, slots=True)
class Stage:
    """weight: in the loss, of one of `words` where it is said again: what stays the same in a story."""

    steps: int
    batch: int
    short: bool
    weight: float
    words: tuple[str, ...] = (*GENDERS, *ELDERS, *THINGS, *COLORS)
    plots: tuple[Plot, ...] = PLOTS


# Who is who is a small part of the loss, and in whole stories far apart: with them alone, names are guessed for very
# long. Few stories say twice which grown-up it is: the second round is for that. The third polishes.
FIRST_ROUND: Final = (
    Stage(steps=700, batch=48, short=True, weight=20.0),
    Stage(steps=500, batch=16, short=False, weight=4.0),
    Stage(steps=1_000, batch=16, short=False, weight=1.0),
)
SECOND_ROUND: Final = (
    Stage(steps=300, batch=16, short=False, weight=20.0, words=tuple(ELDERS), plots=(FOUND, NOISE)),
    Stage(steps=500, batch=16, short=False, weight=1.0),
)
THIRD_ROUND: Final = (
    Stage(steps=300, batch=16, short=False, weight=4.0, words=(*FIRST_ROUND[0].words, *TRAITS, *HEROES)),
    Stage(steps=700, batch=16, short=False, weight=1.0),
)
ROUNDS: Final = ((1.0, FIRST_ROUND), (0.8, SECOND_ROUND), (0.5, THIRD_ROUND))  # rate, stages
STEPS: Final = sum(stage.steps for _, stages in ROUNDS for stage in stages)


def rows(encoder: StoryEncoder, stage: Stage, seed: int) -> Iterator[training.Row]:
    """Stories as tokens and weights; those that are longer than the context are dropped.

    Small letters at the beginning are read, not learned: their weight is 0.
    """
    rng = Random(seed)
    kept = {tokens[0] for word in stage.words if len(tokens := encoder.encode(f" {word}")) == 1}
    for text in stream(seed, plots=stage.plots, short=stage.short):
        lowered = 0
        if rng.random() < LOWERED:
            first = " ".join(text.split(" ")[: rng.randrange(1, 9)])
            text = first.lower() + text.removeprefix(first)
            lowered = len(encoder.encode(f" {first.lower()}"))
        tokens = encoder.story(text)
        if len(tokens) <= CONFIG.seq_len:
            again = (token in kept and token in tokens[:i] for i, token in enumerate(tokens))
            weights = [stage.weight if known else 1.0 for known in again]
            yield tokens, [0.0] * lowered + weights[1 + lowered :]


def train(tokenizer: Tokenizer, out: Path, progress: Callable[[str], None]) -> None:
    """Train, saving to `out` every 500 steps and at the end."""
    torch.manual_seed(SEED)
    model = training.Decoder(CONFIG)
    encoder = StoryEncoder(tokenizer)
    seeds = count(SEED)

    def data(stages: Iterable[Stage]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for stage, seed in zip(stages, seeds, strict=False):
            yield from islice(training.batches(rows(encoder, stage, seed), stage.batch, POOL, seed), stage.steps)

    def save(step: int) -> None:
        training.write_model(model, tokenizer, out)
        write_facts(out, {})

    for rate, stages in ROUNDS:
        training.train(model, data(stages), sum(stage.steps for stage in stages), save, progress, rate)


def write_facts(out: Path, figures: Mapping[str, object]) -> None:
    facts = {
        "name": "tales",
        "description": "Little stories for children, from a few words or from none.",
        "lowercase": False,
        "prompt_suffix": "",
        "data": "synthetic, drawn from mcugen/models/tales; licence MIT, as the project",
        "training": {
            "steps": STEPS,
            "seed": SEED,
            "vocabulary_seed": VOCABULARY_SEED,
            "threads": THREADS,
        },
        **figures,
    }
    training.write(out / "model.json", (json.dumps(facts, indent=2) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the model of little stories.")
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    train(learn(VOCABULARY_SEED), arguments.out, partial(print, flush=True))
    loaded = load(arguments.out)
    of_float = measure(float_model(*loaded), loaded[1], EVALUATION_SIZE)
    of_integers = measure(integer_model(*loaded), loaded[1], EVALUATION_SIZE)
    facts = {"figures": asdict(of_float), "integer_figures": asdict(of_integers)}
    write_facts(arguments.out, facts)
    print(report(of_float), report(of_integers), sep="\n\n")


if __name__ == "__main__":
    main()
