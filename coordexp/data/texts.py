"""The text of a desc: what a record may hold, and how cooking brings a category's name there. Contract ids: DATA-022.

Unicode text enters. Out: a desc that every tokenizer of Qwen3-VL spells back, or the rule that it breaks.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

SPECIAL_TOKEN_MARK = "<|"
TEMPLATE_TAGS = ("<image>", "<video>", "<audio>", "<bbox>", "<ref-object>", "<cot-process>", "<start-image>")
"""Tags that ms-swift replaces wherever they stand, in an answer too; a desc that holds one would be torn apart."""
PLAIN_ADDED_TOKENS = (
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
)
"""Added tokens of Qwen3-VL that do not begin with `SPECIAL_TOKEN_MARK`: the tokenizer reads them as one token each."""
RESERVED_TEXTS = (SPECIAL_TOKEN_MARK, *PLAIN_ADDED_TOKENS, *TEMPLATE_TAGS)
_CONTROL, _FORMAT, _SEPARATORS, _SURROGATE = "Cc", "Cf", ("Zl", "Zp"), "Cs"


@dataclass(frozen=True, slots=True)
class DescFault:
    """A rule of `coordexp:record` that a desc breaks, what is wrong, and what to do."""

    rule: str
    message: str
    remedy: str


def normalize_desc(text: str) -> str:
    """`text` in NFC on one line: runs of whitespace are one space, other control and formatting characters are gone.

    Formatting characters are those that take no room (zero-width spaces and joiners, soft hyphens, marks of direction).
    Full-width forms are letters of their own and stay. The outcome may be empty or hold a reserved text: `desc_fault`
    judges it.
    """
    spaced = " ".join(text.split())
    shown = "".join(letter for letter in spaced if unicodedata.category(letter) not in (_CONTROL, _FORMAT))
    return " ".join(unicodedata.normalize("NFC", shown).split())


def desc_fault(desc: str) -> DescFault | None:
    """The first rule that `desc` breaks, or None for a desc that training can teach."""
    if desc.isascii() and desc.isprintable() and "<" not in desc and desc.strip():
        return None
    if not desc.strip():
        return DescFault("desc_empty", f"desc is empty or blank ({desc!r})", "Write what the object is.")
    held = next((text for text in RESERVED_TEXTS if text in desc), None)
    if held is not None:
        kind = (
            "begins a special token" if held == SPECIAL_TOKEN_MARK else "is not text to the tokenizer or the template"
        )
        return DescFault(
            "desc_special_token", f"desc {desc!r} holds {held!r}, which {kind}", "Write it without: rename the object."
        )
    unseen = next((letter for letter in desc if _is_unseen(letter)), None)
    if unseen is not None:
        message = f"desc {desc!r} holds U+{ord(unseen):04X}, a line break, control or zero-width character"
        shown = normalize_desc(desc)
        remedy = f"Write {shown!r}; `coordexp.entrypoints.cook` does." if shown else "Write what the object is."
        return DescFault("desc_control", message, remedy)
    if not unicodedata.is_normalized("NFC", desc):
        message = f"desc {desc!r} is not in Unicode form NFC, which the tokenizer turns every text into"
        composed = unicodedata.normalize("NFC", desc)
        return DescFault("desc_not_nfc", message, f"Write {composed!r} in NFC; `coordexp.entrypoints.cook` does.")
    return None


def _is_unseen(letter: str) -> bool:
    kind = unicodedata.category(letter)
    return kind in (_CONTROL, _FORMAT, _SURROGATE) or kind in _SEPARATORS
