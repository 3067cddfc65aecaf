"""Leave out the tokens that a domain never needs: a smaller vocabulary, embedding and classifier, the same encoding.

Why the domain's encoding stays as it is. Encoding starts from symbols and takes steps; each replaces the pair of
neighbours with the lowest rank, the leftmost of equals, by the token that it becomes. Keep every token that the text
consists of before, between and after steps, and all merges among kept tokens, in their order. By induction the
smaller vocabulary takes the same steps: in the same state it knows some of the pairs that the larger one knows, never
others, and among them the one that this one takes, since its three tokens are kept; so that is the lowest and
leftmost here, too. Where the larger one finds no pair, neither does the smaller. A word that is a token as it is
(whole_words) was looked up before any step; that token is kept, and a word that was none is none now.

Any other text still says the same: bytes, or where a vocabulary has no byte tokens all its characters, are kept, so
that a text merely takes more tokens.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mcugen.errors import InputError
from mcugen.ir import Linear, Model, QuantizedModel, Tokenizer
from mcugen.tokenizer import code_points, encode, piece_ids, read_only


@dataclass(frozen=True, slots=True, eq=False)
class Trimmed:
    """A smaller vocabulary.

    kept: int32[n], ascending: which tokens of the larger one its tokens are. length: tokens of the text in either.
    used: how many different ones.
    """

    tokenizer: Tokenizer
    kept: NDArray[np.int32]
    before: int
    length: int
    used: int


def trim_vocabulary(tokenizer: Tokenizer, text: str) -> Trimmed:
    """The tokens that `text`, and each line of it by itself, as it is typed, take to be encoded as before.

    Raises InputError where the text is empty.
    """
    if not text.strip():
        hint = "give a text of what the model will read and say"
        raise InputError("the text is empty", where="--vocab-from", hint=hint)
    states = {tokenizer.bos, tokenizer.eos, *tokenizer.specials, *({tokenizer.unk} - {-1})}
    tokens = encode(tokenizer, text, bos=False, states=states)
    for line in {*text.splitlines(), tokenizer.prompt_suffix}:
        encode(tokenizer, line, bos=False, states=states)
    kept = np.array(sorted(states | _characters(tokenizer)), np.int32)
    return Trimmed(_keep(tokenizer, kept), read_only(kept), len(tokenizer.pieces), len(tokens), len(set(tokens)))


def _characters(tokenizer: Tokenizer) -> set[int]:
    """The tokens that any text needs: all bytes, or all characters where there are no byte tokens."""
    if tokenizer.first_byte is not None:
        return set(range(tokenizer.first_byte, tokenizer.first_byte + 256))
    if tokenizer.symbols is not None:
        return {i for i in tokenizer.symbols.tolist() if not tokenizer.byte_level or len(tokenizer.pieces[i]) == 1}
    return {token for piece, token in piece_ids(tokenizer).items() if len(code_points(piece)) == 1}


def _keep(tokenizer: Tokenizer, kept: NDArray[np.int32]) -> Tokenizer:
    new = np.full(len(tokenizer.pieces) + 1, -1, np.int32)  # the last is -1's, where there is no unk
    new[kept] = np.arange(len(kept))
    merges, symbols = tokenizer.merges, tokenizer.symbols
    if merges is not None and symbols is not None:
        merges, symbols = new[merges], new[symbols]
        merges, symbols = read_only(merges[(merges >= 0).all(1)]), read_only(symbols[symbols >= 0])
    return replace(
        tokenizer,
        pieces=tuple(tokenizer.pieces[token] for token in kept.tolist()),
        ranks=read_only(tokenizer.ranks[kept]),
        unk=int(new[tokenizer.unk]),
        bos=int(new[tokenizer.bos]),
        eos=int(new[tokenizer.eos]),
        first_byte=None if tokenizer.first_byte is None else int(new[tokenizer.first_byte]),
        specials=tuple(int(new[token]) for token in tokenizer.specials),
        merges=merges,
        symbols=symbols,
    )


def trim_model(model: Model, kept: NDArray[np.int32]) -> Model:
    """The model with the kept rows of its embedding and classifier; sha256 then stands for both choices."""
    weights = {name: tensor[kept] if name in _BY_TOKEN else tensor for name, tensor in model.weights.items()}
    if model.config.shared_classifier:
        weights["wcls"] = weights["token_embedding_table"]
    for name in _BY_TOKEN:
        weights[name].setflags(write=False)
    config = replace(model.config, vocab_size=len(kept))
    return replace(model, config=config, weights=weights, sha256=_identity(model.sha256, kept))


_BY_TOKEN = ("token_embedding_table", "wcls")


def trim_quantized(model: QuantizedModel, kept: NDArray[np.int32]) -> QuantizedModel:
    """The same of integers: codes and multipliers of the kept rows, as they were."""

    def rows(w: Linear) -> Linear:
        return replace(w, codes=w.codes[kept], multiplier=w.multiplier[kept])

    embedding, classifier = rows(model.embedding), rows(model.classifier)
    if model.config.shared_classifier:
        classifier = replace(classifier, codes=embedding.codes)
    return replace(
        model,
        config=replace(model.config, vocab_size=len(kept)),
        embedding=embedding,
        classifier=classifier,
        sha256=_identity(model.sha256, kept),
    )


def _identity(sha256: str, kept: NDArray[np.int32]) -> str:
    return hashlib.sha256(sha256.encode() + kept.astype("<i4").tobytes()).hexdigest()
