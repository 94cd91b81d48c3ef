"""Telling a webhook how a run fares: a JSON POST at each keep, at the end, and at a stop that needs a person.

It neither delays a run nor ends it: each address has a thread and a short queue of its own, and what cannot be
delivered in a few tries is dropped, which is said once. Who knows an address may write to it: only its host is shown.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Literal

from autoresearch import addresses
from autoresearch.errors import LedgerError, Misuse, UserError
from autoresearch.history import gain_over_parent
from autoresearch.ledger import Ledger
from autoresearch.records import Experiment, Measurement, Progress, Waiting
from autoresearch.report.status import Best, Report, report
from autoresearch.report.tables import first_line, value

Event = Literal["keep", "end", "stop"]

WAITING = 50  # notices to one address; beyond that the oldest is dropped
TRIES = 3
SILENCE = 5.0  # seconds without an answer after which a try is given up
CLOSING = 5.0  # seconds that the end of a run may take for its last notices
MAX_WHY = 500  # characters
MAX_TEXT = 1000  # characters
_INERT = str.maketrans({"<": "‹", ">": "›", "@": "＠"})  # what chats read as links, mentions and alarms for everybody


@dataclass(frozen=True, slots=True)
class Kept:
    """The experiment that was kept; its gain is over the tip it was built on, None for the baseline."""

    number: int
    title: str
    value: float | None
    gain: float | None
    commit: str | None


@dataclass(frozen=True, slots=True)
class Notice:
    """What is posted, as one JSON object; the same names as in `status --json` mean the same. None where unknown."""

    schema: int
    event: Event
    tag: str
    text: str  # all of it in a line for a person
    metric: dict[str, str] | None
    experiment: Kept | None  # of a keep
    experiments: dict[str, int] | None
    best: Best | None
    cost: dict[str, float | None] | None
    why: str | None  # of an end or a stop


class Notifier:
    """Looks on at a run and posts what its people want to know.

    A context manager: left with an error, it tells of a stop, and waits a moment for what is still under way. Ctrl-C
    was pressed, and Misuse was typed, by somebody who is there: neither is told.
    """

    def __init__(self, urls: Sequence[str], ledger: Ledger, tag: str, say: Callable[[str], object]) -> None:
        """Misuse if one of them is no http(s) address. `say` shows a person a line; it is called from any thread."""
        for url in urls:
            addresses.check(url)
        self._ledger = ledger
        self._tag = tag
        self._carriers = [_Carrier(url, say) for url in urls]

    def __enter__(self) -> "Notifier":
        for carrier in self._carriers:
            carrier.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, Misuse):
            why = (
                str(error)
                if isinstance(error, UserError)
                else f"a fault of autoresearch itself, {type(error).__name__}"
            )
            self._post("stop", "stopped and needs you", why=why)
        if error is None or isinstance(error, Exception):
            end = time.monotonic() + CLOSING
            for carrier in self._carriers:
                carrier.put(None)
            with suppress(KeyboardInterrupt):  # there is nothing else left to interrupt
                for carrier in self._carriers:
                    carrier.finish(end - time.monotonic())

    def end(self, why: str) -> None:
        """The run has come to a limit, for the reason given."""
        self._post("end", "ended", why=why)

    def stage(self, experiment: Experiment) -> None:
        """A keep, once its verdict stands in git and in the ledger."""
        if experiment.stage == "done" and experiment.status == "kept":
            self._post("keep", f"#{experiment.number} kept", experiment)

    def progress(self, experiment: Experiment, progress: Progress) -> None:
        """Nobody is called for that."""

    def waiting(self, experiment: Experiment, waiting: Waiting | None) -> None:
        """It goes on by itself."""

    def repeated(self, experiment: Experiment, measurement: Measurement) -> None:
        """The end tells what holds."""

    def checked(self, experiment: Experiment) -> None:
        """The end tells that, too."""

    def _post(self, event: Event, said: str, kept: Experiment | None = None, why: str | None = None) -> None:
        if not self._carriers:
            return
        standing, gain = None, None
        with suppress(LedgerError):  # then the news must do without: what is wrong with the ledger shows elsewhere
            if run := self._ledger.run(self._tag):
                standing = report(self._ledger, run, alive=True)
                gain = gain_over_parent(kept, self._ledger.experiments(self._tag), run.metric) if kept else None
        why = first_line(why)[:MAX_WHY] if why else None
        more = _verdict(kept, standing) if kept else " | ".join(filter(None, (why, _summary(standing))))
        notice = Notice(
            schema=1,
            event=event,
            tag=self._tag,
            text=f"{self._tag} {said}: {more}".translate(_INERT)[:MAX_TEXT],
            metric=standing.metric if standing else None,
            experiment=Kept(kept.number, first_line(kept.title), kept.value, gain, kept.commit) if kept else None,
            experiments=standing.experiments if standing else None,
            best=standing.best if standing else None,
            cost=standing.cost if standing else None,
            why=why,
        )
        for carrier in self._carriers:
            carrier.put(asdict(notice))


class _Carrier(threading.Thread):
    """Brings notices to one address, in order."""

    def __init__(self, url: str, say: Callable[[str], object]) -> None:
        import httpx2  # here, and not in the thread, whose import could meet the same one elsewhere half done

        super().__init__(daemon=True, name="notify")
        self._http = httpx2
        self._url = url
        self._say = say
        self._said = False
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(WAITING)

    def put(self, notice: dict[str, Any] | None) -> None:
        """Never waits: the oldest makes room. None: there will be no more."""
        while True:
            try:
                self._queue.put_nowait(notice)
                return
            except queue.Full:
                with suppress(queue.Empty):
                    self._queue.get_nowait()

    def finish(self, seconds: float) -> None:
        """Wait at most so long for what is still to be brought."""
        self.join(max(0.1, seconds))
        if self.is_alive():
            self._complain("it does not answer in time")

    def run(self) -> None:
        while (notice := self._queue.get()) is not None:
            if wrong := self._bring(notice):
                self._complain(wrong)

    def _bring(self, notice: dict[str, Any]) -> str | None:
        """Why it cannot be brought, if so."""
        wrong = None
        for number in range(TRIES):
            time.sleep(number / 2)
            try:
                with (
                    self._http.Client(timeout=SILENCE) as client,
                    client.stream("POST", self._url, json=notice) as answer,  # whose body nobody reads
                ):
                    status = answer.status_code
            except self._http.ReadTimeout:
                return "it does not answer in time"  # but has it: sent again, it would be read twice
            except (self._http.HTTPError, OSError, ValueError) as error:  # the last two: certificates and proxies
                wrong = f"no connection ({type(error).__name__})"
                continue
            if status < 300:
                return None
            wrong = f"it answers with HTTP {status}"
            if status < 500 and status != 429:
                break
        return wrong

    def _complain(self, wrong: str) -> None:
        if not self._said:
            self._said = True
            host = addresses.shown(self._url)
            self._say(f"note: {host} cannot be notified: {wrong}; this is said once, and the run goes on")


def _verdict(kept: Experiment, standing: Report | None) -> str:
    name = standing.metric["name"] if standing else "value"
    return f"{first_line(kept.title)}; {name} {value(kept.value)}, {first_line(kept.reason or '')}"


def _summary(standing: Report | None) -> str:
    if standing is None:
        return ""
    parts = [f"{standing.experiments['kept']} of {standing.experiments['total']} experiments kept"]
    if standing.best:
        parts.append(f"best {standing.metric['name']} {value(standing.best.value)} (#{standing.best.number})")
    if standing.cost["llm_usd"] is not None:
        parts.append(f"${standing.cost['llm_usd']:.2f} spent")
    return ", ".join(parts)
