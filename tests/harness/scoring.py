"""Score a file the way the engine does: the judge in a child process, the candidate's processes below it."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter

from autoresearch.records import ScoreResult, ScoreTask
from tests.harness import zoo


def score(
    source: str,
    folder: Path,
    texts: zoo.Texts,
    *,
    audit: int = 256,
    rows: int | None = None,
    limit: float = 120,
    incumbent: Path | None = None,
    seed: int = 0,
) -> ScoreResult:
    """Make the model, save its weights, score it."""
    vocab = zoo.knob(source, "VOCAB_SIZE")
    weights = zoo.weights(source, folder, texts.train[vocab], seed)
    with (folder / "result.json").open("wb") as result, (folder / "losses.npz").open("wb") as losses:
        task = ScoreTask(
            source=str(folder / "train_core.py"),
            weights=str(weights),
            folder=str(folder),
            device="cpu",
            context=zoo.knob(source, "CONTEXT"),
            tokens=texts.validation[vocab],
            validation=10**9,
            audit=audit,
            incumbent=str(incumbent) if incumbent else None,
            limit=limit,
            result=result.fileno(),
            losses=losses.fileno(),
            rows=rows,
        )
        run(task, folder)
    return TypeAdapter(ScoreResult).validate_json((folder / "result.json").read_text())


def run(task: ScoreTask, folder: Path) -> None:
    order = folder / "score.json"
    order.write_text(json.dumps({"mode": "score", "parent": os.getpid(), "task": asdict(task)}))
    env = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": "1"}
    with (folder / "score.log").open("w") as log:
        command = [sys.executable, "-P", "-m", "autoresearch.harness.child", str(order)]
        fds = (task.result, task.losses)
        subprocess.run(command, env=env, stdout=log, stderr=log, check=False, timeout=600, pass_fds=fds)
