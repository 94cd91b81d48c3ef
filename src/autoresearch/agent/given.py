"""One proposal that a person or a coding agent has made already."""

from collections.abc import Callable, Mapping

from autoresearch.records import Brief, Proposal

Given = Callable[[Mapping[str, str]], Proposal]  # from the editable files at the tip


class GivenAgent:
    """Proposes what `make` makes of the editable files at the tip: `autoresearch try`."""

    name = "try"

    def __init__(self, make: Given) -> None:
        self._make = make

    def propose(self, brief: Brief) -> Proposal:
        return self._make(brief.files)
