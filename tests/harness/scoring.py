"""Score a file the way the engine does: the judge in a child process, the candidate's processes below it."""

import atexit
import os
import shutil
import tempfile
from dataclasses import asdict
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter

from autoresearch.engine.forkserver import ForkServer
from autoresearch.forks import FIRST, MARKER
from autoresearch.tasks import ScoreResult, ScoreTask
from tests.harness import zoo

PASSED_ON = ("PATH", "PYTHONPATH")  # by which the package that is tested is found
ENVIRON = {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {"OMP_NUM_THREADS": "1"}


def score(
    source: str,
    folder: Path,
    texts: zoo.Texts,
    *,
    audit: int = 256,
    rows: int | None = None,
    limit: float = 120,
    incumbent: Path | None = None,
    bar: float | None = None,
    room: int | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> ScoreResult:
    """Make the model, save its weights, score it; once more if the machine is suspected, as an engine does."""
    vocab = zoo.knob(source, "VOCAB_SIZE")
    weights = zoo.weights(source, folder, texts.train[vocab], seed)
    task = ScoreTask(
        source=str(folder / "train_core.py"),
        weights=str(weights),
        folder=str(folder),
        device=device,
        context=zoo.knob(source, "CONTEXT"),
        tokens=texts.validation[vocab],
        validation=10**9,
        audit=audit,
        incumbent=str(incumbent) if incumbent else None,
        limit=limit,
        result=FIRST,
        losses=FIRST + 1,
        go=FIRST + 2,
        compiled=FIRST + 3,
        bar=bar,
        room=room,
        rows=rows,
    )
    for _ in range(2):
        with (folder / "result.json").open("wb") as result, (folder / "losses.npz").open("wb") as losses:
            run(task, folder, result.fileno(), losses.fileno())
        found = TypeAdapter(ScoreResult).validate_json((folder / "result.json").read_text())
        if not found.suspected:
            break
    return found


def run(task: ScoreTask, folder: Path, result: int, losses: int) -> None:
    env = {**ENVIRON, MARKER: str(folder), "PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": "1"}
    with (folder / "score.log").open("w") as log:
        server = fork_server()
        told, tell = os.pipe()
        fds = (result, losses, told, os.open(os.devnull, os.O_RDONLY))
        number = server.forks.start("score", asdict(task), env, folder, log.fileno(), *fds)
        try:
            os.write(tell, b"g")
            while server.forks.exit_code(number) is None:
                server.forks.wait(10)
        finally:
            server.end(number)
            for fd in (told, tell, fds[-1]):
                os.close(fd)


@cache
def fork_server() -> ForkServer:
    """One for all scorings of this process."""
    scratch = Path(tempfile.mkdtemp())
    server = ForkServer("cpu", scratch, ENVIRON)
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    atexit.register(server.close)
    return server
