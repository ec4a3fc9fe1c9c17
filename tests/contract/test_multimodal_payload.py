"""What is sent becomes, in ms-swift's template and vLLM's processor, the prompt and the pixels that training has.

The path of stage 2 (`Encoder.messages`, `build_requests`, `build_body`), then upstream's own code, without an engine.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from coordexp.data.types import Record
from coordexp.encode.encoder import build_encoder
from coordexp.encode.images import ImageContractError, read_image
from coordexp.encode.processor import load_processor
from coordexp.encode.settings import EncodeSettings
from coordexp.encode.swift_template import build_template
from coordexp.rollout.requests import build_requests
from coordexp.rollout.types import Decoding, RolloutError, RolloutRequest
from coordexp.rollout.vllm_client import build_body, encode_images

if TYPE_CHECKING:
    from coordexp.encode.encoder import Encoder

CHECKPOINT = Path(__file__).resolve().parents[2] / "fixtures/tiny-qwen3vl"
MAX_PIXELS = 65536
WIDTH, HEIGHT = 96, 64
ORIENTATION = 0x0112
NOISE = np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
RGB, RGBA = Image.fromarray(NOISE[..., :3]), Image.fromarray(NOISE)
GREY, DEEP = Image.fromarray(NOISE[..., 0]), Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257)
PALETTE = RGB.quantize(64)
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return build_encoder(load_processor(CHECKPOINT), EncodeSettings(max_pixels=MAX_PIXELS))


@pytest.fixture(scope="module")
def served() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What ms-swift's template in the server makes of a row of the body; a template of the server's own."""
    from swift.infer_engine.protocol import RolloutInferRequest

    template = build_template(load_processor(CHECKPOINT), 4096, MAX_PIXELS)
    template.set_mode("vllm")

    def encode(row: dict[str, Any]) -> dict[str, Any]:
        sent = json.loads(json.dumps(row))
        del sent["coordexp"]
        return dict(template.encode(RolloutInferRequest(**sent)))

    return encode


@pytest.fixture(scope="module")
def processed() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What vLLM's Qwen3-VL processor makes of the template's encoding, handed over as ms-swift's engine does."""
    from vllm.config import ModelConfig
    from vllm.multimodal import MULTIMODAL_REGISTRY

    config = ModelConfig(model=str(CHECKPOINT), dtype="float32", max_model_len=4096, seed=0)
    processor = MULTIMODAL_REGISTRY.create_processor(config)

    def process(encoded: dict[str, Any]) -> dict[str, Any]:
        images = encoded["images"]
        items = processor.info.parse_mm_data({"image": images[0] if len(images) == 1 else images})
        kwargs = encoded["mm_processor_kwargs"]
        return dict(processor(encoded["input_ids"], items, hf_processor_mm_kwargs=kwargs))

    return process


def record_of(path: Path, width: int = WIDTH, height: int = HEIGHT) -> Record:
    return Record(f"{path.parent}/records.jsonl:1", (path.name,), width, height, ())


def body_of(record: Record, encoder: Encoder) -> dict[str, Any]:
    """The row of `record` in a body of /infer/, by the path that stage 2 takes."""
    requests = build_requests([record], encoder)
    rows = build_body(requests, Decoding(8), encoder.messages("<image>"))["infer_requests"]
    (row,) = rows
    return dict(row)


@pytest.mark.invariant("ROLL-018")
@pytest.mark.parametrize(("width", "height"), [(96, 64), (64, 64), (64, 256), (256, 256), (224, 32)])
def test_the_server_s_prompt_is_the_learner_s(
    tmp_path: Path,
    encoder: Encoder,
    served: Callable[[dict[str, Any]], dict[str, Any]],
    processed: Callable[[dict[str, Any]], dict[str, Any]],
    width: int,
    height: int,
) -> None:
    noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    record = record_of(tmp_path / "a.png", width, height)
    encoded = served(body_of(record, encoder))
    (image,) = encoded["images"]
    assert type(encoded["images"]) is list and isinstance(image, Image.Image)
    assert (image.mode, image.size) == ("RGB", (width, height)) and encoded["mm_processor_kwargs"] == {
        "do_resize": False
    }
    found = processed(encoded)
    assert tuple(found["prompt_token_ids"]) == encoder.prompt(record).ids
    (item,) = found["mm_kwargs"]["image"]
    data = item.get_data()
    sample = encoder.encode(record)
    assert sample.pixel_values is not None and sample.image_grid_thw is not None
    assert data["image_grid_thw"].tolist() == sample.image_grid_thw[0].tolist()
    # vLLM hands levels of 0 to 255 to its model, which normalizes them there.
    levels, rules = data["pixel_values"].float(), encoder.processor.image_processor
    assert tuple(rules.image_mean) == tuple(rules.image_std) == (0.5, 0.5, 0.5) and levels.max() > 200
    torch.testing.assert_close(levels / 127.5 - 1, sample.pixel_values, rtol=0, atol=1e-6)


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def turned(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return save(RGB, kind, exif=exif)


FILES: dict[str, bytes] = {
    "png": save(RGB, "PNG"),
    "jpeg": save(RGB, "JPEG", quality=80),
    "progressive jpeg": save(RGB, "JPEG", progressive=True, subsampling=2),
    "jpeg of inks": save(RGB.convert("CMYK"), "JPEG"),
    "grey jpeg": save(GREY, "JPEG"),
    "grey": save(GREY, "PNG"),
    "grey with alpha": save(RGBA.convert("LA"), "PNG"),
    "grey with a clear level": save(GREY, "PNG", transparency=7),
    "one bit": save(GREY.convert("1"), "PNG"),
    "palette": save(PALETTE, "PNG"),
    "palette with a clear entry": save(PALETTE, "PNG", transparency=3),
    "palette with clear entries": save(PALETTE, "PNG", transparency=bytes(range(0, 256, 4))),
    "alpha": save(RGBA, "PNG"),
    "alpha of 0": save(Image.merge("RGBA", [*RGB.split(), Image.new("L", RGB.size, 0)]), "PNG"),
    "a clear colour": save(RGB, "PNG", transparency=tuple(int(v) for v in NOISE[0, 0, :3])),
    "bmp": save(RGB, "BMP"),
    "tiff": save(RGB, "TIFF"),
    "lossy webp": save(RGB, "WEBP", quality=70),
    "webp with alpha": save(RGBA, "WEBP", lossless=True),
    "gif": save(PALETTE, "GIF"),
    "moving gif": save(PALETTE, "GIF", save_all=True, append_images=[PALETTE.rotate(180)], duration=100),
    "moving png": save(RGB, "PNG", save_all=True, append_images=[RGB.rotate(180)], duration=100),
    "a profile of colours": save(RGB, "PNG", icc_profile=b"not a profile"),
    **{f"{kind} turned {n}": turned(kind, n) for kind in ("JPEG", "PNG", "WEBP", "TIFF") for n in (1, 5, 6, 7, 8)},
}
DECLARED = [(kind, width) for kind in FILES for width in ((WIDTH, HEIGHT) if kind[-1] in "5678" else (WIDTH,))]
REFUSED: dict[str, bytes] = {
    "16 bit": save(DEEP, "PNG"),
    "32 bit": save(DEEP.convert("I"), "TIFF"),
    "floats": save(GREY.convert("F"), "TIFF"),
    **{f"{kind} turned {n}": turned(kind, n) for kind in ("JPEG", "PNG", "WEBP", "TIFF") for n in (2, 3, 4)},
}


@pytest.mark.invariant("ROLL-026")
@pytest.mark.invariant("DATA-031")
@pytest.mark.parametrize(("kind", "width"), DECLARED)
def test_the_server_sees_the_pixels_that_training_reads(
    tmp_path: Path, encoder: Encoder, served: Callable[[dict[str, Any]], dict[str, Any]], kind: str, width: int
) -> None:
    """Files with an orientation are declared as stored and as displayed."""
    from qwen_vl_utils import fetch_image
    from swift.template.vision_utils import load_image

    path = tmp_path / "image"
    path.write_bytes(FILES[kind])
    record = record_of(path, width, WIDTH + HEIGHT - width)
    ours = np.asarray(read_image(record, path))
    row = body_of(record, encoder)
    (image,) = served(row)["images"]
    assert (image.mode, image.size) == ("RGB", (record.width, record.height))
    np.testing.assert_array_equal(np.asarray(image), ours)
    # Other readers than the server's own agree: what is sent is the same for all of them.
    (sent,) = row["images"]
    np.testing.assert_array_equal(np.asarray(load_image(sent)), ours)
    uri = f"data:image/png;base64,{sent}"
    np.testing.assert_array_equal(np.asarray(fetch_image({"image": uri}, image_patch_size=16)), ours)
    with Image.open(io.BytesIO(base64.b64decode(sent))) as opened:
        turning = ImageOps.exif_transpose(opened).convert("RGB")
        over = opened.convert("RGBA")
    np.testing.assert_array_equal(np.asarray(turning), ours)
    white = Image.new("RGBA", over.size, "white")
    np.testing.assert_array_equal(np.asarray(Image.alpha_composite(white, over).convert("RGB")), ours)


@pytest.mark.invariant("ROLL-026")
def test_a_plain_file_is_sent_as_it_lies(tmp_path: Path) -> None:
    for kind in ("png", "jpeg", "bmp", "lossy webp", "JPEG turned 1"):
        (tmp_path / kind).write_bytes(FILES[kind])
        request = RolloutRequest("a", (1,), (tmp_path / kind,), 0, ((WIDTH, HEIGHT),))
        (sent,) = encode_images(request)
        assert base64.b64decode(sent) == FILES[kind]


@pytest.mark.invariant("ROLL-026")
@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_that_training_does_not_read_is_not_sent(tmp_path: Path, encoder: Encoder, kind: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(REFUSED[kind])
    with pytest.raises(ImageContractError, match=str(path)):
        build_requests([record_of(path)], encoder)
    with pytest.raises(RolloutError, match=str(path)):
        encode_images(RolloutRequest("a", (1,), (path,), 0, ((WIDTH, HEIGHT),)))


@pytest.mark.invariant("ROLL-026")
def test_no_path_crosses_the_wire(tmp_path: Path, encoder: Encoder) -> None:
    (tmp_path / "a.png").write_bytes(FILES["png"])
    assert str(tmp_path) not in json.dumps(body_of(record_of(tmp_path / "a.png"), encoder))
