"""Tokenizer in, Qwen3-VL processor out, set so that it never resizes an image. Contract ids: ENC-*.

Also the gate that a processor loaded from a checkpoint passes before anything is encoded with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import (
    AutoProcessor,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Qwen2VLImageProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from coordexp.encode.checkpoint import COPY_AGAIN, TOKENIZER, VOCABULARY, check_checkpoint_folder

if TYPE_CHECKING:
    from pathlib import Path

PATCH = 16
MERGE = 2
TEMPORAL_PATCH = 2
SIZE_MULTIPLE = PATCH * MERGE
PROCESSOR_FILES = (
    (TOKENIZER, VOCABULARY),
    ("tokenizer_config.json",),
    ("processor_config.json", "preprocessor_config.json"),
)
"""What loading a processor reads; one name of each row is there."""
_HALF = [0.5, 0.5, 0.5]
# The text that ms-swift's qwen3_vl template renders, for those who start from the checkpoint alone.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.content is string -%}{{ message.content }}"
    "{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- elif part.type == 'text' -%}{{ part.text }}"
    "{%- else -%}{{ raise_exception('only image and text parts are supported') }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{ '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)


class ProcessorError(ValueError):
    """A processor that is not whole, would change pixels, or cuts images in patches other than Qwen3-VL's."""


def build_processor(tokenizer: PreTrainedTokenizerBase) -> Qwen3VLProcessor:
    """Qwen3-VL's processor around `tokenizer`: patch 16, merge 2, temporal 2, mean and std 0.5, `do_resize` False."""
    images = Qwen2VLImageProcessor(
        patch_size=PATCH,
        merge_size=MERGE,
        temporal_patch_size=TEMPORAL_PATCH,
        image_mean=_HALF,
        image_std=_HALF,
        do_resize=False,
    )
    videos = Qwen3VLVideoProcessor(do_resize=False)
    tokenizer.chat_template = CHAT_TEMPLATE
    return Qwen3VLProcessor(
        image_processor=images, tokenizer=tokenizer, video_processor=videos, chat_template=CHAT_TEMPLATE
    )


def load_processor(checkpoint: Path | str) -> ProcessorMixin:
    """The processor saved with a checkpoint, checked; no hub is asked and no code of the folder is run.

    Raises `CheckpointFolderError` and `ProcessorError`, a folder that lacks a part of it among them.
    """
    folder = check_checkpoint_folder(checkpoint)
    for names in PROCESSOR_FILES:
        # transformers makes an empty tokenizer of a folder that holds none.
        if not any((folder / name).is_file() for name in names):
            raise ProcessorError(f"{folder}: holds no {' or '.join(names)}; copy it from the model's original folder")
    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers raises bare exceptions for what is JSON and no tokenizer
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ProcessorError(f"{folder}: its processor cannot be loaded ({reason}); {COPY_AGAIN}") from error
    return check_processor(processor)


def check_processor(processor: ProcessorMixin) -> ProcessorMixin:
    """Return `processor` if it never resizes and cuts 16 x 16 patches merged 2 x 2; else raise `ProcessorError`."""
    images: Any = processor.image_processor
    if images.do_resize:
        raise ProcessorError(
            "the processor has do_resize=true and would resize images at train time; coordinates refer to the image as "
            'cooked offline. Set "do_resize": false in the processor config of the checkpoint'
        )
    wanted = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": TEMPORAL_PATCH}
    found = {name: getattr(images, name) for name in wanted}
    if found != wanted:
        raise ProcessorError(f"the processor cuts images with {found}; Qwen3-VL's are {wanted}")
    return processor
