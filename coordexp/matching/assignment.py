"""The project's one assignment: which rows pair with which columns at least cost, or stay alone. MATCH-001, MATCH-002.

In: the cost of each pair and of staying alone; out: the pairs of the choice that scipy's solver makes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORBIDDEN = np.inf
"""Cost of a pair that no assignment may choose."""


def assign(costs: NDArray[np.float64], fp_cost: float, fn_cost: float) -> tuple[tuple[int, int], ...]:
    """Pairs (row, column) of least total cost, ordered by row, of `costs` [P, G] (`FORBIDDEN` where no pair may be).

    The total is the sum over the pairs, plus `fp_cost` for each row and `fn_cost` for each column left alone, both
    finite. It is made by scipy on the square matrix of P + G rows and columns

        costs [P, G]      fp_cost [P, P]
        fn_cost [G, G]    0       [G, P]

    whose rows are the predictions in order, then a dummy for each ground truth, and whose columns are the ground
    truths in order, then a dummy for each prediction. Whoever takes a dummy is left alone, so an assignment always
    exists, and a forbidden pair, being infinite, is never part of one. Among equal totals the solver's choice on this
    matrix holds, which is a function of the matrix alone.
    """
    predictions, truths = costs.shape
    if not predictions or not truths:
        return ()
    square = np.zeros((predictions + truths, predictions + truths))
    square[:predictions, :truths] = costs
    square[:predictions, truths:] = fp_cost
    square[predictions:, :truths] = fn_cost
    rows, columns = linear_sum_assignment(square)
    real = columns[:predictions] < truths
    return tuple(zip(rows[:predictions][real].tolist(), columns[:predictions][real].tolist(), strict=True))
