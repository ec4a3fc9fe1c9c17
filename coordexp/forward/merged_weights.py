"""The weights a rollout server is given: the live model in, pairs of checkpoint name and tensor out. FWD-021, FWD-022.

Names are those of `named_parameters()` of the plain model. peft merges adapters on a copy of one layer at a time, coord
offsets are added, and what neither touches is the live tensor itself. The live model stays as it is.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import nn

from coordexp.forward.coord_offset import CoordOffset, coord_offset_of, plain_ends
from coordexp.forward.coord_offset_files import merge_rows
from coordexp.forward.unwrap import unwrap_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

OffsetRows = dict[nn.Module, tuple[torch.Tensor, torch.Tensor]]
"""Coord ids and their offsets, by the module whose rows they move."""
NamedWeight = tuple[str, torch.Tensor]
_WRAPPERS = (BaseTunerLayer, AuxiliaryTrainingWrapper)


class UnservableWeights(ValueError):
    """The policy is none that a server of the plain model can be given."""


def iter_merged_weights(model: nn.Module) -> Iterator[NamedWeight]:
    """Every weight of the policy, however wrapped, once and in the plain model's order; tied ends are the embedding's.

    Tensors are detached, and most are the live ones: read them only. A merged one belongs to the caller, and no more
    than one layer is copied at a time. Raises `UnservableWeights`: before the first pair for what `check_servable`
    refuses, at its layer for a merge that is not finite.
    """
    base = unwrap_model(model)
    check_servable(base)
    offsets = _offsets_of_ends(base)
    for name, part in _parts(base):
        # Nothing of a layer is held here while the next one is copied.
        yield from _weights(name, part, offsets)


def merged_names(model: nn.Module) -> list[str]:
    """The names that `iter_merged_weights` yields, in its order, without merging anything."""
    parts = _parts(unwrap_model(model))
    return [own for name, part in parts for own, _ in _named(name, part, _unmerged(part))]


def check_servable(model: nn.Module) -> None:
    """Raise `UnservableWeights` where the model's configuration ties the head to the embedding and the policy has two.

    A server reads the same configuration: it scores with the embedding, and drops a head that it is sent.
    """
    base = unwrap_model(model)
    if not base.config.tie_word_embeddings:
        return
    adapter = coord_offset_of(base)
    if adapter is not None and not adapter.tie_head:
        raise UnservableWeights(
            "the checkpoint ties its head to the embedding, and the head has coord offsets of its own, which a rollout "
            "server would drop. Write custom.coord_offset.tie_head: true, or rollout_matching.rollout_backend: hf"
        )
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    if isinstance(embedding, _WRAPPERS) or isinstance(head, _WRAPPERS) or embedding.weight is not head.weight:
        raise UnservableWeights(
            "the checkpoint ties its head to the embedding, and here they are two, of which a rollout server would "
            "drop the head. Take embed_tokens and lm_head out of tuner.target_modules and tuner.modules_to_save"
        )


def _offsets_of_ends(base: PreTrainedModel) -> OffsetRows:
    adapter = coord_offset_of(base)
    if adapter is None:
        return {}
    embedding, head = plain_ends(base)
    ids = adapter.coord_ids
    return {embedding: (ids, adapter.embed_offset), head: (ids, adapter.head_offset)}


def _parts(base: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
    """What holds weights, with its name in the plain model. A tuner layer is one part; a tied head is none."""
    tied_head = base.get_output_embeddings() if base.config.tie_word_embeddings else None

    def walk(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        part = _trained(name, module)
        if part is tied_head or isinstance(part, CoordOffset):
            return
        yield name, part
        if not isinstance(part, BaseTunerLayer):
            for own, child in part.named_children():
                yield from walk(f"{name}.{own}" if name else own, child)

    yield from walk("", base)


def _trained(name: str, module: nn.Module) -> nn.Module:
    """The module itself, or of one in `modules_to_save` the copy that is trained."""
    if not isinstance(module, AuxiliaryTrainingWrapper):
        return module
    if not isinstance(module, ModulesToSaveWrapper):
        raise UnservableWeights(
            f"{name}: a {type(module).__name__} is not merged; train it through tuner.target_modules or modules_to_save"
        )
    active = [module.modules_to_save[adapter] for adapter in module.active_adapters]
    trained: nn.Module = active[0] if active else module.original_module
    return trained


def _weights(name: str, part: nn.Module, offsets: OffsetRows) -> Iterator[NamedWeight]:
    """The whole weights of one part."""
    for own, weight in _named(name, part, _merged(name, part)):
        yield own, merge_rows(weight, *offsets[part]) if part in offsets else weight.detach()


def _named(name: str, part: nn.Module, holder: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters of `holder`, which stands for `part`; children of a plain part are parts of their own."""
    return holder.named_parameters(name, recurse=isinstance(part, BaseTunerLayer))


def _unmerged(part: nn.Module) -> nn.Module:
    holder: nn.Module = part.get_base_layer() if isinstance(part, BaseTunerLayer) else part
    return holder


def _merged(name: str, part: nn.Module) -> nn.Module:
    """A plain part itself; of a tuner layer what peft merges on a copy of it, in the precision of its weights."""
    if not isinstance(part, BaseTunerLayer):
        return part
    device = next(part.parameters()).device.type
    with torch.no_grad(), torch.autocast(device, enabled=False):
        twin = _copy_without_hooks(part)
        try:
            twin.merge(safe_merge=True)
        except ValueError as error:  # what peft raises does not say where
            raise UnservableWeights(f"{name}: {error}; the run has diverged, lower the learning rate") from error
    return _unmerged(twin)


def _copy_without_hooks(layer: BaseTunerLayer) -> BaseTunerLayer:
    """A deep copy of one layer. Its hooks stay behind: what a hook is bound to may hold the whole model."""
    left = {
        id(hooks): type(hooks)()
        for module in layer.modules()
        for key, hooks in vars(module).items()
        if key.endswith("_hooks") and isinstance(hooks, dict)
    }
    return copy.deepcopy(layer, left)
