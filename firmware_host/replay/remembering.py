"""Programs that remember their last calls: tries of one bundle often ask for what another has just asked for.

What the network as built makes of a sample is asked for by every try that routes, and tries that differ in a guard
alone go the same way for long. A method is a pure function, so what it gave for the same bytes, it gives again.
"""

from collections import OrderedDict
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgecl.manifest import Method
from edgecl.programs import Programs

Array = npt.NDArray[Any]

INPUTS: Final = 4
"""Samples, and batches of some, whose calls are remembered: a sample is answered, and may be the last of a batch."""

Call = tuple[dict[str, Array], dict[str, Array]]
"""What a method was given, and gave."""


class Remembering(Programs):
    """Of one bundle, for all who answer the same stream in turn. Nobody may change what it gives."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._calls: OrderedDict[tuple[str, bytes], list[Call]] = OrderedDict()

    def call(self, method: Method, **given: Array) -> dict[str, Array]:
        key = method.name, given["x"].tobytes()
        calls = self._calls.get(key)
        if calls is None:
            calls = self._calls[key] = []
            if len(self._calls) > INPUTS:
                self._calls.popitem(last=False)
        rest = [tensor.name for tensor in method.inputs if tensor.name != "x"]
        for before, found in calls:
            if all(_same(before[name], given[name]) for name in rest):
                return found
        found = super().call(method, **given)
        calls.append((given, found))
        return found


def _same(one: Array, other: Array) -> bool:
    """To the bit, which also tells zeros of two signs apart. Most that differ do so at once, and cost nothing then."""
    if one is other:
        return True
    if one.nbytes != other.nbytes or not one.nbytes:
        return one.nbytes == other.nbytes
    left, right = (memoryview(np.ascontiguousarray(part).data).cast("B") for part in (one, other))
    if one.nbytes % 4:
        return bool(left == right)
    return bool(left.cast("I") == right.cast("I"))
