"""Tokenizers, processors and encoders that many tests share, each built once a session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from transformers import ProcessorMixin, Qwen2TokenizerFast

    from coordexp.coords.types import CoordObject
    from coordexp.data.types import Record
    from coordexp.encode.encoder import Encoder


@pytest.fixture(scope="session")
def real_tokenizer() -> Qwen2TokenizerFast:
    """Qwen's vocabulary with the coord tokens at 151670..152669."""
    from coordexp.encode.vocabulary import build_real_tokenizer

    return build_real_tokenizer()


@pytest.fixture(scope="session")
def cut_texts() -> tuple[str, ...]:
    """What the cut vocabulary covers: the default prompts and answers about drawn shapes."""
    from coordexp.coordjson import FIELD_ORDERS, render_answer
    from coordexp.coords.types import CoordObject
    from coordexp.encode.prompts import ORDERINGS, render_prompt

    colours = ("red", "green", "blue", "yellow", "purple", "orange", "black", "white")
    shapes = ("circle", "square", "triangle", "rectangle", "ellipse", "star", "cross", "diamond")
    named = [CoordObject(f"{c} {s}", "bbox_2d", (1, 2, 3, 4)) for c in colours for s in shapes]
    drawn = [CoordObject("red star", "poly", (1, 2, 3, 4, 5, 6)), *named]
    answers = [render_answer(drawn, order) for order in FIELD_ORDERS] + [render_answer([])]
    prompts = [render_prompt(order, ordering).user for order in FIELD_ORDERS for ordering in ORDERINGS]
    return (
        *answers,
        *(render_answer([item], order) for item in named for order in FIELD_ORDERS),
        *prompts,
        "user\n",
        "assistant\n",
        "system\n",
        "\n",
    )


@pytest.fixture(scope="session")
def cut_tokenizer(cut_texts: tuple[str, ...]) -> Qwen2TokenizerFast:
    """A few hundred BPE tokens, the same special tokens, the coord tokens."""
    from coordexp.encode.vocabulary import build_cut_tokenizer

    return build_cut_tokenizer(cut_texts)


@pytest.fixture(scope="session")
def real_processor(real_tokenizer: Qwen2TokenizerFast) -> ProcessorMixin:
    from coordexp.encode.processor import build_processor

    return build_processor(real_tokenizer)


@pytest.fixture(scope="session")
def cut_processor(cut_tokenizer: Qwen2TokenizerFast) -> ProcessorMixin:
    from coordexp.encode.processor import build_processor

    return build_processor(cut_tokenizer)


@pytest.fixture(scope="session")
def real_encoder(real_processor: ProcessorMixin) -> Encoder:
    """desc_first, sorted, default prompt, 4096 tokens, no pixel cap; the real vocabulary."""
    from coordexp.encode.encoder import build_encoder
    from coordexp.encode.settings import EncodeSettings

    return build_encoder(real_processor, EncodeSettings())


@pytest.fixture(scope="session")
def cut_encoder(cut_processor: ProcessorMixin) -> Encoder:
    """As `real_encoder`, with the cut vocabulary."""
    from coordexp.encode.encoder import build_encoder
    from coordexp.encode.settings import EncodeSettings

    return build_encoder(cut_processor, EncodeSettings())


@pytest.fixture(scope="session")
def make_record(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Record]:
    """Build a record of some objects on a noise image of the given size; the PNG lies beside the (unwritten) JSONL."""
    import numpy as np
    from PIL import Image

    from coordexp.data.types import Record

    folder = tmp_path_factory.mktemp("records")

    def make(objects: Iterable[CoordObject] = (), width: int = 64, height: int = 64, line: int = 1) -> Record:
        path = folder / f"{width}x{height}.png"
        if not path.exists():
            noise = np.random.default_rng(width * 10_000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)
        return Record(f"{folder}/records.jsonl:{line}", (path.name,), width, height, tuple(objects))

    return make
