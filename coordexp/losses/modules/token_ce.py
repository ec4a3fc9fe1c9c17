"""Cross-entropy on struct, desc and eos tokens, weighted by the mask table, divided jointly. Contract ids: LOSS-006."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from coordexp.encode.types import TokenType
from coordexp.losses.modules.types import Coefficients, Forwarded, ModuleOutput
from coordexp.losses.normalizers import Normalizers, TermSum
from coordexp.losses.specs.token_ce import SPEC, TokenCEConfig

if TYPE_CHECKING:
    from coordexp.losses.context import TeacherForcingContext


@dataclass(frozen=True, slots=True)
class TokenCE:
    """Its config fills the mask table, so the weights arrive in the context."""

    config: TokenCEConfig
    grades_slots: bool = False

    def plan(
        self, coefficients: Coefficients, context: TeacherForcingContext, normalizers: Normalizers, weight: float
    ) -> None:
        """w/Σw for every text token, coord tokens excepted."""
        text = context.of_type(TokenType.STRUCT, TokenType.DESC, TokenType.EOS)
        scale = weight * normalizers.share(SPEC.name)
        coefficients.ce[: context.predict.shape[0]] += torch.where(text, context.weight, 0.0) * scale

    def compute(self, forwarded: Forwarded, normalizers: Normalizers, weight: float) -> ModuleOutput:
        """`struct_ce` (eos included) and `desc_ce`, each with its own weight sum."""
        context = forwarded.context
        weighted = context.weight * forwarded.vocabulary.ce[: context.predict.shape[0]].to(context.weight.dtype)
        terms = {}
        for name, types in (("struct_ce", (TokenType.STRUCT, TokenType.EOS)), ("desc_ce", (TokenType.DESC,))):
            mask = context.of_type(*types)
            terms[name] = TermSum(weighted[mask].sum(), context.weight[mask].sum())
        return ModuleOutput(terms=terms)
