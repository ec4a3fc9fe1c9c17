"""Pictures without annotations and a checkpoint in, what it says about each of them out. Contract ids: EVAL-071,
EVAL-072.

A picture of any size is brought to the size that cooking gives it, asked about as an evaluation asks, and the boxes are
mapped back to the picture as it is displayed, each axis by its own scale.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from coordexp.config.rollout_sections import VllmServerConfig
from coordexp.data.cooking_images import resize_image
from coordexp.data.pictures import PictureError, read_picture
from coordexp.data.types import Record
from coordexp.encode.checkpoint_record import check_recorded_vocabulary, check_recorded_weights
from coordexp.encode.encoder import build_encoder
from coordexp.encode.processor import load_processor
from coordexp.encode.settings import EncodeSettings, build_settings
from coordexp.encode.whole_model import check_whole_model
from coordexp.evaluation.confidence import score_by_coords
from coordexp.evaluation.detections import build_answer_parser, parse_prediction, rescale
from coordexp.evaluation.job import check_coord_ids, load_merged_model
from coordexp.evaluation.report import EvaluationError
from coordexp.geometry.resize import MAX_ASPECT, MAX_IMAGE_TOKENS, SIZE_MULTIPLE, check_bounds, cooked_size
from coordexp.rollout.batching import check_length_budget
from coordexp.rollout.hf import HfBackend
from coordexp.rollout.requests import build_requests
from coordexp.rollout.scoring import TeacherScorer
from coordexp.rollout.serve import shared_key
from coordexp.rollout.served_checkpoint import CheckpointServer, ServedCheckpoint, expected_checkpoint, served_length
from coordexp.rollout.server_flags import server_dtype
from coordexp.rollout.types import RolloutError, RolloutRequest
from coordexp.rollout.vllm_client import Prompting, VllmServerClient, connect
from coordexp.rollout.wire import ServerConnection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordexp.config import Config
    from coordexp.config.rollout_sections import RepeatTerminateConfig
    from coordexp.encode.encoder import Encoder
    from coordexp.evaluation.types import ImagePrediction
    from coordexp.rollout.types import BackendSettings, Decoding, Progress, RolloutOutput
    from coordexp.rollout.vllm_client import LiveServer

FACTOR = SIZE_MULTIPLE
"""Sides of what the model sees are multiples of it, as cooking makes them."""
SMALLEST = 2 * SIZE_MULTIPLE
"""Side of a square with the fewest vision tokens that the processor takes."""


@dataclass(frozen=True, slots=True)
class PredictionJob:
    """How pictures are answered. Without a `server` the checkpoint is loaded here.

    `weight_dtype` is that of a checkpoint loaded here, `server_dtype` that of a server. `coord_ids` are the first and
    last coord id that the configuration names, None where it names none.
    """

    checkpoint: Path
    configuration: Path
    encoding: EncodeSettings
    decoding: Decoding
    decode_batch_size: int
    weight_dtype: str
    server_dtype: str
    attn_impl: str
    repeats: RepeatTerminateConfig | None
    coord_ids: tuple[int, int] | None
    server: ServerConnection | None = None

    def __post_init__(self) -> None:
        if self.decode_batch_size < 1:
            raise EvaluationError(f"the batch size must be at least 1, got {self.decode_batch_size}")

    @property
    def dtype(self) -> str:
        """Data type of the model that answers."""
        return self.weight_dtype if self.server is None else self.server_dtype

    @property
    def max_pixels(self) -> int:
        """Width times height that a picture is brought to at most."""
        cap = self.encoding.max_pixels
        return MAX_IMAGE_TOKENS * SIZE_MULTIPLE**2 if cap is None else cap


def build_prediction_job(
    config: Config, checkpoint: Path, decoding: Decoding, decode_batch_size: int, server: str | None = None
) -> PredictionJob:
    """A job for a checkpoint that `config` trained; `server` is the address of a rollout server that runs it.

    Raises `EvaluationError` for a configuration whose image cap admits no picture, `RolloutError` for no address.
    """
    rollouts = config.rollout_matching
    ids = config.custom.coord_offset.ids
    job = PredictionJob(
        checkpoint=checkpoint,
        configuration=config.sources.path,
        encoding=build_settings(config),
        decoding=decoding,
        decode_batch_size=decode_batch_size,
        weight_dtype=config.model.torch_dtype,
        server_dtype=server_dtype(config),
        attn_impl=config.model.attn_impl,
        repeats=None if rollouts is None else rollouts.repeat_terminate,
        coord_ids=None if ids is None else (ids.start, ids.end),
        server=None if server is None else _connection(config, server),
    )
    try:
        check_bounds(job.max_pixels, FACTOR)
    except ValueError as error:
        raise EvaluationError(f"{config.sources.path}: template.max_pixels: {error}") from error
    return job


def _connection(config: Config, address: str) -> ServerConnection:
    """With the limits of time that the configuration gives rollout servers, or the defaults of those."""
    vllm = None if config.rollout_matching is None else config.rollout_matching.vllm
    limits = VllmServerConfig(servers=()) if vllm is None or vllm.server is None else vllm.server
    return ServerConnection(address.rstrip("/"), shared_key(), limits.timeout_s, limits.infer_timeout_s)


@dataclass(frozen=True, slots=True)
class ShownPicture:
    """A picture under its name as given, as the model sees it: `size` is that of the picture as displayed, `shown` that
    of what was made of it, `sha256` (hex) the digest of its file.
    """

    name: str
    size: tuple[int, int]
    shown: tuple[int, int]
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A picture that the model could not be asked about; `reason` is for machines, `message` names the file."""

    name: str
    reason: str
    message: str


@dataclass(frozen=True, eq=False)
class Answer:
    """What the model wrote about a picture, and its objects in pixels of the picture as displayed."""

    picture: ShownPicture
    output: RolloutOutput
    prediction: ImagePrediction


class AnswerBackend(Protocol):
    """What answers requests in their order: a model here, or one behind a server."""

    @property
    def settings(self) -> BackendSettings:
        """What it decodes with."""
        ...

    def generate(
        self, requests: Sequence[RolloutRequest], decoding: Decoding, progress: Progress | None = None
    ) -> list[RolloutOutput]:
        """One output a request."""
        ...


class Predictor:
    """Answers pictures as `job` says. The folder, and the server, are checked when it is made; the model is loaded with
    the first pictures, unless a `backend` stands for it.

    Raises one of `coordexp.evaluation.job.INPUT_ERRORS` for bad input.
    """

    def __init__(self, job: PredictionJob, backend: AnswerBackend | None = None) -> None:
        self.job = job
        whole = check_whole_model(check_recorded_weights(job.checkpoint))
        self.encoder: Encoder = build_encoder(load_processor(job.checkpoint), job.encoding)
        check_recorded_vocabulary(job.checkpoint, self.encoder.tokenizer)
        check_coord_ids(job.checkpoint, job.coord_ids, self.encoder.coords, whole.rows)
        self._parser = build_answer_parser(self.encoder)
        self._served = ServedCheckpoint(job.checkpoint, job.server_dtype, job.encoding.max_pixels, job.repeats)
        self._server: LiveServer | None = None
        self._limit, self._limit_name = whole.positions, "the model's max_position_embeddings"
        if job.server is not None:
            self._server = connect(job.server, expected_checkpoint(self._served, self.encoder.tokenizer))
            self._limit, self._limit_name = served_length(self._server), "the server's max_model_len"
        self._backend = backend
        # What leaves no room for the smallest picture leaves none for any.
        self._check_length(ShownPicture("the smallest picture", (1, 1), (SMALLEST, SMALLEST)))

    def answer(
        self, names: Sequence[str], folder: Path, progress: Progress | None = None
    ) -> tuple[list[Answer], list[Unanswered]]:
        """The answers about the pictures of these names, in their order, and those that are left out.

        `folder` takes what the model is shown; the files are for this call alone.
        """
        found = [self._show(name, folder / f"{number}.png") for number, name in enumerate(names)]
        shown = [(number, each) for number, each in enumerate(found) if isinstance(each, ShownPicture)]
        records = [_record(picture, f"{number}.png") for number, picture in shown]
        requests = build_requests(records, self.encoder, folder)
        outputs = self._ready().generate(requests, self.job.decoding, progress) if requests else []
        answers = [self._read(picture, output) for (_, picture), output in zip(shown, outputs, strict=True)]
        return answers, [each for each in found if isinstance(each, Unanswered)]

    def _show(self, name: str, target: Path) -> ShownPicture | Unanswered:
        """Write the picture at `target` as cooking would."""
        try:
            image = read_picture(Path(name), None).image
            digest = hashlib.sha256(Path(name).read_bytes()).hexdigest()
        except PictureError as error:
            return Unanswered(name, error.reason, str(error))
        except OSError as error:
            return Unanswered(name, "unreadable_image", f"{name} cannot be read ({error.strerror})")
        wide, high = image.size
        size = cooked_size(wide, high, self.job.max_pixels, FACTOR)
        if size is None:
            text = f"{name} has {wide}x{high} pixels, and nothing like it is within {self.job.max_pixels} pixels, "
            text += f"multiples of {FACTOR} and sides of 1 to {MAX_ASPECT} at most. Cut it into pieces, or leave it out"
            return Unanswered(name, "image_aspect", text)
        picture = ShownPicture(name, (wide, high), size, digest)
        try:
            self._check_length(picture)
        except RolloutError as error:
            return Unanswered(name, "prompt_too_long", str(error))
        try:
            resize_image(image, size).save(target, format="PNG", compress_level=1)
        except OSError as error:
            raise EvaluationError(f"{target}: cannot be written ({error.strerror}); make room for it") from error
        return picture

    def _check_length(self, picture: ShownPicture) -> None:
        request = RolloutRequest(picture.name, self.encoder.prompt(_record(picture, picture.name)).ids)
        check_length_budget([request], self.job.decoding.max_new_tokens, self._limit, self._limit_name)

    def _read(self, picture: ShownPicture, output: RolloutOutput) -> Answer:
        found = parse_prediction(output, *picture.shown, self._parser, score_by_coords)
        moved = (replace(each, box=rescale(each.box, picture.shown, picture.size)) for each in found.detections)
        return Answer(picture, output, replace(found, detections=tuple(moved)))

    def _ready(self) -> AnswerBackend:
        if self._backend is None:
            self._backend = self._local() if self._server is None else self._remote(self._server)
        return self._backend

    def _local(self) -> AnswerBackend:
        job = self.job
        model = load_merged_model(job.checkpoint, job.weight_dtype, job.attn_impl)
        return HfBackend(
            model,
            self.encoder.processor,
            decode_batch_size=job.decode_batch_size,
            logprobs=True,
            repeats=job.repeats,
        )

    def _remote(self, server: LiveServer) -> AnswerBackend:
        job, encoder = self.job, self.encoder
        prompting = Prompting(tuple(encoder.messages("<image>")), encoder.tokenizer)
        client = VllmServerClient([server], prompting, job.decode_batch_size, served_length(server))

        def load_scorer() -> TeacherScorer:
            # On the CPU: the server may have taken what there is of a GPU.
            return TeacherScorer(
                load_merged_model(job.checkpoint, job.weight_dtype, job.attn_impl, "cpu"), encoder.processor
            )

        return CheckpointServer(client, self._served, load_scorer, job.weight_dtype)


def _record(picture: ShownPicture, file: str) -> Record:
    return Record(picture.name, (file,), *picture.shown, ())
