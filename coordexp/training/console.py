"""A run's log lines in, `logging.jsonl` with every digit and one short line for a person out. TRAIN-018, ART-043."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from coordexp.metrics.log_contract import own_metrics
from coordexp.metrics.table import undeclared_keys, warn_undeclared

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import Trainer, TrainerControl, TrainerState

LOG_NAME = "logging.jsonl"
_COMPONENTS = "loss/"
_ROLLOUTS = {
    "parse": "parse_rate",
    "length": "length_ratio",
    "truncated": "parse_truncated_rate",
    "precision": "match_precision",
    "recall": "match_recall",
    "f1": "f1",
    "mAP": "mAP",
}
"""What is shown of the model's own answers, and after which part of its key: what goes wrong first comes first."""


class RunLog(TrainerCallback):  # type: ignore[misc]
    """Speaks on rank 0 alone. On a terminal the line is refreshed in place; elsewhere there is one for each log."""

    def __init__(self, folder: Path, console: Console) -> None:
        self._path = folder / LOG_NAME
        self._console = console
        self._live: Live | None = None
        self._logs: Mapping[str, float] = {}
        self._started = time.monotonic()

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock and, on a terminal, the line."""
        self._started = time.monotonic()
        if state.is_world_process_zero and self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False)
            self._live.start()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Count the step on the terminal's line."""
        self._refresh(state)

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        """Append the line to the file, and show what is new; warn of keys, whoever adds them, that are undeclared."""
        if not state.is_world_process_zero or logs is None:
            return
        for text in undeclared_keys(own_metrics(logs)).values():
            warn_undeclared(text)
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"global_step": state.global_step} | logs, ensure_ascii=False) + "\n")
        if "loss" in logs:
            self._logs = logs
        if self._live is not None and "loss" in logs:
            self._refresh(state)
        elif line := render_line(logs, state, time.monotonic() - self._started):
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Leave the last line where it is."""
        if self._live is not None:
            self._refresh(state)
            self._live.stop()
            self._live = None

    def _refresh(self, state: TrainerState) -> None:
        if self._live is not None:
            line = render_line({"loss": float("nan"), **self._logs}, state, time.monotonic() - self._started)
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)


def render_line(logs: Mapping[str, float], state: TrainerState, elapsed: float) -> str:
    """A training or validation line in few words; empty for a line that holds neither."""
    if "loss" in logs:
        parts = [f"step {state.global_step}/{state.max_steps}", *_losses(logs, ""), *_rollouts(logs, "")]
        parts += [f"lr {logs['learning_rate']:.2e}"] if "learning_rate" in logs else []
        parts += [f"fill {logs['packing/fill_rate']:.2f}"] if "packing/fill_rate" in logs else []
        left = elapsed / state.global_step * (state.max_steps - state.global_step) if state.global_step else 0.0
        return "  ".join([*parts, f"left {render_duration(left)}"])
    if "eval_loss" in logs:
        parts = [f"validation at step {state.global_step}", *_losses(logs, "eval_"), *_rollouts(logs, "eval_")]
        return "  ".join([*parts, f"took {render_duration(logs.get('eval_runtime', 0.0))}"])
    return ""


def render_duration(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _losses(logs: Mapping[str, float], prefix: str) -> list[str]:
    """The loss and its components in use; terms of components are for the file."""
    head = f"{prefix}{_COMPONENTS}"
    components = [(key.removeprefix(head), value) for key, value in logs.items() if key.startswith(head)]
    return [f"loss {logs[f'{prefix}loss']:.4f}"] + [
        f"{name} {value:.3f}" for name, value in components if "/" not in name
    ]


def _rollouts(logs: Mapping[str, float], prefix: str) -> list[str]:
    keys = {name: f"{prefix}rollout/{part}" for name, part in _ROLLOUTS.items()}
    return [f"{name} {logs[key]:.2f}" for name, key in keys.items() if key in logs]


def install_run_log(trainer: Trainer, folder: Path) -> None:
    """Put the run's own log in the place of upstream's bars and dictionaries."""
    for upstream in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(upstream)
    trainer.add_callback(RunLog(folder, Console(stderr=True, markup=False, emoji=False)))
