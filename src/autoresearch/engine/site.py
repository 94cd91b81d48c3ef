"""What training and scoring of one measurement share: the engine's bench, children and their logs, disk, deadline."""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from autoresearch import steady
from autoresearch.engine import caches, children, environment
from autoresearch.engine.events import Tail
from autoresearch.engine.files import remove, size
from autoresearch.engine.forkserver import Child, ForkServer
from autoresearch.errors import DeadlinePassed, EngineError
from autoresearch.forks import Mode
from autoresearch.records import Kept, Progress, Trial
from autoresearch.tasks import Fault, ScoreResult
from autoresearch.units import format_size

Watch = Callable[[Progress], None]

_POLL, _SOON = 0.05, 0.01  # seconds between looks at a child
_LOG = 256_000  # bytes of a log's end that are kept
_LOG_LIMIT = 64_000_000  # a child's log is cut to its end when it is longer
_DISK = 20 * 10**9  # bytes that a measurement's files may take: weights, and what compilers keep
_LIKE_THE_TIP = 2  # times the tip's files are what those of an honest experiment may take
_LOOK = 1.0  # seconds between looks at the disk
_LITTLE_SPACE = 50_000_000  # bytes free on the disk, under which a crash is the machine's fault


@dataclass(frozen=True, slots=True)
class Bench:
    """What every measurement of an engine finds there: see LocalEngine."""

    device: str
    device_name: str  # of the GPU or the processor
    hardware: str  # what a process has of the machine, in a line
    gpu: str | None  # UUID of the NVIDIA GPU
    memory: int | None  # bytes of the GPU, where they are known
    fingerprint: str
    sandbox: str  # in a word or a line, for the ledger
    torch: str  # the version that the fork server has imported
    scratch: Path
    compiled: Path  # where compilers keep their files while a measurement lasts
    environ: Mapping[str, str]
    fixed_grace: float | None
    fixed_score_limit: float | None

    def grace(self, budget: float) -> float:
        """Seconds after the budget in which the last step ends and the weights are saved."""
        return self.fixed_grace if self.fixed_grace is not None else max(20.0, 0.05 * budget)

    def score_limit(self, trial: Trial) -> float:
        """Seconds a scoring may take: as long as start-up and training, and never less than a minute more."""
        if self.fixed_score_limit is not None:
            return self.fixed_score_limit
        return trial.settings.startup_limit + max(60.0, trial.settings.budget)


class Crash(Exception):
    """A measurement ends without a score."""

    def __init__(
        self,
        fault: Fault,
        outcome: Literal["crashed", "quarantined", "stopped"] = "crashed",
        score: ScoreResult | None = None,
        suspected: bool = False,
    ) -> None:
        """score: of the scorer, if it was that which ended. suspected: the machine, as with a signal."""
        self.fault, self.outcome, self.score, self.suspected = fault, outcome, score, suspected


@dataclass
class Site:
    """One measurement's place at the bench."""

    bench: Bench
    server: Callable[[], ForkServer]  # alive: of which the children are forked
    trial: Trial
    watch: Watch
    logs: dict[str, str] = field(default_factory=dict)  # of the children, by the name of the file
    tail: Tail | None = None  # of the training's events
    began: float = field(default_factory=time.monotonic)  # put off by waiting, and by what is done again
    _homes: list[Path] = field(default_factory=list)  # of the children that there are
    _looked: float = 0.0

    def __post_init__(self) -> None:
        """EngineError if files like those of the tip would not fit the disk: no patch is to blame for that."""
        free = shutil.disk_usage(self.bench.scratch).free
        self._disk = min(_DISK, free // 2)
        if self._disk < (needed := _LIKE_THE_TIP * _size(self.trial.tip)):
            raise EngineError(
                f"The disk of {self.bench.scratch} has {format_size(free)} left, and an experiment of this run "
                f"may take {format_size(needed)}, and is to leave as much.",
                "Free some space and start again.",
            )

    @contextlib.contextmanager
    def child(
        self, mode: Mode, task: Mapping[str, object], home: Path, own: Mapping[str, str], fds: tuple[int, ...] = ()
    ) -> Iterator[Child]:
        """A child of the measurement in `home`. own: environment beside that which all have. In the end none of its
        processes is left, and its output is kept."""
        folders = environment.own(home, self.compiled(mode))
        env = {**environment.passed_on(self.bench.environ), **folders, **own}
        if not self._homes:  # else the other child is to learn of the server's end before there is a new one
            self._server = self.server()
        child = Child(self._server, mode, task, home / f"{mode}.log", env, *fds)
        self._homes.append(home)
        try:
            yield child
        finally:
            self._homes.remove(home)
            child.end()
            children.kill_marked(home)
            self.logs[f"{mode}.log"] = child.output(_LOG)
            child.close()

    def clear(self, mode: Mode | None = None) -> None:
        """Nothing is there that compilers have left: in this mode, or at all."""
        remove(self.compiled(mode) if mode else self.bench.compiled)

    def lend(self, mode: Mode, kept: str | None) -> None:
        """Give compilers a copy of what was kept to begin with."""
        caches.lend(kept, self.compiled(mode))

    def compiled(self, mode: Mode) -> Path:
        """Where compilers keep their files."""
        return self.bench.compiled / mode

    def export(self, home: Path) -> str:
        """Path of the file to train, as the house knows it, in a folder of its own."""
        source = home / "source" / Path(self.trial.settings.edit[0]).name
        source.parent.mkdir()
        source.write_text(self.trial.source, encoding="utf-8")
        return str(source)

    def pause(self, child: Child, soon: bool = False) -> str | None:
        """A moment, or less if a child ends; why they are to be ended, in a line, if their files take too much.
        DeadlinePassed if the run's time is up. soon: for what is waited for is due."""
        deadline = self.trial.deadline
        if deadline is not None and steady.now() > deadline:
            raise DeadlinePassed("the run's time is up in the middle of an experiment")
        child.trim(_LOG_LIMIT, _LOG)
        child.wait(_SOON if soon else _POLL)
        if time.monotonic() < self._looked + _LOOK:
            return None
        found = size([*self._homes, self.bench.compiled], self._disk)
        self._looked = time.monotonic()
        if found > self._disk:
            scarce = ", half of what the disk had left" if self._disk < _DISK else ""
            return f"the files it has written take more than {format_size(self._disk)}{scarce}"
        # Not by files that have names, so perhaps by one that has none, and is gone with who has opened it.
        return "the disk was full until it was ended" if self.is_full() else None

    def check_space(self) -> None:
        """EngineError if the disk is full when all have ended, so that whatever went wrong is the machine's fault."""
        if self.is_full():
            raise EngineError(f"The disk of {self.bench.scratch} is full.", "Free some space and start again.")

    def is_full(self) -> bool:
        """Whether the disk is."""
        with contextlib.suppress(FileNotFoundError):  # the candidate can have removed the folder
            return shutil.disk_usage(self.bench.scratch).free < _LITTLE_SPACE
        return False

    def show(self, phase: str, note: str | None = None) -> None:
        """Tell who looks on how far it is."""
        tail = self.tail
        self.watch(
            Progress(
                phase=phase,
                seconds=time.monotonic() - self.began,
                point=tail.points[-1] if tail and tail.points else None,
                tokens_per_second=tail.tokens_per_second if tail else None,
                memory=tail.memory if tail else None,
                note=note,
            )
        )


def _size(kept: Kept | None) -> int:
    """Bytes of the weights and of what was compiled, as far as it is there."""
    if kept is None:
        return 0
    weights = 0
    with contextlib.suppress(OSError):
        weights = Path(kept.weights).stat().st_size
    return weights + size([Path(kept.train_cache), Path(kept.open_cache)], _DISK)
