"""What forked processes are given and what not, and that nothing is left of them."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from autoresearch import compilers, forks
from autoresearch.engine.forkserver import ForkServer
from autoresearch.engine.gpus import VISIBLE, visible_gpus
from autoresearch.errors import EngineError
from autoresearch.forks import FIRST, LOST, MARKER, Gone
from autoresearch.harness.sandbox import landlock
from autoresearch.records import TokenFile
from autoresearch.tasks import TrainTask
from tests.harness import zoo
from tests.harness.memory import holds
from tests.harness.scoring import ENVIRON, score

pytestmark = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="processes are looked at through /proc")

STALL = "open('pid', 'w').write(str(os.getpid()))\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
ESCAPE = "subprocess.run(['sh', '-c', 'setsid sleep 600 & echo $! > stray'], env={'PATH': os.environ['PATH']})\n"


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[ForkServer]:
    """For tests that do not kill it."""
    server = ForkServer("cpu", tmp_path_factory.mktemp("scratch"), ENVIRON)
    yield server
    server.close()


@pytest.fixture
def server(tmp_path) -> Iterator[ForkServer]:
    server = ForkServer("cpu", tmp_path / "scratch", ENVIRON)
    yield server
    server.close()


class Task:
    """A training whose file does something else, in a folder of its own."""

    def __init__(self, server: ForkServer, folder: Path, code: str, *fds: int, **env: str) -> None:
        folder.mkdir()
        (folder / "file.py").write_text(f"import os, subprocess, sys, time\n{code}")
        tokens = TokenFile("nowhere", vocab_size=256, bos=255, tokens=0, bytes=0, token_bytes="nowhere")
        task = TrainTask(str(folder / "file.py"), str(folder), 0, "cpu", 1.0, None, tokens, 8)
        with (folder / "log").open("wb") as log:
            self.number = server.forks.start(
                "train", asdict(task), {**ENVIRON, MARKER: str(folder), **env}, folder, log.fileno(), *fds
            )
        self.server, self.folder = server, folder

    def file(self, name: str) -> str:
        """What it has written to a file, once it is there."""
        until(lambda: (self.folder / name).exists() and (self.folder / name).stat().st_size)
        return (self.folder / name).read_text().strip()

    @property
    def worker(self) -> psutil.Process:
        return psutil.Process(int(self.file("pid")))

    def end(self) -> int | None:
        """Wait for its end: the exit code."""
        until(lambda: self.server.forks.exit_code(self.number) is not None)
        return self.server.forks.exit_code(self.number)


def until(condition: Callable[[], object], seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def alive(pid: int | psutil.Process) -> bool:
    try:
        process = psutil.Process(pid) if isinstance(pid, int) else pid
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def open_files(pid: int) -> list[str]:
    """What a process holds, by descriptor: 'socket', 'pipe:[17]', a path."""
    found = []
    for link in sorted(Path(f"/proc/{pid}/fd").iterdir(), key=lambda path: int(path.name)):
        target = str(link.readlink())
        found.append("socket" if target.startswith("socket:") else target.removesuffix(" (deleted)"))
    return found


def test_a_child_has_what_its_order_says_and_nothing_else(shared, tmp_path):
    read, write = os.pipe()
    os.write(write, b"handed over")
    os.close(write)
    code = f"print(os.environ, os.getcwd(), os.read({FIRST}, 100), sys.stdin.read(), flush=True)\nos._exit(7)"
    task = Task(shared, tmp_path / "task", code, read, HOME="/a/home")
    os.close(read)
    assert task.end() == 7
    given = ENVIRON | {MARKER: str(task.folder), "HOME": "/a/home"}
    assert task.file("log") == f"environ({given}) {task.folder} b'handed over'"


def test_a_child_carries_its_folder_where_others_read_it_and_so_does_what_it_forks(shared, tmp_path):
    code = "if os.fork(): time.sleep(600)\n" + STALL
    task = Task(shared, tmp_path / "task", code)
    for process in (task.worker, task.worker.parent()):
        assert process.environ()[MARKER].rstrip("/") == str(task.folder)
    assert psutil.Process(shared.pid).environ()[MARKER].rstrip("/") != str(task.folder)
    shared.end(task.number)


@pytest.mark.parametrize(("code", "expected"), [("pass", 0), ("os._exit(3)", 3), ("os.kill(os.getpid(), 9)", 137)])
def test_exit_codes_are_told(code, expected, shared, tmp_path):
    assert Task(shared, tmp_path / "task", code).end() == expected


def test_the_compiler_is_imported_as_far_as_optimizers_ask_for_it_and_no_thread_is_there_to_be_lost(shared, tmp_path):
    names = ("torch", "torch._dynamo", "torch._inductor.compile_fx", "triton")
    task = Task(shared, tmp_path / "task", f"print([n for n in {names} if n in sys.modules])")
    assert task.end() == 0
    assert task.file("log").startswith("['torch', 'torch._dynamo']")
    assert psutil.Process(shared.pid).num_threads() == 1


def test_torch_counts_gpus_where_preload_answers_for_it():
    """Or else NVML would be woken in the server, and count wrongly in its children's children."""
    assert callable(torch.cuda._device_count_nvml)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("named", ["by place", "by UUID"])
def test_a_child_of_a_server_with_a_gpu_has_the_compiler_and_the_gpu(named, tmp_path):
    code = (
        "assert 'torch._inductor.compile_fx' in sys.modules\n"
        "import torch\n"
        "from triton.runtime import cache, driver\n"
        "assert cache.triton_key.cache_info().currsize\n"
        "assert driver._default and 'utils' in vars(driver._default)\n"
        "assert torch.cuda.device_count() == 1\n"
        "ones = torch.ones(1000, device='cuda')\n"
        "print(float(torch.compile(lambda x: (x * 2 + 1).relu())(ones).sum()), flush=True)\n"
        "os._exit(5)"
    )
    gpus = visible_gpus(os.environ)
    last = gpus[-1].uuid if named == "by UUID" else os.environ.get(VISIBLE, str(len(gpus) - 1)).split(",")[-1]
    server = ForkServer("cuda", tmp_path / "scratch", os.environ | {VISIBLE: last})
    try:
        for name in ("one", "two"):
            env = {**os.environ, VISIBLE: last, **compilers.variables(tmp_path / name)}
            task = Task(server, tmp_path / name, code, **env)
            assert task.end() == 5, (task.folder / "fault.json").read_text()
            assert task.file("log").endswith("3000.0")
        assert "nvidia-ml" not in Path(f"/proc/{server.pid}/maps").read_text()  # it would be broken in the children
        names = [task.joinpath("comm").read_text() for task in Path(f"/proc/{server.pid}/task").iterdir()]
        assert len(names) == 1, names
    finally:
        server.close()


def test_nothing_of_one_child_is_in_another(shared, tmp_path):
    """Neither by environment, folder or memory: the server reads no orders."""
    secret = "-".join(["open", "sesame", str(time.time_ns())])
    first = Task(shared, tmp_path / "first", f"os.environ['OWN'] = 'own'\n{STALL}", GIVEN=secret)
    assert holds(first.worker.pid, secret.encode())
    assert not holds(shared.pid, secret.encode())
    second = Task(shared, tmp_path / "second", f"print(os.environ, os.getcwd(), flush=True)\n{STALL}")
    assert not holds(second.worker.pid, secret.encode())
    assert not {"OWN", "GIVEN", secret} & set(second.file("log").split("'"))
    assert str(tmp_path / "first") not in second.file("log")
    for task in (first, second):
        shared.end(task.number)


def test_a_child_holds_no_descriptor_but_its_own(shared, tmp_path):
    """Whoever held the server's line could give orders, and whoever held the judge's pipes could answer for it."""
    read, write = os.pipe()
    tasks = [Task(shared, tmp_path / "one", STALL, read), Task(shared, tmp_path / "two", STALL, write)]
    ends = [f"pipe:[{os.fstat(read).st_ino}]", f"pipe:[{os.fstat(write).st_ino}]"]
    for task, end in zip(tasks, ends, strict=True):
        supervisor = task.worker.parent()
        log, events = str(task.folder / "log"), str(task.folder / "events.jsonl")
        order = open_files(supervisor.pid)[0]
        assert open_files(supervisor.pid)[1:] == [log, log, end]
        assert Path(f"/proc/{supervisor.pid}/fd/0").stat().st_size == 0, "the order is still to be read"
        assert open_files(task.worker.pid) == ["/dev/null", log, log, end, events]
        assert order.startswith(str(task.folder))
    assert "socket" in open_files(shared.pid)
    assert not set(ends) & set(open_files(shared.pid))
    for task in tasks:
        shared.end(task.number)
    os.close(read)
    os.close(write)


def test_end_takes_all_that_was_begun(shared, tmp_path):
    task = Task(shared, tmp_path / "task", ESCAPE + STALL)
    worker, stray = task.worker, psutil.Process(int(task.file("stray")))
    other = Task(shared, tmp_path / "other", STALL)
    shared.end(task.number)
    assert not any(map(alive, (worker, stray)))
    assert alive(other.worker)  # whose turn it was not
    shared.end(other.number)


def test_what_escapes_a_killed_supervisor_is_gone_before_its_end_is_told(shared, tmp_path):
    task = Task(shared, tmp_path / "task", ESCAPE + "os.kill(os.getppid(), 9)\ntime.sleep(600)")
    stray = psutil.Process(int(task.file("stray")))
    assert task.end() == 137
    assert not alive(stray)


# One process after another, each gone as soon as the next one is there.
HOPS = """
import gc, os, sys, time
gc.disable()
beat, end = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND), time.time() + 60
while time.time() < end:
    if os.fork(): os._exit(0)
    os.write(beat, b'.')
"""


def printed(code: str, folder: Path) -> str:
    """What a Python of its own says, at work in the folder."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def test_what_forks_faster_than_all_processes_can_be_listed_is_gone(shared, tmp_path):
    (tmp_path / "hops.py").write_text(HOPS)
    hops = [sys.executable, "-I", "-S", str(tmp_path / "hops.py"), str(tmp_path / "beat")]
    task = Task(shared, tmp_path / "task", f"subprocess.Popen({hops}, env={{}})\n{STALL}")
    until((tmp_path / "beat").exists)
    assert task.worker.is_running()
    shared.end(task.number)
    beats = (tmp_path / "beat").stat().st_size
    time.sleep(0.5)
    assert (tmp_path / "beat").stat().st_size == beats


def test_without_a_list_of_children_all_processes_are_looked_at(tmp_path):
    """A kernel may be built without it."""
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from autoresearch.forks import Forks\n"
        "from autoresearch.harness import forkserver, supervise\n"
        "supervise.Path = lambda _: Path('nowhere')\n"
        "def work(_):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        open('stray', 'w').write(str(os.getpid()))\n"
        "    time.sleep(600)\n"
        "forks = Forks(forkserver.fork_server(work))\n"
        "number = forks.start('train', {}, {}, Path(), 2)\n"
        "while not (os.path.exists('stray') and os.path.getsize('stray')): time.sleep(0.01)\n"
        "forks.end(number)\n"
        "print(os.path.exists(f'/proc/{open(\"stray\").read()}'))\n"
    )
    assert printed(code, tmp_path) == "False\n"


def test_an_end_is_not_told_while_something_is_left(tmp_path):
    """It stands for all that cannot be killed: the judge must not go on, and hears that its server is gone."""
    code = (
        "from pathlib import Path\n"
        "from autoresearch.forks import Forks, Gone\n"
        "from autoresearch.harness import forkserver\n"
        "forkserver.kill_below = lambda *_: False\n"
        "forks = Forks(forkserver.fork_server(lambda mode: None))\n"
        "try: print(forks.end(forks.start('train', {}, {}, Path(), 2)))\n"
        "except Gone: print('gone')\n"
    )
    assert printed(code, tmp_path) == "gone\n"


def test_a_killed_server_takes_its_children_along(server, tmp_path):
    task = Task(server, tmp_path / "task", ESCAPE + STALL)
    there = [task.worker, task.worker.parent(), psutil.Process(int(task.file("stray")))]
    os.kill(server.pid, signal.SIGKILL)
    assert task.end() == LOST
    until(lambda: not any(map(alive, there)))
    with pytest.raises(Gone):
        server.forks.end(task.number)
    assert server.forks.exit_code(server.forks.start("train", {}, {}, tmp_path, 2)) == LOST


def test_a_server_that_does_not_answer_is_ended_with_all_below_it(server, tmp_path, monkeypatch):
    task = Task(server, tmp_path / "task", STALL)
    worker = task.worker
    monkeypatch.setattr(forks, "_PATIENCE", 0.5)
    monkeypatch.setattr("autoresearch.engine.begun._PATIENCE", 0.5)
    os.kill(server.pid, signal.SIGSTOP)
    server.end(task.number)
    assert not alive(server.pid)
    until(lambda: not alive(worker))


def test_a_closed_line_ends_everything(server, tmp_path):
    task = Task(server, tmp_path / "task", STALL)
    there = [task.worker, task.worker.parent(), psutil.Process(server.pid)]
    server.forks.close()
    until(lambda: not any(map(alive, there)))


def test_a_server_is_not_ended_by_the_end_of_the_thread_that_began_it(tmp_path):
    made = []
    thread = threading.Thread(target=lambda: made.append(ForkServer("cpu", tmp_path / "scratch", ENVIRON)))
    thread.start()
    thread.join()
    try:
        assert Task(made[0], tmp_path / "one", "os._exit(3)").end() == 3
    finally:
        made[0].close()


def test_python_that_cannot_be_started_is_said_in_a_line(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so is missing')")
    server = ForkServer("cpu", tmp_path / "scratch", {**ENVIRON, "PYTHONPATH": str(tmp_path)})
    until(lambda: server.forks.exit_code(0) == LOST)
    with pytest.raises(EngineError, match=r"^Python cannot be started: ImportError: libcudart.so is missing\. "):
        server.check()
    server.close()
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.skipif(landlock.version() < landlock.OLDEST, reason="no Landlock here")
def test_what_confines_its_children_may_be_found_out_while_it_imports(tmp_path):
    there = []

    def mechanisms() -> tuple[str, ...]:
        there.extend(psutil.Process().children())
        return ("landlock",)

    server = ForkServer("cpu", tmp_path / "scratch", ENVIRON, mechanisms)
    try:
        assert server.pid in [process.pid for process in there]
        (tmp_path / "secret").write_text("sesame")
        code = f"try: open({str(tmp_path / 'secret')!r})\nexcept PermissionError: os._exit(3)\n"
        assert Task(server, tmp_path / "one", code).end() == 3
    finally:
        server.close()


def test_it_is_gone_if_that_cannot_be_found_out(tmp_path):
    before, there = psutil.Process().children(), []

    def mechanisms() -> tuple[str, ...]:
        there.extend(process for process in psutil.Process().children() if process not in before)
        raise EngineError("the sandbox is not whole.", "Run with --sandbox auto.")

    with pytest.raises(EngineError, match="the sandbox is not whole"):
        ForkServer("cpu", tmp_path / "scratch", ENVIRON, mechanisms)
    assert there
    assert not any(map(alive, there))
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("told", ["", '{"en', '{"env": {}, "folder": "/", "task": ["cpu", ""]}\nlandlo'])
def test_a_server_that_is_not_told_by_what_its_children_are_confined_forks_none(told):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-P", "-m", "autoresearch.harness.child", str(theirs.fileno())]
        fds = (theirs.fileno(),)
        subprocess.run(command, env=ENVIRON, input=told.encode(), pass_fds=fds, timeout=240, check=True)
        theirs.close()
        assert ours.recv(1) == b""  # not even that it is ready


FORKING = """
import os, signal, time
from autoresearch.harness.supervise import supervise
os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGTERM))
supervise(os.getppid(), lambda: time.sleep(600))
"""


def test_a_supervisor_that_is_asked_to_end_as_it_forks_ends():
    """What a handler raises is dropped there: logging, among others, has something to do at each fork."""
    with subprocess.Popen([sys.executable, "-c", FORKING]) as process:
        try:
            assert process.wait(60) == 128 + signal.SIGTERM
        finally:
            process.kill()


def test_a_server_that_is_killed_before_it_is_ready_says_by_what(server):
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: server.forks.exit_code(0) == LOST)
    with pytest.raises(EngineError, match=r"^Python cannot be started: it was ended by signal 9\. "):
        server.check()


STALLING = """
import os
class Model(Bigram):
    batches = 0
    def forward(self, tokens):
        self.batches += 1
        if self.batches > 2:  # of text: those that are made up were for another model
            open('../open-pid', 'w').write(str(os.getpid()))
            while not os.path.exists('../go'): time.sleep(0.01)
        return self.table[tokens]
"""


def test_the_judges_server_and_sealed_process_hold_nothing_of_the_text(texts, tmp_path):
    """The judge has read it all by then, and so has its open process of what it was given."""
    folder, results = tmp_path / "scoring", []
    scoring = threading.Thread(target=lambda: results.append(score(zoo.BIGRAM + STALLING, folder, texts, limit=900)))
    scoring.start()
    until((folder / "open-pid").exists)
    until(lambda: (folder / "open-pid").stat().st_size)
    claimed = psutil.Process(int((folder / "open-pid").read_text()))
    forked = claimed.parent().parent()
    judge = forked.parent()

    def others() -> list[psutil.Process]:
        return [p for p in forked.children(recursive=True) if p not in (claimed, claimed.parent())]

    until(lambda: len(others()) == 2)  # it is forked behind the open one
    sealed = others()
    assert [p.name() for p in (judge, forked, *sealed)] == [
        "research-score", "research-forks", "research-serve", "research-serve",
    ]  # fmt: skip

    stream = np.fromfile(texts.validation[256].path, dtype="<u2")
    text = stream[320 * 32 : 320 * 32 + 24].tobytes()
    path = texts.validation[256].path.encode()
    until(lambda: holds(judge.pid, text))
    assert holds(judge.pid, path)
    for process in (forked, *sealed):
        assert not holds(process.pid, text)
    for process in (forked, claimed, claimed.parent(), *sealed):
        assert not holds(process.pid, path)
        assert path.decode() not in " ".join([*process.environ().values(), *process.cmdline()])

    pipes = [[file for file in open_files(p.pid) if file.startswith("pipe:")] for p in (claimed, *sealed, judge)]
    assert [len(found) for found in pipes] == [2, 2, 2, 5]
    assert set(pipes[0]) & set(pipes[1]) == set()
    assert set(pipes[1]) == set(pipes[2])
    assert [open_files(p.pid).count("socket") for p in (claimed, *sealed, forked, judge)] == [0, 0, 0, 1, 1]

    (folder / "go").touch()
    scoring.join()
    assert results[0].outcome == "scored"
    assert not any(map(alive, (judge, forked, claimed, *sealed)))
