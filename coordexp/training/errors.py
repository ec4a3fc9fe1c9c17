"""What ends a run that had begun. No torch: commands name it before anything heavy is imported. TRAIN-008."""

from __future__ import annotations


class TrainingError(RuntimeError):
    """Training cannot go on; says at which step and on which samples."""
