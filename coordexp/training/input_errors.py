"""What bad input may raise anywhere on the way to a trained model: the errors that a command shows as one message.

Anything else is a fault of the program, and keeps its traceback. Contract ids: TRAIN-025.
"""

from __future__ import annotations

from coordexp.artifacts.folders import FolderError
from coordexp.artifacts.provenance import ArtifactError
from coordexp.coordjson import CoordJSONError
from coordexp.evaluation.job import INPUT_ERRORS as EVALUATION_ERRORS
from coordexp.forward.probe import PackingLeak
from coordexp.losses.specs.types import ManifestError
from coordexp.packing.backend import UnprovenBackend
from coordexp.packing.plan import OversizeSample
from coordexp.training.errors import TrainingError

INPUT_ERRORS = (
    *EVALUATION_ERRORS,
    ArtifactError,
    CoordJSONError,
    FolderError,
    ManifestError,
    OversizeSample,
    PackingLeak,
    TrainingError,
    UnprovenBackend,
)
"""Each says where, what is wrong and what to do, and stands alone."""
