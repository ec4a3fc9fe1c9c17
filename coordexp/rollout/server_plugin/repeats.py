"""The tokens of an answer in, one at a time; out: whether it repeats itself and is to end. ROLL-040, ROLL-041.

One state machine for the HF guard and both of vLLM's logits-processor interfaces. It knows the tokens of one answer and
nothing else: no torch, no engine, no batch. A token costs the same however long the answer is.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordexp.config.rollout_sections import RepeatTerminateConfig

_QUOTE, _BACKSLASH, _BRACE = b'"'[0], b"\\"[0], b"{"[0]
_OUTSIDE, _INSIDE, _ESCAPED = range(3)


class RepeatGuardError(ValueError):
    """An answer that goes on where the guard would have ended it: the guard was not at work."""


def digest_limits(limits: RepeatTerminateConfig) -> str:
    """SHA-256 of every limit: equal iff two guards end the same answers at the same tokens."""
    return hashlib.sha256(json.dumps(asdict(limits), sort_keys=True).encode()).hexdigest()


def digest_in_force(limits: RepeatTerminateConfig | None) -> str | None:
    """`digest_limits` of limits that are enabled; None where nothing ends answers that repeat themselves."""
    return digest_limits(limits) if limits is not None and limits.enabled else None


class BraceTable:
    """Opening braces outside JSON strings in each token, which may be a part of a string or hold several of them."""

    def __init__(self, piece: Callable[[int], bytes]) -> None:
        """`piece` gives the bytes of a token id."""
        self._piece = piece
        self._known: dict[tuple[int, int], tuple[int, int]] = {}

    def read(self, token: int, state: int) -> tuple[int, int]:
        """The state behind a token that is read in `state` (0 before an answer), and the braces opened in it."""
        known = self._known.get((token, state))
        if known is None:
            known = self._known[token, state] = _scan(self._piece(token), state)
        return known


def _scan(piece: bytes, state: int) -> tuple[int, int]:
    opened = 0
    for byte in piece:
        if state == _ESCAPED:
            state = _INSIDE
        elif state == _INSIDE:
            state = {_QUOTE: _OUTSIDE, _BACKSLASH: _ESCAPED}.get(byte, _INSIDE)
        elif byte == _QUOTE:
            state = _INSIDE
        else:
            opened += byte == _BRACE
    return state, opened


class RepeatDetector:
    """Watches one answer. `triggered` stays once it is true: the next token is to be the one that ends answers.

    Limits that are None are not watched. Before `min_new_tokens` tokens nothing triggers; a repetition that is over by
    then does not count.
    """

    def __init__(self, limits: RepeatTerminateConfig, braces: BraceTable) -> None:
        self.length, self.triggered = 0, False
        self._limits, self._braces = limits, braces
        self._run, self._matching, self._opened, self._state = 0, 0, 0, _OUTSIDE
        self._recent: deque[int] = deque(maxlen=limits.ngram_size or 1)
        # So many tokens in a row equal those before them where a pattern stands ngram_repeats times; 0: not watched.
        self._pattern = (limits.ngram_size or 0) * ((limits.ngram_repeats or 1) - 1)

    def push(self, token: int) -> bool:
        """Read the next token of the answer; whether the guard ends the answer behind it."""
        limits, recent = self._limits, self._recent
        self.length += 1
        self._run = self._run + 1 if recent and recent[-1] == token else 1
        if self._pattern:
            self._matching = self._matching + 1 if len(recent) == limits.ngram_size and recent[0] == token else 0
        recent.append(token)
        if limits.max_object_keys is not None:
            self._state, opened = self._braces.read(token, self._state)
            self._opened += opened
        if not self.triggered and self.length >= limits.min_new_tokens:
            self.triggered = self._repeats()
        return self.triggered

    def _repeats(self) -> bool:
        limits = self._limits
        run, keys = limits.max_consecutive_token_repeats, limits.max_object_keys
        return (
            (run is not None and self._run >= run)
            or (self._pattern > 0 and self._matching >= self._pattern)
            # The first brace opens the answer itself, each further one an object.
            or (keys is not None and self._opened - 1 > keys)
        )


class RepeatGuard:
    """What the answers of one tokenizer are watched with: detectors, and what the ids of an answer say afterwards."""

    def __init__(self, limits: RepeatTerminateConfig, piece: Callable[[int], bytes], stop_id: int) -> None:
        """`piece` gives the bytes of a token id, `stop_id` is the token that ends answers."""
        self.limits, self.stop_id, self.digest = limits, stop_id, digest_limits(limits)
        self._braces = BraceTable(piece)

    def watch(self) -> RepeatDetector:
        """A detector for a new answer."""
        return RepeatDetector(self.limits, self._braces)

    def has_ended(self, ids: Sequence[int]) -> bool:
        """Whether the guard has ended the answer `ids` (with its stop token, if it has one).

        False where the limit of tokens ended it first. Raises `RepeatGuardError` for an answer that goes on behind
        the place where the guard ends it.
        """
        detector = self.watch()
        for place, token in enumerate(ids):
            if token == self.stop_id:
                return False
            if detector.push(token):
                following = ids[place + 1 : place + 2]
                if following and following[0] != self.stop_id:
                    raise RepeatGuardError(
                        f"token {place + 1} of {len(ids)} is {following[0]}, and repeat_terminate ends this answer "
                        f"there: the guard was not at work while it was written"
                    )
                return bool(following)
        return False
