"""What keeps a candidate's processes in, on this machine: found out once, by attacks on a sandbox made for that.

The sandbox itself is the harness's (`harness.sandbox`), whose processes apply it to themselves.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from autoresearch.errors import EngineError

Mode = Literal["auto", "strict", "off"]

_PATIENCE = 60.0  # seconds
_CLEARING = 5.0  # seconds to remove what was made for the attacks
# By which it is this very Python, on that GPU, and knows whose home it is to keep from the candidate.
_NEEDED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "CUDA_VISIBLE_DEVICES", "HOME")
_KERNEL = "Run a Linux kernel with Landlock (5.19 or newer, with landlock in its list of security modules)"
_SPACES = (
    "Allow user namespaces (sysctl kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0), "
    "or give the container --cap-add SYS_ADMIN"
)
_CALLS = "Run it on x86_64 or aarch64, with a kernel that has seccomp filters"
# What is protected: in words for a person, and what to do where it is not.
_PROTECTIONS = {
    "files": ("files outside its own folder can neither be read nor written", _KERNEL),
    "attributes": ("modes and times of other files cannot be changed", _SPACES),
    "network": ("no network, and no service of this machine", _CALLS),
    "signals": ("other processes cannot be signalled", _SPACES),
    "memory": ("memory and descriptors of other processes are out of reach", _SPACES),
    "shared memory": ("no memory is shared with other processes", _SPACES),
    "kernel": ("no namespaces, keyrings and the like", _CALLS),
    "limits": ("files are bounded, and no core is dumped", "Look at the limits that this program is started with"),
    "processes": ("a fork bomb is ended", _SPACES),
    "leftovers": ("no process outlives its experiment", _SPACES),
}


@dataclass(frozen=True, slots=True)
class Protection:
    """One thing that a candidate's processes are kept from, or not."""

    name: str
    works: bool
    found: str  # one line
    remedy: str


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What candidates' processes are confined by, and what that keeps them from."""

    mechanisms: tuple[str, ...]  # of the kernel; none: no sandbox
    protections: tuple[Protection, ...]
    why: str = ""  # there are none, where that is not what was asked for

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of what is not protected."""
        return tuple(protection.name for protection in self.protections if not protection.works)

    def describe(self) -> str:
        """For a ledger: `full`, `none`, or what is missing."""
        if not self.mechanisms:
            return "none"
        return f"without {', '.join(self.missing)}" if self.missing else "full"

    def note(self) -> str | None:
        """What a user is to know of it, in a line; None if nothing is missing."""
        if not self.mechanisms:
            return f"no sandbox{self.why and f' ({self.why})'}: the code that is trained runs with all your rights"
        if not self.missing:
            return None
        return f"the sandbox does not protect {', '.join(self.missing)} on this machine: see `autoresearch doctor`"


OFF = Sandbox((), ())


def choose(mode: Mode, environ: Mapping[str, str], device: str = "cpu") -> Sandbox:
    """What a run has. environ: the caller's. device: cpu, cuda or mps. EngineError in mode `strict` if a protection is
    missing."""
    if mode == "off":
        return OFF
    found = examine(environ, device)
    if mode == "strict":
        for protection in found.protections:
            if not protection.works:
                remedy = f"{protection.remedy}; or run with --sandbox auto."
                raise EngineError(f"the sandbox is not whole: {protection.name}: {protection.found}.", remedy)
    return found


def examine(environ: Mapping[str, str], device: str = "cpu") -> Sandbox:
    """What works on this machine, each protection attacked for real: half a second, once in a process. None where the
    device cannot be used inside. environ: the caller's. EngineError if Python cannot be started."""
    return _examined(tuple((name, environ[name]) for name in _NEEDED if name in environ), device)


@cache
def _examined(environ: tuple[tuple[str, str], ...], device: str) -> Sandbox:
    if sys.platform != "linux":
        return _none(f"a sandbox is made on Linux alone, and this is {sys.platform}")
    command = [sys.executable, "-P", "-m", "autoresearch.harness.sandbox.probe", device]
    try:
        found = json.loads(_printed(command, dict(environ)).splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, LookupError) as error:
        raise EngineError(
            f"the sandbox cannot be tried: {error}.", "Run with --sandbox off, at your own risk."
        ) from None
    if found["fails"]:
        return _none(f"in it {found['fails']}")
    return Sandbox(tuple(found["mechanisms"]), _protections(found["achieved"], found["refused"]))


def _printed(command: Sequence[str], environ: Mapping[str, str]) -> bytes:
    """By a process that removes what it has made if this one is interrupted. SubprocessError if it fails."""
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            out, _ = process.communicate(timeout=_PATIENCE)
        except BaseException:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_CLEARING)
            process.kill()
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return out


def _none(why: str) -> Sandbox:
    return Sandbox((), _protections(dict.fromkeys(_PROTECTIONS, why), {}), why)


def _protections(achieved: Mapping[str, str | None], refused: Mapping[str, str]) -> tuple[Protection, ...]:
    why = "".join(f"; {name}: {reason}" for name, reason in refused.items())
    return tuple(
        Protection(name, not achieved[name], f"{achieved[name]}{why}" if achieved[name] else words, remedy)
        for name, (words, remedy) in _PROTECTIONS.items()
    )
