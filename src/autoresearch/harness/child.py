"""Entry of every child process: `python -P -m autoresearch.harness.child FILE`.

FILE is JSON: {"mode": "train" | "score" | "serve", "parent": pid, "task": {...}}. Nothing heavy is imported
before the fork, so the supervisor stays small.
"""

import faulthandler
import json
import sys
from pathlib import Path
from typing import Any

from autoresearch.harness.supervise import supervise


def main(file: str) -> int:
    """Do what the order in this file says, under a supervisor: the exit code."""
    order: dict[str, Any] = json.loads(Path(file).read_text())
    return supervise(order["parent"], lambda: _work(order["mode"], json.dumps(order["task"])))


def _work(mode: str, task: str) -> None:
    faulthandler.enable()
    from pydantic import TypeAdapter

    if mode == "train":
        from autoresearch.harness.files import Phases
        from autoresearch.records import TrainTask

        training = TypeAdapter(TrainTask).validate_json(task)
        phases = Phases(Path(training.folder))  # now, since importing torch is the longest part of "import"
        from autoresearch.harness.train import train

        train(training, phases)
    elif mode == "score":
        from autoresearch.harness.score import score
        from autoresearch.records import ScoreTask

        score(TypeAdapter(ScoreTask).validate_json(task))
    elif mode == "serve":
        from autoresearch.harness.serve import serve
        from autoresearch.harness.wire import ServeTask

        serve(TypeAdapter(ServeTask).validate_json(task))
    else:
        raise ValueError(f"no such mode: {mode}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
