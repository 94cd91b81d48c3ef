"""One experiment after another on this machine."""

import contextlib
import errno
import importlib.metadata
import time
import weakref
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

from autoresearch.engine import children, faults
from autoresearch.engine.begun import Begun
from autoresearch.engine.device import cpu_name, describe_hardware, resolve_device
from autoresearch.engine.fingerprint import harness_fingerprint
from autoresearch.engine.forkserver import ForkServer
from autoresearch.engine.gpus import first_alone, visible_gpus
from autoresearch.engine.measuring import Measuring
from autoresearch.engine.sandbox import Mode, Sandbox, choose
from autoresearch.engine.site import Bench, Site, Watch
from autoresearch.engine.turn import turn
from autoresearch.errors import CorpusError, EngineError
from autoresearch.records import Measurement, TokenFile, Trial
from autoresearch.settings import Device

_REMEDIES = {  # of what the machine lacks
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free some space on that disk."),
    **dict.fromkeys((errno.EROFS, errno.EIO), "Look at that disk."),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "Allow more open files: ulimit -n."),
    errno.ENOMEM: "Free some memory.",
}


class LocalEngine:
    """Measures trials on one device of this machine.

    scratch: a folder outside any repository, for files that last as long as a measurement, and for the lock by which
    engines with the same scratch take turns on a device.
    environ: the caller's environment, of which children get an allow-list. label: what is apart from other runs.
    grace: seconds after the budget within which training must have returned. score_limit: seconds for a scoring.
    sandbox: what keeps the candidate's processes in, or how that is to be found out. begun: what imports already what
    a measurement needs, in a process that lasts as long as the engine; or else that begins now.
    EngineError if the device is not there, a sandbox that has to be whole is not, or Python cannot be started.
    """

    def __init__(
        self,
        scratch: Path,
        environ: Mapping[str, str],
        label: str,
        device: Device = "auto",
        grace: float | None = None,
        score_limit: float | None = None,
        sandbox: Sandbox | Mode = "auto",
        begun: Begun | None = None,
    ) -> None:
        self.device = resolve_device(device, environ)
        self._scratch, self._environ, self._asked = scratch / label, dict(environ), sandbox
        self._start(begun=begun)  # first: it imports while the rest is found out
        self.hardware = describe_hardware(self.device, environ)
        self.fingerprint = harness_fingerprint()
        gpus = visible_gpus(environ) if self.device == "cuda" else []
        name = "-".join([self.device, *(gpu.uuid for gpu in gpus[:1])])
        self._lock = scratch / f"device-{name}.lock"
        memory = gpus[0].memory if gpus else None
        self._bench = Bench(
            self.device,
            gpus[0].name if gpus else cpu_name() if self.device == "cpu" else self.device,
            f"{self.hardware}, {environ.get('OMP_NUM_THREADS', 'all')} threads",
            gpus[0].uuid if gpus else None,
            memory,
            self.fingerprint,
            self.sandbox.describe(),
            importlib.metadata.version("torch"),
            self._scratch,
            scratch / f"compiled-{name}",
            {**self._environ, **first_alone(environ, gpus)},  # no other one is locked or watched
            grace,
            score_limit,
        )

    @cached_property
    def sandbox(self) -> Sandbox:
        """What keeps the candidate's processes in: found out as the first server starts, while that imports."""
        asked = self._asked
        return asked if isinstance(asked, Sandbox) else choose(asked, self._environ, self.device)

    def reap(self) -> int:
        """End what a killed predecessor of the same label left running, and remove its files. Call before measuring.
        Returns how many processes were ended."""
        return children.reap(self._scratch)

    def measure(self, trial: Trial, watch: Watch | None = None) -> Measurement:
        """Train and score. What the candidate does is a value; EngineError and CorpusError are not its fault.

        Waits while another process measures on the same device. `watch` is told what is seen, several times a second
        at most. DeadlinePassed at the trial's deadline.
        """
        watch = watch or (lambda _: None)
        self._alive()  # and so at its imports while this waits for its turn
        for tokens in (trial.corpus.train, trial.corpus.validation):
            _check_tokens(tokens)  # or else the candidate would be blamed
        with turn(self._lock, trial.deadline, watch), self._blamed(), children.home_for(self._scratch) as home:
            site = Site(self._bench, self._alive, trial, watch)
            faults.await_gpu(self._bench.gpu, trial.deadline, site.show)
            site.began = time.monotonic()
            return Measuring(site, home).run()

    def close(self) -> None:
        """End its processes; otherwise that happens when the engine is let go of, at the latest with this process."""
        self._end()

    def _alive(self) -> ForkServer:
        """The fork server; another one, if it has ended: a candidate, or somebody outside, may have killed it."""
        if not self._server.forks.alive():
            self.close()
            if (now := importlib.metadata.version("torch")) != self._bench.torch:
                raise EngineError(
                    f"PyTorch was {self._bench.torch} when this began, and is {now}.", "Start again, or put it back."
                )
            self._start(replaceable=self._server.forks.ready)
        return self._server

    def _start(self, replaceable: bool = True, begun: Begun | None = None) -> None:
        """replaceable: unless it replaces one that has never been ready: a second one is not killed by chance."""
        with self._blamed():
            self._server = ForkServer(
                self.device, self._scratch, self._environ, lambda: self.sandbox.mechanisms, replaceable, begun
            )
        self._end = weakref.finalize(self, self._server.close)

    @contextlib.contextmanager
    def _blamed(self) -> Iterator[None]:
        """EngineError for what the machine lacks."""
        try:
            yield
        except OSError as error:
            if (remedy := _REMEDIES.get(error.errno or 0)) is None:
                raise
            raise EngineError(f"{error.filename or self._scratch}: {error.strerror}.", remedy) from error


def _check_tokens(tokens: TokenFile) -> None:
    """CorpusError if a token file is not there or not whole."""
    path = Path(tokens.path)
    if not path.is_file() or path.stat().st_size != 2 * tokens.tokens or not Path(tokens.token_bytes).is_file():
        raise CorpusError(f"{path} is missing or not whole.", "Run autoresearch prepare again.")
