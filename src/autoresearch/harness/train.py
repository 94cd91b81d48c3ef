"""The training child: import, preflight, main(run), and a result or a fault, whatever happens."""

import contextlib
import random
import sys
from pathlib import Path

import numpy as np
import torch

from autoresearch.harness import candidate
from autoresearch.harness.candidate import Failure
from autoresearch.harness.files import Phases, write_record
from autoresearch.harness.run import Run
from autoresearch.tasks import Fault, TrainTask

_PHASE_NAMES = {
    "import": "import",
    "build": "build_model",
    "warmup": "warm-up",
    "train": "training",
    "save": "saving",
}


def train(task: TrainTask, phases: Phases) -> None:
    """Train by the task and leave result.json (TrainResult) or fault.json (Fault) in its folder."""
    folder = Path(task.folder)
    run: Run | None = None
    try:
        _seed_all(task.seed)
        module = candidate.load(task.source)
        candidate.check(module, task.context, task.tokens.vocab_size)
        phases.enter("build")
        shapes = candidate.check_shapes(module)  # before anything touches the GPU
        phases.enter("warmup")
        run = Run(task, phases, shapes)
        _seed_all(task.seed)
        module.main(run)
        run.finish()
        _flush()
        write_record(folder / "result.json", run.result())
    except BaseException as error:  # SystemExit and the like too: whatever the candidate raises is its result
        _flush()
        write_record(folder / "fault.json", _fault(error, phases.name, task.source, run))


def _flush() -> None:
    """What was printed reaches the log before the result is seen: after that the process may be killed at any time."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # the candidate may have put anything in their place
            stream.flush()


def _seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _fault(error: BaseException, phase: str, source: str, run: Run | None) -> Fault:
    try:
        result = run.result() if run else None
    except Exception:  # after an error on the device even asking it may fail
        result = None
    traceback = None if isinstance(error, Failure) else candidate.traceback_of(error, source)
    return Fault(phase, _reason(error, _PHASE_NAMES[phase]), traceback, result)


def _reason(error: BaseException, doing: str) -> str:
    """One line."""
    if isinstance(error, Failure):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return f"out of GPU memory in {doing}"
    if isinstance(error, MemoryError):
        return f"out of memory in {doing}"
    if isinstance(error, SyntaxError):
        return f"line {error.lineno} does not parse: {error.msg}"
    return candidate.in_a_line(error, f" in {doing}")
