"""Attacks, each for real: what gets through without a mechanism, and does not with it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from autoresearch.harness.sandbox import landlock, policy, probe

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a sandbox is made on Linux alone")

NAMESPACES = {"user", "pid", "ipc", "net", "mount"}
PROTECTS = {
    "namespaces": {"attributes", "signals", "memory", "shared memory", "processes", "leftovers"},
    "landlock": {"files", "memory"},
    "seccomp": {"attributes", "network", "kernel"},
    "landlock and seccomp": {"files", "attributes", "network", "memory", "shared memory", "kernel", "limits"},
}


@pytest.fixture(scope="module")
def here() -> tuple[str, ...]:
    """The mechanisms of this machine."""
    return probe.mechanisms()[0]


def attacked(mechanisms) -> dict[str, str | None]:
    """What each attack achieved, against a process that these confine."""
    command = [sys.executable, "-P", "-m", "autoresearch.harness.sandbox.probe", "cpu", ",".join(mechanisms)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["achieved"]


@pytest.fixture(scope="module")
def unconfined() -> dict[str, str | None]:
    return attacked(())


def test_without_a_sandbox_every_attack_gets_through(unconfined):
    assert [name for name, done in unconfined.items() if not done] == []


@pytest.mark.parametrize("name", PROTECTS)
def test_what_one_mechanism_protects(name, here, unconfined):
    wanted = {"namespaces": NAMESPACES}.get(name, set(name.split(" and ")))
    chosen = [mechanism for mechanism in here if mechanism in wanted]
    if not (chosen if name == "namespaces" else wanted == set(chosen)):
        pytest.skip(f"this machine refuses {name}")
    found = attacked(chosen)
    assert {protection: found[protection] for protection in PROTECTS[name]} == dict.fromkeys(PROTECTS[name])
    if landlock.scopes_signals() and "landlock" in chosen:
        assert found["signals"] is found["leftovers"] is None


def test_all_together_let_nothing_through(here):
    if not {"pid", "landlock", "seccomp"} <= set(here):
        pytest.skip(f"this machine has no more than {', '.join(here)}")
    assert [name for name, done in attacked(here).items() if done] == []


def test_a_mechanism_that_is_asked_for_works_or_nothing_runs(here):
    """In a process that may make no namespaces."""
    if "seccomp" not in here:
        pytest.skip("this machine refuses seccomp")
    code = (
        "from pathlib import Path\n"
        "from autoresearch.harness.sandbox import confine, probe, seccomp\n"
        "confine.drop_privileges()\n"
        "seccomp.restrict(ipc=True, attributes=True)\n"
        "print(probe.mechanisms()[0])\n"
        "try: confine.Sandbox(['net'], Path.cwd()).unshare()\n"
        "except OSError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    working, refused = done.stdout.splitlines()
    assert not NAMESPACES & set(eval(working)) and "seccomp" in working
    assert refused == "[Errno 1] unshare: Operation not permitted"


def test_what_is_readable_is_what_is_installed_and_never_a_home_or_a_repository(tmp_path, monkeypatch):
    """One whose folders are on Python's path is readable as far as it was imported."""
    project = tmp_path / "project"
    (project / ".git").mkdir(parents=True)
    (project / "package").mkdir()
    (project / "package" / "__init__.py").touch()
    (project / "module.py").touch()
    (project / "secret").touch()
    private = tmp_path / "cache" / "scratch"
    private.mkdir(parents=True)
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    for folder in (project, Path.home(), private.parent, workspace):
        monkeypatch.syspath_prepend(str(folder))
    import module  # type: ignore[import-not-found]  # noqa: F401
    import package  # type: ignore[import-not-found]  # noqa: F401

    home = tmp_path / "home"  # that the system knows nothing of
    for folder in (home / "bin", home / ".local" / "bin"):
        folder.mkdir(parents=True)
    path = f"{Path.home()}:{home}/bin:{home}/.local/bin:/usr/bin"
    environ = {"LD_LIBRARY_PATH": f"{project}:{private}", "PATH": path, "CUDA_HOME": "/"}
    found = policy.installation(environ, private, str(home))
    assert {home / "bin", home / ".local" / "bin"} <= set(found)
    assert {project / "package", project / "module.py"} <= set(found)
    assert Path(sys.prefix).resolve() in found
    secrets = (project, workspace, Path.home(), private, private.parent, home, home / ".local")
    for secret in (*(folder / "secret" for folder in secrets), Path("/etc/shadow")):
        assert not [path for path in found if secret.is_relative_to(path.resolve())], secret


def test_a_program_that_is_started_inside_names_its_threads_as_drivers_do(here, tmp_path):
    """CUDA's driver does, where a compiler starts processes of its own; and writes nothing else below /proc."""
    if not {"pid", "mount", "landlock"} <= set(here):
        pytest.skip(f"this machine has no more than {', '.join(here)}")
    started = (
        "import os\nfrom pathlib import Path\n"
        "(Path('/proc/self/task') / str(os.getpid()) / 'comm').write_text('named')\n"
        "print(Path('/proc/self/comm').read_text().strip())\n"
        "for name in ('sys/kernel/core_pattern', 'sys/vm/overcommit_memory'):\n"
        "    try: Path('/proc', name).open('r+b')\n"
        "    except OSError as error: print(error.strerror)\n"
    )
    code = (
        "import os, subprocess, sys\n"
        "from pathlib import Path\n"
        "from autoresearch.harness.sandbox import confine, probe\n"
        f"own = Path({str(tmp_path / 'own')!r})\n"
        f"work = lambda write: os.write(write, subprocess.check_output([sys.executable, '-c', {started!r}]))\n"
        f"print(probe._confined(confine.Sandbox({here!r}, own.parent), own, work).decode())\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:-2] == ["named", *2 * ["Read-only file system"]], done.stderr


def test_one_that_is_ended_in_the_middle_leaves_nothing():
    """As it is when the command is interrupted that waits for it."""
    command, code = [sys.executable, "-P", "-m", "autoresearch.harness.sandbox.probe"], 0
    with tempfile.TemporaryDirectory() as folder:  # of a short name, as those of sockets must be
        while code == 0:  # or it was done before it was seen
            with subprocess.Popen(command, env=os.environ | {"TMPDIR": folder}, stdout=subprocess.PIPE) as process:
                while process.poll() is None and not any(Path(folder).glob("autoresearch-probe-*/own")):
                    time.sleep(0.001)
                process.terminate()
                code = process.wait(60)
            assert list(Path(folder).iterdir()) == []
    assert code == 128 + signal.SIGTERM
