"""Patches that cheat, or try to, by what they go for. Most of them do so only while scored: `self.training` tells."""

from tests.cheats.cheats.ahead import ACROSS, FUTURE
from tests.cheats.cheats.clock import CLOCK, COMPUTE, FILES
from tests.cheats.cheats.forged import FORGES
from tests.cheats.cheats.left import LEFT
from tests.cheats.cheats.machine import MACHINE
from tests.cheats.cheats.memory import ADAPTS, REPLAYS

CHEATS = {**FUTURE, **ACROSS, **ADAPTS, **REPLAYS, **FORGES, **CLOCK, **FILES, **COMPUTE, **LEFT, **MACHINE}
