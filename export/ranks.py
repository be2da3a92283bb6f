"""How well two rankings agree."""

from collections.abc import Callable, Sequence
from itertools import combinations
from math import sqrt


def kendall(
    x: Sequence[float], y: Sequence[float], pairs: Callable[[int, int], bool] = lambda i, j: True
) -> float | None:
    """Kendall's tau-b, (P - Q) / sqrt((P + Q + X)(P + Q + Y)), over the pairs of places that `pairs` accepts.

    P pairs are in the same order in both, Q in opposite ones; X are equal in x alone, Y in y alone (Kendall 1945). None
    where it is not defined: no pair is left, or one side is all equal.
    """
    same = opposite = x_alone = y_alone = 0
    for i, j in combinations(range(len(x)), 2):
        if pairs(i, j):
            across, along = _sign(x[i], x[j]), _sign(y[i], y[j])
            same += across * along > 0
            opposite += across * along < 0
            x_alone += across == 0 != along
            y_alone += along == 0 != across
    differ = same + opposite
    scale = (differ + x_alone) * (differ + y_alone)
    return (same - opposite) / sqrt(scale) if scale else None


def _sign(one: float, other: float) -> int:
    return (one > other) - (one < other)
