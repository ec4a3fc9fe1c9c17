"""Loss arithmetic outside its home: every trainer's losses come from coordexp.losses. LOSS-031."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from audit.policy.source import Violation, imported_names, resolved_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from audit.policy.source import SourceFile

HOME = "coordexp/losses/"
# What a loss is written with: torch's functions and classes, torchvision's box losses, and methods of a tensor.
FUNCTIONAL = re.compile(
    r"(cross_entropy|log_softmax|log_sigmoid|logsigmoid|kl_div|huber_loss|smooth_l1_loss|l1_loss|mse_loss|\w*nll_loss"
    r"|binary_cross_entropy\w*|\w*_margin_loss|\w*_embedding_loss|ctc_loss|\w*iou_loss|sigmoid_focal_loss)"
)
CLASSES = re.compile(r"torch\.nn\.(\w+\.)*(\w*Loss|LogSoftmax|LogSigmoid)")
LIBRARIES = ("torch.", "torchvision.")


def loss_arithmetic(source: SourceFile) -> Iterator[Violation]:
    """Names of torch and torchvision that compute a loss, and any `.log_softmax`, outside coordexp.losses."""
    if source.path.startswith(HOME):
        return
    origins = imported_names(source.tree)
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Name | ast.Attribute) or not is_loss(node, resolved_name(node, origins)):
            continue
        yield Violation(source.path, node.lineno, f"{ast.unparse(node)}: losses are computed by coordexp.losses alone")


def is_loss(node: ast.Name | ast.Attribute, name: str) -> bool:
    """Whether a name, resolved through the imports, stands for loss arithmetic."""
    last = name.rpartition(".")[2]
    if name.startswith(LIBRARIES):
        return bool(FUNCTIONAL.fullmatch(last) or CLASSES.fullmatch(name))
    return isinstance(node, ast.Attribute) and node.attr == "log_softmax"
