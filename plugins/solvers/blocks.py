"""The blocks that one step uses."""

from __future__ import annotations

from collections.abc import Sequence

from odeframe import InvalidOption, Law


def blocks_of(field: Law, count: int) -> Sequence[Law]:
    """``count`` laws: the slots of the control, or ``count`` times the one law there is (a bare function)."""
    laws = field.slots
    if len(laws) not in (1, count):
        raise InvalidOption(
            f"the scheme uses {count} blocks a step and the control has {len(laws)}; build the flow anew after "
            "changing a solver's options"
        )
    return laws if len(laws) == count else [laws[0]] * count
