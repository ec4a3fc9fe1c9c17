"""Surveyed files and a configuration in, what a run of it would refuse of their records out. Contract ids: ENC-032.

`check_data --config FILE` asks here, as the dry run asks for the files that the configuration names itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordexp.config import resolve_input
from coordexp.coords.vocab import CoordVocabError
from coordexp.data.errors import DataError, RecordProblem
from coordexp.data.ordering import order_objects
from coordexp.encode.checkpoint import CheckpointFolderError
from coordexp.encode.encoder import build_encoder
from coordexp.encode.errors import EncodeError
from coordexp.encode.processor import ProcessorError, load_processor
from coordexp.encode.record_check import find_refusals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coordexp.config import Config
    from coordexp.data.survey import FileSurvey


def check_against(config: Config, surveys: Sequence[FileSurvey], on_record: Callable[[], None]) -> None:
    """Add to each survey, whose records were kept, what training as `config` says would refuse them for.

    All records of a file are judged, whatever the configuration draws of it. Raises `ConfigError` for a model that is
    not there, `DataError` for one whose tokenizer or processor cannot be used.
    """
    folder = resolve_input(config, "model.model", config.model.model)
    try:
        encoder = build_encoder(load_processor(folder), config)
    except (CheckpointFolderError, CoordVocabError, EncodeError, ProcessorError) as error:
        raise DataError(f"{config.sources.path}: model.model: {error}") from error
    ordering, seed = config.custom.object_ordering, config.training.seed
    boxes_only = config.custom.trainer_variant != "stage1"
    for survey in surveys:
        records = [order_objects(record, ordering, seed) for record in survey.kept]
        found = find_refusals(encoder, records, boxes_only=boxes_only, on_record=on_record)
        # A survey names its file as it was told to, a record by its whole path.
        found = [RecordProblem(f"{survey.path}:{_line(problem.where)}", problem.finding) for problem in found]
        survey.problems = sorted([*survey.problems, *found], key=lambda problem: _line(problem.where))


def _line(where: str) -> int:
    """The line of a `file:line`; 0 of a whole file."""
    number = where.rpartition(":")[2]
    return int(number) if number.isdigit() else 0
