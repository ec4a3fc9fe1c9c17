"""Miniature runs, built and not trained, in which each key of the configuration is followed to what acts on it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from coordexp.config import load_config
from coordexp.training.rollout_phase import RolloutPhase
from coordexp.training.types import StepRecords
from tests.plugins.receiver_builds import BUILDS
from tests.plugins.rogue_server import Rogue, rogue
from tests.plugins.served import NoEngine, answer_for, with_servers
from tests.plugins.stage1 import SHIPPED
from tests.plugins.stage2 import Scripted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from coordexp.config import Config
    from coordexp.rollout.types import Decoding
    from tests.plugins.stage1 import Stage1Kit


@dataclass(frozen=True)
class Built:
    """A run before its first step: its config, the trainer with its parts, and the folder that it was written into."""

    config: Config
    trainer: Any
    folder: Path
    precision: str
    """Of autocast, read when it was built: accelerate keeps one for the whole process, that of the last build."""

    @property
    def parts(self) -> Any:
        return self.trainer.parts

    @property
    def phase(self) -> Any:
        """What makes the plan of a step on rollouts."""
        made_by = self.parts.plans.make.__self__
        return made_by if isinstance(made_by, RolloutPhase) else made_by.b.__self__

    @property
    def channels(self) -> Any:
        """What makes the plan of a step by its channel."""
        return self.parts.plans.make.__self__

    @cached_property
    def asked(self) -> tuple[Decoding, Decoding]:
        """How answers are asked for: in a step of training, and in an evaluation."""
        stop = self.encoder.turn.end
        backend, own = Scripted(lambda sample: [stop], stop), self.phase.backend
        self.phase.backend = self.parts.rollouts.backend = backend
        try:
            self.phase.plan(StepRecords(0, 0, (self.parts.dataset[0],)))
            self.parts.rollouts.evaluate(0)
        finally:
            self.phase.backend = self.parts.rollouts.backend = own
        (_, training), (_, evaluation) = backend.asked
        return training, evaluation

    @property
    def args(self) -> Any:
        """transformers' arguments, as the loop reads them."""
        return self.trainer.args

    @property
    def encoder(self) -> Any:
        return self.parts.run.encoder

    @property
    def run_folder(self) -> Path:
        return Path(self.args.output_dir)

    @property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.run_folder / "run_manifest.json").read_text(encoding="utf-8"))

    @property
    def peft(self) -> Any:
        """peft's configuration of the adapter."""
        return self.trainer.model.peft_config["default"]

    def module(self, name: str) -> Any:
        """Config of an objective module as the run computes it."""
        return next(entry.config for entry in self.parts.run.objective.manifest.objective if entry.name == name)

    def callback(self, name: str) -> Any:
        return next(c for c in self.trainer.callback_handler.callbacks if type(c).__name__ == name)

    def optimizer(self) -> Any:
        return self.trainer.optimizer or self.trainer.create_optimizer()

    def group(self, *parts: str) -> dict[str, Any]:
        """The optimizer's group of the first trained matrix whose name has all `parts`."""
        optimizer = self.optimizer()
        chosen = next(
            p for n, p in self.trainer.model.named_parameters() if all(x in n for x in parts) and p.requires_grad
        )
        return next(g for g in optimizer.param_groups if any(p is chosen for p in g["params"]))

    def rates(self, steps: int) -> list[float]:
        """Learning rate of the language model at each of `steps` steps."""
        group = self.group("language_model", "proj")
        self.trainer.lr_scheduler = None
        scheduler = self.trainer.create_scheduler(steps, self.optimizer())
        found = []
        for _ in range(steps):
            found.append(group["lr"])
            scheduler.step()
        return found

    def trained(self) -> set[str]:
        """Parts of the model with a parameter that is trained."""
        names = [name for name, p in self.trainer.model.named_parameters() if p.requires_grad]
        return {
            "aligner" if "merger" in name else "vit" if "visual" in name else "llm"
            for name in names
            if "coord_offset" not in name
        }

    def stored(self, part: Any) -> list[str]:
        """File names of the records that `part` (plans or validation) reads, in order."""
        return [Path(part.dataset.record(index).source).name for index in range(len(part.dataset))]


def document_of(kit: Stage1Kit, name: str, folder: Path, servers: Sequence[Rogue] = ()) -> dict[str, Any]:
    """The YAML of a miniature; `servers` are those that one with a rollout server is written for."""
    base: dict[str, Any] = {
        "model": {"model": str(kit.checkpoint)},
        "training": {
            "output_dir": str(folder / "run"),
            "logging_dir": str(folder / "tb"),
            "run_name": f"followed-{name}",
            "max_steps": 2,
            "save_strategy": "no",
            "effective_batch_size": 2,
        },
        "custom": {"train_jsonl": str(kit.train), "val_jsonl": str(kit.val)},
    }
    own = BUILDS[name]
    merged = {key: base.get(key, {}) | own[key] if isinstance(own.get(key), dict) else own.get(key, base.get(key))
              for key in base | own}  # fmt: skip
    if name == "packed":
        merged["custom"]["dump_conversation_path"] = str(folder / "first.txt")
    if name == "workers":
        first, last = kit.coord_range()
        merged["custom"]["coord_offset"] = own["custom"]["coord_offset"] | {"ids": {"start": first, "end": last}}
    if name == "frozen_text":
        shutil.copytree(kit.train.parent / "images", folder / "elsewhere/images")
        merged["custom"]["image_root"] = str(folder / "elsewhere")
    if name == "served":
        merged["rollout_matching"] = with_servers(own["rollout_matching"], servers)
    if name == "debugged":
        merged["debug"] = own["debug"] | {"output_dir": str(folder / "debugged")}
    return {"extends": str(SHIPPED), "global_max_length": 512, **merged}


@pytest.fixture(scope="session")
def rollout_servers() -> Iterator[tuple[Rogue, ...]]:
    """Two servers without an engine."""
    with rogue() as first, rogue() as second:
        yield first, second


@pytest.fixture(scope="session")
def built_run(
    stage1_kit: Stage1Kit, tmp_path_factory: pytest.TempPathFactory, rollout_servers: tuple[Rogue, ...]
) -> Callable[[str], Built]:
    """Build a miniature of BUILDS, once a session each."""
    done: dict[str, Built] = {}

    def build(name: str) -> Built:
        from coordexp.training import colocate_rollouts
        from coordexp.training.stage1 import build_stage1
        from coordexp.training.stage2_rollout_aligned import build_stage2_rollout_aligned
        from coordexp.training.stage2_two_channel import build_stage2_two_channel

        builders = {
            "stage1": build_stage1,
            "stage2_two_channel": build_stage2_two_channel,
            "stage2_rollout_aligned": build_stage2_rollout_aligned,
        }
        if name not in done:
            folder = tmp_path_factory.mktemp(f"followed-{name}")
            path = folder / "config.yaml"
            document = document_of(stage1_kit, name, folder, rollout_servers)
            path.write_text(yaml.safe_dump(document), encoding="utf-8")
            config = load_config(path)
            if name == "served":
                answer_for(config, rollout_servers)
            with pytest.MonkeyPatch.context() as patch:
                # A real engine changes its process: tests/server has one in a process of its own.
                patch.setattr(colocate_rollouts, "build_engine", NoEngine)
                patch.setattr(colocate_rollouts, "install_grammar", lambda *_: None)
                trainer = builders[config.custom.trainer_variant](config)
            done[name] = Built(config, trainer, folder, trainer.accelerator.mixed_precision)
        return done[name]

    return build
