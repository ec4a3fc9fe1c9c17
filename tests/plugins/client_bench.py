"""A client of rogue servers with four prompts to ask, no two of one length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from coordexp.coords.types import CoordObject
from coordexp.data.types import Record
from coordexp.encode.vocabulary import END_OF_TURN
from coordexp.rollout.requests import build_requests
from coordexp.rollout.types import Decoding, RolloutRequest
from coordexp.rollout.vllm_client import Prompting, VllmServerClient
from coordexp.rollout.wire import RolloutServerError
from tests.plugins.rogue_answers import Answers, live

if TYPE_CHECKING:
    from coordexp.encode.encoder import Encoder
    from tests.plugins.rogue_server import Rogue

SIZES = [(64, 64), (96, 64), (128, 64), (64, 96)]
SAMPLED = Decoding(16, temperature=0.7, seed_base=100)
OTHER = "start it with scripts/train_stage2.sh or coordexp.rollout.serve of this version"


@pytest.fixture(scope="session")
def asked_requests(tmp_path_factory: pytest.TempPathFactory, cut_encoder: Encoder) -> list[RolloutRequest]:
    """Four prompts, no two of one length."""
    folder = tmp_path_factory.mktemp("faults")
    noise, records = np.random.default_rng(0), []
    for number, (width, height) in enumerate(SIZES):
        Image.fromarray(noise.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        found = (CoordObject("red circle", "bbox_2d", (1, 2, 30, 40)),)
        records.append(Record(f"{folder}/records.jsonl:{number + 1}", (f"{number}.png",), width, height, found))
    return build_requests(records, cut_encoder)


class Bench:
    """A client over rogue servers, and the outputs that good ones would give."""

    def __init__(self, encoder: Encoder, requests: list[RolloutRequest]) -> None:
        self.requests, self.encoder = requests, encoder
        self.stop = int(encoder.tokenizer.convert_tokens_to_ids(END_OF_TURN))
        self.answers = Answers(requests, self.stop)

    def client(self, *servers: Rogue | str, batch: int = 8, **limits: Any) -> VllmServerClient:
        urls = [server if isinstance(server, str) else server.base_url for server in servers]
        prompting = Prompting(tuple(self.encoder.messages("<image>")), self.encoder.tokenizer)
        return VllmServerClient([live(url, **limits) for url in urls], prompting, batch, 4096)

    def refusal(self, client: VllmServerClient, decoding: Decoding = SAMPLED) -> str:
        with pytest.raises(RolloutServerError) as refused:
            client.generate(self.requests, decoding, 0)
        assert type(refused.value) is RolloutServerError, "a broken connection that was tried again is an error itself"
        return str(refused.value)


@pytest.fixture(scope="session")
def bench(cut_encoder: Encoder, asked_requests: list[RolloutRequest]) -> Bench:
    """A client of rogue servers."""
    return Bench(cut_encoder, asked_requests)
