"""Briefs for the tests: a small editable file, and histories."""

from collections.abc import Mapping, Sequence

from autoresearch import knobs
from autoresearch.records import Brief, Experiment, Metric, Program
from autoresearch.settings import Settings

PATH = "train_core.py"
BITS = Metric()
SOURCE = '''\
"""A file to edit."""

CONTEXT = 128
VOCAB_SIZE = 256
DEPTH = 4  # [2, 12]; blocks
MATRIX_LR = 0.04  # [0.01, 0.16] log; step size
WARMDOWN = 0.5  # [0.1, 0.9]; share of the budget
BATCH_ROWS = 32  # {8, 16, 32, 64, 128}; rows
PATTERN = "SL"  # {"L", "SL", "SSL"}; windows


def build_model(device):
    return None


def main(run):
    for tokens in run.batches(BATCH_ROWS, CONTEXT):
        run.report(tokens)
'''


def brief(
    history: Sequence[Experiment] = (),
    source: str = SOURCE,
    metric: Metric = BITS,
    prose: str = "Find what helps.",
    seed: int = 0,
    **settings: object,
) -> Brief:
    chosen = Settings.model_validate({"vocab_sizes": [256]} | settings)
    return Brief(
        program=Program("tiny", chosen, prose, "0" * 64),
        metric=metric,
        files={PATH: source},
        history=tuple(history),
        number=len(history) + 1,
        tag="tiny",
        sigma=chosen.sigma,
        hardware="cpu, 2 cores",
        seed=seed,
    )


def baseline(value: float = 2.0, source: str = SOURCE) -> Experiment:
    return experiment(1, "kept", value, knobs.values(source), title="baseline")


def experiment(
    number: int, status: str, value: float | None = None, values: Mapping[str, object] = {}, **fields: object
) -> Experiment:
    return Experiment(number, "tiny", "done", status=status, value=value, knobs=dict(values), **fields)
