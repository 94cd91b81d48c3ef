"""How many tokens an experiment reads: what `prepare` provides for."""

from collections.abc import Mapping

from autoresearch.engine.device import peak_flops, resolve_device
from autoresearch.engine.gpus import visible_gpus
from autoresearch.errors import EngineError
from autoresearch.machine import cores
from autoresearch.settings import Settings

PASSES = 1.2  # over the tokens that the budget has time for: a faster idea must not begin to repeat the text

# Tokens a second of the training core as it is shipped, with room for what is found. An H200 is what it is made for;
# other GPUs are reckoned by their peak, and one that is not known as an H200: rather too much text than too little.
_H200 = 1.7e6
_APPLE = 1e5
_CORE = 15e3


def tokens_read(settings: Settings, environ: Mapping[str, str]) -> int:
    """By one experiment of a program, on the device it would run on here.

    One for a GPU is reckoned as on an H200 where no GPU is seen: corpora are often prepared elsewhere."""
    return int(settings.budget * _tokens_per_second(settings, environ))


def _tokens_per_second(settings: Settings, environ: Mapping[str, str]) -> float:
    try:
        device = resolve_device(settings.device, environ)
    except EngineError:
        return _H200
    if device == "cpu":
        return _CORE * cores()
    if device == "mps":
        return _APPLE
    best, here = peak_flops("H200"), peak_flops(visible_gpus(environ)[0].name)
    return _H200 * (here / best) if here and best else _H200
