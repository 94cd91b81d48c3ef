"""Killing a run at random moments, and starting it again."""

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.conftest import Lab
from tests.kills.rules import Rules
from tests.kills.seen import (
    CHILDREN,
    CTRL_C,
    FORKS,
    JUDGE,
    JUDGE_FORKS,
    JUDGE_SUPERVISOR,
    NAMESPACE,
    PARENT,
    SERVER,
    below,
    left_running,
    nothing_left,
    rows,
    where,
)

PATIENCE = 120.0  # seconds in which something must happen, on a busy machine
ROUND = 8  # experiments after which a run ends by itself, is looked at, and is sent on
START = 5.0  # seconds after a start within which one kill of five comes, ...
EXPERIMENT = 3.0  # ... and after the first measurement has begun, for the others
AGAIN = 0.5  # seconds within which Ctrl-C is pressed once more, every other time
PAUSE = 1.5  # seconds at most between two kills of its processes
LIFE = {
    FORKS: 1.5,
    JUDGE: 0.8,
    JUDGE_SUPERVISOR: 0.8,
    JUDGE_FORKS: 0.8,
}  # seconds within which a process is killed, ...
SHORT = 0.3  # ... and any other one, if it lives so long


class Stuck(Exception):
    """A run that lives and does not go on."""


@dataclass
class Siege:
    """A run that is killed, started again, and killed again."""

    lab: Lab
    draw: random.Random
    round: int = ROUND
    spare_baseline: bool = False  # it crashes if its processes are killed, and then the run ends and begins anew
    say: Callable[[str], None] = lambda line: None
    hits: Counter[tuple[str, str]] = field(default_factory=Counter)  # by victim and where
    broken: list[str] = field(default_factory=list)  # what did not hold
    _seen: set[str] = field(default_factory=set)  # what has ever been there to be killed
    _killed: list[str] = field(default_factory=list)  # since the run was started

    def lay(self, victims: list[str]) -> None:
        """Kill or interrupt these, one after the other, and then let the run come to its end."""
        rules, left, target = Rules(self.lab), victims[::-1], self.round
        while True:
            process = self._start(target)
            try:
                self._fight(process, left)
                code = process.wait(PATIENCE)
            except (Stuck, subprocess.TimeoutExpired) as error:
                self.broken.append(f"{error} ({where(self.lab, below(process.pid))})")
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return
            self._note(rules, code)
            if code == 0:
                if not left:
                    return
                target += self.round

    def _start(self, target: int) -> subprocess.Popen[str]:
        self._killed.clear()
        agent = shlex.join([sys.executable, "-I", "-S", str(self.lab.home.parent / "agent.py")])
        command = ("run", "--program", "programs/quick.md", "--strict", "--experiments", target)
        with self._said.open("w") as said:
            return self.lab.start(*command, "--agent", f"command:{agent}", stdout=said, stderr=said)

    @property
    def _said(self) -> Path:
        return self.lab.home.parent / "said.log"

    def _note(self, rules: Rules, code: int) -> None:
        """What does not hold now that the run has ended, or was killed."""
        last = self.hits.total()
        broken = [] if nothing_left(self.lab) else [f"processes are left: {left_running(self.lab)}"]
        broken += rules.broken(ended=code == 0)
        baseline = next(iter(rows(self.lab)), None)
        begun = baseline and (baseline.stage != "done" or baseline.status == "kept")
        said = self._said.read_text()
        # A fork server that was starting, and the one in its place: that ends a run, by docs/processes.md.
        twice = self._killed[-2:] == [FORKS, FORKS] and "Python cannot be started: it was ended by signal 9." in said
        pressed = self._killed[-1:] == [CTRL_C]
        if pressed and code == 130 and "interrupted; nothing is lost. The same command again goes on:" not in said:
            broken.append(f"after Ctrl-C it said: {said[-500:]}")
        fine = (0, 130) if pressed else (0, -signal.SIGKILL)
        if code not in fine and (begun or baseline is None) and not twice:
            broken.append(f"the run ended with code {code}: {said[-500:]}")
        self.broken += [f"after {last} kills: {what}" for what in broken]
        for what in broken:
            self.say(f"BROKEN: {what}")

    def _fight(self, process: subprocess.Popen[str], left: list[str]) -> None:
        """Kill what is left to be killed, until the run has ended."""
        while left and process.poll() is None:
            kind = left[-1]
            found = self._parent(process) if kind in (PARENT, CTRL_C) else self._child(process, kind)
            if found is None:
                if process.poll() is None:  # there is no such process on this machine
                    left[:] = [PARENT if other == kind else other for other in left]
                continue
            victim, at = found
            with suppress(psutil.NoSuchProcess):
                victim.send_signal(signal.SIGINT if kind == CTRL_C else signal.SIGKILL)
                left.pop()
                self.hits[kind, at] += 1
                self._killed.append(kind)
                self.say(f"{self.hits.total()}: {kind}, {at}, #{len(rows(self.lab))}")
                if kind == CTRL_C and self.draw.random() < 0.5:
                    time.sleep(self.draw.uniform(0, AGAIN))
                    victim.send_signal(signal.SIGINT)
                if kind in (PARENT, CTRL_C):
                    return

    def _parent(self, process: subprocess.Popen[str]) -> tuple[psutil.Process, str] | None:
        """The run itself, at a random moment; None if it has ended."""
        moment = self.draw.uniform(0, START)
        if self.draw.random() < 0.8:
            deadline = time.monotonic() + PATIENCE
            while process.poll() is None and not below(process.pid).keys() - {FORKS}:
                if time.monotonic() > deadline:
                    raise Stuck(f"nothing was measured for {PATIENCE:.0f} seconds")
                time.sleep(0.05)
            moment = self.draw.uniform(0, EXPERIMENT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(moment)
            return None
        return psutil.Process(process.pid), where(self.lab, below(process.pid))

    def _child(self, process: subprocess.Popen[str], kind: str) -> tuple[psutil.Process, str] | None:
        """One of its processes, at a random moment of its life; None if the run has ended, or never had one."""
        with suppress(subprocess.TimeoutExpired):
            process.wait(self.draw.uniform(0, PAUSE))
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            if self.spare_baseline and not any(row.stage == "done" for row in rows(self.lab)):
                time.sleep(0.1)
                continue
            alive = below(process.pid)
            self._seen |= alive.keys()
            if kind not in alive:
                if kind == NAMESPACE and kind not in self._seen and SERVER in self._seen:
                    return None
                time.sleep(0.02)
                continue
            chosen = self.draw.choice(alive[kind])
            time.sleep(self.draw.uniform(0, LIFE.get(kind, SHORT)))
            alive = below(process.pid)
            if chosen in alive.get(kind, ()):
                return chosen, where(self.lab, alive)
        if process.poll() is None:
            raise Stuck(f"there was no {kind} for {PATIENCE:.0f} seconds")
        return None


def drawn(draw: random.Random, kills: int, interrupts: int = 0) -> list[str]:
    """Whom to kill: the run itself in two of five, and its processes in turn; and so many interrupts. In random
    order."""
    parents = [PARENT] * max(min(1, kills), kills * 2 // 5)
    children = [CHILDREN[number % len(CHILDREN)] for number in range(kills - len(parents))]
    return draw.sample(parents + children + [CTRL_C] * interrupts, k=kills + interrupts)
