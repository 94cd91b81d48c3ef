"""The program that an engine starts: `python -P -m autoresearch.harness.child FD`, a fork server.

FD is a socket, its line. Standard input has two lines of text: an order as its children get them, of which the task is
a device (cpu, cuda or mps) and the user's home; and the mechanisms that make the sandbox, with commas between them. The
engine finds these out while this imports what is then there in every child at once.
"""

import ctypes
import faulthandler
import json
import os
import socket
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from autoresearch import compilers
from autoresearch.forks import MARKER, Forks
from autoresearch.harness import preload
from autoresearch.harness.files import Phases
from autoresearch.harness.forkserver import ForkServer, fork_server
from autoresearch.harness.sandbox.confine import Sandbox
from autoresearch.harness.sandbox.policy import make_devices
from autoresearch.harness.supervise import end_as
from autoresearch.harness.wire import ServeTask
from autoresearch.tasks import ScoreTask, TrainTask


def main(fd: int) -> None:
    """Serve until the line is closed."""
    parent, line = os.getppid(), socket.socket(fileno=fd)
    line.set_inheritable(False)
    with preload.importing():
        # Apple's frameworks do not survive a fork: there, each child imports for itself.
        ahead = sys.platform == "linux"
        if ahead:
            preload.first()
        device, home = _become(json.loads(_told()))
        if ahead:
            preload.rest(device)
    mechanisms = _told()
    if device == "cuda" and mechanisms:
        make_devices()
    sandbox = Sandbox(mechanisms.split(",") if mechanisms else (), private=Path.cwd().parent, home=home)
    ForkServer(line, parent, partial(_work, sandbox), sandbox).serve()


def _told() -> str:
    """The next line of the engine; SystemExit if it has ended, or needs no server."""
    line, end, _ = sys.stdin.readline().partition("\n")
    if not end:
        raise SystemExit(0)
    return line


def _work(sandbox: Sandbox, mode: str) -> None:
    """What a forked process does, until its task is done."""
    faulthandler.enable()
    if mode == "train":
        training = TypeAdapter(TrainTask).validate_python(_order())
        own = Path(training.folder)
        text = 2 * training.tokens.tokens  # bytes, which come as an open file
        sandbox.confine(own, training.device, [Path(training.source)], compilers.folders(os.environ), mapped=text)
        phases = Phases(own)  # now, since "import" includes what is imported here
        preload.compile_in_parallel(ahead=True, possible=sandbox.shared_memory)
        from autoresearch.harness.train import train

        train(training, phases)
    elif mode == "score":
        line = fork_server(partial(_work, sandbox), sandbox)  # while this process knows nothing
        scoring = TypeAdapter(ScoreTask).validate_python(_order())
        from autoresearch.harness.score import score

        score(scoring, Forks(line))
    elif mode == "serve":
        serving = TypeAdapter(ServeTask).validate_python(_order())
        sealed = serving.mode == "sealed"
        caches = () if sealed else compilers.folders(os.environ)  # a sealed one makes its own
        weights = Path(serving.weights).parent  # where they will be, once they are there
        sandbox.confine(Path.cwd(), serving.device, [Path(serving.source), weights], caches, in_memory=sealed)
        preload.compile_in_parallel(ahead=False, possible=sandbox.shared_memory)
        from autoresearch.harness.serve import serve

        serve(serving)
    else:
        raise ValueError(f"no such mode: {mode}")


def _order() -> Any:
    """The task. From here on this process has the environment that its order names, and no other, and the order is
    nowhere else."""
    order = json.loads(os.read(0, os.fstat(0).st_size))
    os.ftruncate(0, 0)
    with open(os.devnull) as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
    os.environ.clear()
    return _become(order)


def _become(order: Any) -> Any:
    """The task of an order, in its folder and with its environment from here on."""
    os.environ.update(order["env"])
    if _MARK:
        mark = os.fsencode(os.environ.get(MARKER, ""))
        ctypes.memmove(_MARK, mark.ljust(_ROOM, b"/")[:_ROOM], _ROOM)
    os.chdir(order["folder"])
    tempfile.tempdir = None  # which may have been looked up with another environment
    return order["task"]


def _find_mark() -> tuple[int | None, int]:
    """Where others read the mark, and how long it may be: in the memory that holds the environment this program was
    started with. Asked before anything is set, or else the answer is of a copy."""
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_void_p
    place: int | None = getenv(MARKER.encode())
    return place, len(ctypes.string_at(place)) if place else 0


_MARK, _ROOM = _find_mark()


if __name__ == "__main__":
    end_as(lambda: main(int(sys.argv[1])))
