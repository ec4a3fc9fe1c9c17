"""Where configuration files live and what a two-channel profile must pin itself. Contract ids: CONFIG-014.

In: a merged chain of files; out: problems. `discover_profiles` lists the profiles that runs are started from.
"""

from __future__ import annotations

import itertools
import os.path
from pathlib import Path
from typing import TYPE_CHECKING

from coordexp.config.paths import real_path
from coordexp.config.problems import Problem, render_path
from coordexp.config.source import node_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordexp.config.inheritance import Chain

FAMILY = "stage2_two_channel"
PROFILE_FOLDERS = ("prod", "smoke")
PARENT = "../base.yaml"
PINNED = tuple(
    tuple(key.split("."))
    for key in (
        "model.model", "training.run_name", "training.output_dir", "training.logging_dir", "training.learning_rate",
        "training.vit_lr", "training.aligner_lr", "training.effective_batch_size", "training.eval_strategy",
        "training.eval_steps", "training.save_strategy", "training.save_steps", "stage2_ab.schedule.b_ratio",
        "stage2_ab.n_softctx_iter",
    )
)  # fmt: skip
_MOVED = ("configs", "stage2_ab")
_MOVE_TEXT = "configs/stage2_ab/ is gone: two-channel profiles are configs/stage2_two_channel/{prod,smoke}/*.yaml"


def discover_profiles(configs: Path) -> tuple[Path, ...]:
    """Every two-channel profile of the configs folder: `stage2_two_channel/{prod,smoke}/*.yaml`, and nothing else."""
    folders = [configs / FAMILY / name for name in PROFILE_FOLDERS]
    return tuple(sorted(path for folder in folders for path in folder.glob("*.yaml")))


def is_profile(path: Path) -> bool:
    """Whether a file is a two-channel profile, by where it lies."""
    return path.parent.name in PROFILE_FOLDERS and path.parent.parent.name == FAMILY


def moved_path(path: Path) -> Iterator[Problem]:
    """A path below configs/stage2_ab/ is refused, whether the file is still there or not."""
    if _is_moved(path):
        yield Problem((), _MOVE_TEXT, str(path))


def moved_parents(chain: Chain) -> Iterator[Problem]:
    """So is one that a file of the chain extends."""
    for file, names in chain.parents.items():
        if not _is_moved(file) and any(_is_moved(file.parent / name) for name in names):
            yield Problem(("extends",), _MOVE_TEXT, chain.places[file])


def _is_moved(path: Path) -> bool:
    return any(_MOVED in itertools.pairwise(parts) for parts in (_plain_path(path).parts, real_path(path).parts))


def _plain_path(path: Path) -> Path:
    return Path(os.path.normpath(path))


def linked_profile(path: Path) -> Iterator[Problem]:
    """A profile is a file: a link would lead to one that the rules of profiles do not reach."""
    place = _plain_path(path)
    if is_profile(place) and os.path.islink(place):
        yield Problem((), "a profile is a file of its own, not a link; copy what it leads to", str(path))


def profile_problems(chain: Chain) -> Iterator[Problem]:
    """A profile extends exactly `../base.yaml`, which extends nothing, and writes the pinned keys itself."""
    leaf = chain.files[-1]
    if not is_profile(leaf):
        return
    parents = chain.parents[leaf]
    if parents != (PARENT,) or leaf in chain.listed:
        shown = ", ".join(parents) or "nothing"
        shown = f"the list [{shown}]" if leaf in chain.listed else shown
        text = f"a profile extends exactly {PARENT}, as text; this one extends {shown}"
        yield Problem(("extends",), f"{text} ({_chain_text(chain)})", chain.places[leaf])
    elif len(chain.files) > 2:
        text = f"a profile is one hop from its base, which extends nothing: {_chain_text(chain)}"
        yield Problem(("extends",), text, chain.places[leaf])
    missing = [key for key in PINNED if not _written_in(chain, key, leaf)]
    if missing:
        keys = ", ".join(render_path(key) for key in missing)
        yield Problem((), f"a profile pins its own {keys}; write them in this file", f"{leaf}:1")


def _written_in(chain: Chain, key: tuple[str, ...], leaf: Path) -> bool:
    above, node = node_at(chain.root, key[:-1]), node_at(chain.root, key)
    return node is not above and isinstance(above.value, dict) and key[-1] in above.value and node.file == leaf


def _chain_text(chain: Chain) -> str:
    return " <- ".join(str(file) for file in reversed(chain.files))
