"""Files that attack, measured for real: confined, and without a sandbox, where the same attack gets through."""

import os
import resource
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest
import torch

from autoresearch.engine.sandbox import OFF, Sandbox, choose
from autoresearch.errors import EngineError
from tests.engine.conftest import TRAIN
from tests.engine.test_local import body, folders, survivors

HERE = choose("auto", os.environ)
needs = {
    name: pytest.mark.skipif(name in HERE.missing, reason=f"this machine does not protect {name}")
    for name in ("files", "attributes", "network", "signals", "shared memory", "processes", "leftovers")
}
SCORING = "        if torch.is_inference_mode_enabled():\n"


def forward(code: str) -> str:
    """The training file with some code in the model, for when it is scored."""
    lines = "".join(f"            {line}\n" for line in code.splitlines())
    return TRAIN.replace("        return self.table[tokens]", f"{SCORING}{lines}        return self.table[tokens]")


@pytest.fixture
def places(corpus, tmp_path) -> dict[str, Path]:
    """What is nobody's to read."""
    neighbour = tmp_path / "scratch" / "run" / "measurement-of-another"
    made = {
        "another measurement": neighbour / "notes",
        "a ledger": tmp_path / "lab" / ".git" / "autoresearch" / "ledger.db",
        "a repository": tmp_path / "lab" / "train_core.py",
    }
    for path in made.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("secret")
    return {**made, "held-out text": Path(corpus.validation.path)}


@needs["files"]
@pytest.mark.parametrize("place", ["another measurement", "a ledger", "a repository", "held-out text"])
def test_training_reads_and_writes_nothing_of_others(place, places, engine, trial):
    path = places[place]
    before = path.read_bytes()
    read, write = body(f"open({str(path)!r}, 'rb').read(1)"), body(f"open({str(path)!r}, 'r+b').close()")
    unconfined = engine(sandbox=OFF).measure(trial(read))
    assert (unconfined.outcome, unconfined.sandbox) == ("scored", "none")
    confined = engine()
    for source in (read, write):
        found = confined.measure(trial(source))
        assert (found.outcome, found.phase) == ("crashed", "warmup")
        assert found.reason.startswith(("PermissionError", "OSError in warm-up: [Errno 30] Read-only file system"))
    assert path.read_bytes() == before


@needs["files"]
@pytest.mark.parametrize("place", ["text to train on", "held-out text", "weights, to write to"])
def test_scoring_reads_nothing_but_weights(place, corpus, engine, trial):
    """And those it cannot change, nor what is known of them."""
    attacks = {
        "text to train on": f"open({corpus.train.path!r}, 'rb').read(1)",
        "held-out text": f"open({corpus.validation.path!r}, 'rb').read(1)",
        "weights, to write to": (
            "import os\nif os.path.exists('../weights/weights.safetensors'): os.utime('../weights/weights.safetensors')"
        ),
    }
    source = forward(attacks[place])
    unconfined = engine(sandbox=OFF).measure(trial(source))
    assert unconfined.outcome == "scored" or unconfined.reason == "the weights' file was changed while it was scored"
    found = engine().measure(trial(source))
    assert (found.outcome, found.phase) == ("crashed", "score")
    assert "the model failed" in found.reason
    assert ("PermissionError" in found.reason) is (place != "weights, to write to")  # of which it has none at first


LEAVE = """
import glob, os, sys, tempfile
if os.path.basename(os.getcwd()).startswith('open-'):
    places = [os.getcwd(), '..', tempfile.gettempdir(), '/tmp', '/var/tmp', '/dev/shm', os.environ['HOME'],
              os.path.dirname(__file__), os.environ.get('TORCHINDUCTOR_CACHE_DIR', '.')]
    for place in places:
        try:
            with open(os.path.join(place, 'left-NAME'), 'w') as file: file.write('secret')
        except OSError: pass
    for name in ('../weights/weights.safetensors', __file__):
        try: os.utime(name, (12345, 12345))
        except OSError: pass
    print('left-NAME', file=sys.stderr, flush=True)
else:
    found = [place for place in ('/tmp', '/var/tmp', '/dev/shm', '..', os.path.dirname(__file__))
             if os.path.exists(os.path.join(place, 'left-NAME'))]
    try: found += glob.glob('../*/left-NAME') + glob.glob(os.path.dirname(os.getcwd()) + '/*/left-NAME')
    except OSError: pass
    for name in ('../weights/weights.safetensors', __file__):
        if os.stat(name).st_mtime == 12345: found.append('times of ' + name)
    for log in ['/proc/self/fd/2', *glob.glob('../open-*.log')]:
        try:
            if 'left-NAME' in open(log).read(): found.append(log)
        except OSError: pass
    print('FOUND', len(found), 'OF', found, file=sys.stderr, flush=True)
"""


@needs["attributes"]
@needs["files"]
@pytest.mark.parametrize("confined", [True, False])
def test_a_sealed_process_finds_nothing_that_an_open_one_has_left(confined, engine, trial, tmp_path):
    name = uuid.uuid4().hex  # folders of tests have the same name in each worker
    try:
        measured = engine(sandbox="auto" if confined else OFF).measure(trial(forward(LEAVE.replace("NAME", name))))
    finally:
        for place in ("/tmp", "/var/tmp", "/dev/shm"):
            (Path(place) / f"left-{name}").unlink(missing_ok=True)
    log = (tmp_path / "logs" / "score.log").read_text()
    assert f"left-{name}" in log  # the open process has run
    assert "FOUND" in log
    assert ("FOUND 0 OF" in log) is confined
    assert measured.outcome == "scored" if confined else measured.outcome == "quarantined"


RUN_AWAY = """
import os, psutil, time
above = psutil.Process().parents()
if os.fork() == 0:
    os.setsid()
    if os.fork(): os._exit(0)
    for one in above:
        if one.name().startswith('research-'):
            try: one.kill()
            except psutil.Error: pass
    os.execve('/bin/sleep', ['sleep', '4NUMBER'], {})
time.sleep(3)
"""


def sleepers(seconds: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.cmdline() == ["sleep", seconds] and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            pass
    return found


@needs["leftovers"]
@pytest.mark.parametrize("confined", [True, False])
def test_what_kills_all_supervisors_and_takes_off_its_mark_is_gone(confined, engine, trial):
    """Without a sandbox, nobody knows of it any more."""
    number = str(time.time_ns() % 10**8)
    engine = engine(sandbox="auto" if confined else OFF)
    measured = engine.measure(trial(body(RUN_AWAY.replace("NUMBER", number))))
    left = sleepers(f"4{number}")
    for process in left:
        process.kill()
    assert bool(left) is not confined
    assert measured.outcome == ("scored" if confined else "crashed")
    assert engine.measure(trial()).outcome == "scored"


@needs["processes"]
def test_a_fork_bomb_is_ended_and_the_next_is_measured(engine, trial, tmp_path):
    bomb = body("import subprocess\nsubprocess.run(['sh', '-c', 'f() { f | f & f | f; }; f'])\ntime.sleep(60)")
    confined = engine()
    measured = confined.measure(trial(bomb, startup_limit=30.0))
    assert measured.outcome == "crashed"
    assert survivors(tmp_path) == []
    assert confined.measure(trial()).outcome == "scored"


@pytest.mark.parametrize("sandbox", [None, OFF])
def test_files_without_end_are_a_crash_and_are_gone(sandbox, engine, trial, tmp_path, monkeypatch):
    monkeypatch.setattr("autoresearch.engine.site._DISK", 50_000_000)
    flood = body("for n in range(30):\n    open(f'{n}', 'wb').write(bytes(5_000_000))\n    time.sleep(0.2)")
    measured = engine(sandbox=sandbox).measure(trial(flood))
    assert (measured.outcome, measured.phase) == ("crashed", "warmup")
    assert measured.reason == "the files it has written take more than 50.0 MB"
    assert folders(tmp_path / "scratch") == []


@pytest.mark.skipif(HERE == OFF, reason="no sandbox here")
def test_its_memory_is_bounded_beside_the_text_that_it_maps(engine, trial):
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + 2 * trial().corpus.train.tokens
    code = f"import resource\nassert {most} <= resource.getrlimit(resource.RLIMIT_DATA)[0] <= {most} + 10**6"
    measured = engine().measure(trial(body(code)))
    assert measured.outcome == "scored", measured.reason


@pytest.mark.skipif(HERE == OFF, reason="no sandbox here")
def test_it_may_have_fewer_files_open_than_the_house(engine, trial):
    """What it has sent and nobody has taken counts for its user: with as many, the house could hand nothing over."""
    own = engine()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    code = f"import resource\nassert max(resource.getrlimit(resource.RLIMIT_NOFILE)) <= {limit} // 2"
    measured = own.measure(trial(body(code)))
    assert measured.outcome == "scored", measured.reason


def test_many_small_files_count_as_well(engine, trial, monkeypatch):
    monkeypatch.setattr("autoresearch.engine.site._DISK", 50_000_000)
    many = body("import os\nfor n in range(3000): os.mkdir(f'{n}')\ntime.sleep(3)")
    assert "take more than 50.0 MB" in engine().measure(trial(many)).reason


WORK = """
import multiprocessing, os, subprocess, tempfile
with multiprocessing.get_context('fork').Pool(2) as pool:
    assert pool.map(abs, [-1, -2]) == [1, 2]
with tempfile.TemporaryDirectory() as folder:
    assert folder.startswith(os.environ['HOME']) and os.environ['HOME'] == os.getcwd()
open('a.c', 'w').write('int answer() { return 42; }')
subprocess.run(['gcc', '-shared', '-fPIC', 'a.c', '-o', 'a.so'], check=True)
import ctypes
assert ctypes.CDLL('./a.so').answer() == 42
import torch._inductor.config
torch._inductor.config.cpp_cache_precompile_headers = False
assert torch.compile(lambda x: (x * 2 + 1).relu())(torch.ones(1000)).sum() == 3000
"""
COMPILED = 900.0  # seconds: a busy machine compiles for more than a minute


@pytest.mark.skipif(not Path("/usr/bin/gcc").exists(), reason="no compiler here")
def test_processes_compilers_and_files_for_a_while_work_in_it(engine, trial):
    measured = engine().measure(trial(body(WORK), startup_limit=COMPILED))
    assert measured.outcome == "scored", (measured.reason, measured.traceback)


@pytest.mark.skipif(not Path("/usr/bin/gcc").exists(), reason="no compiler here")
@needs["files"]
def test_a_machine_without_namespaces_measures_and_compiles_too(engine, trial, places):
    confined = engine(sandbox=Sandbox(("landlock", "seccomp"), ()))
    known = "import subprocess\nimport torch._inductor.config\ntorch._inductor.config.cpp.vec_isa_ok = True\n"
    compiles = body(known + WORK[WORK.index("open('a.c'") :])  # what the processor can, the test above finds out
    measured = confined.measure(trial(compiles, startup_limit=COMPILED))
    assert measured.outcome == "scored", (measured.reason, measured.traceback)
    for path in places.values():
        assert "PermissionError" in confined.measure(trial(body(f"open({str(path)!r})"))).reason


LESS = (
    "import os\n"
    "from autoresearch.harness.sandbox import confine, seccomp\n"
    "confine.drop_privileges()\n"
    "seccomp.restrict(ipc=False, attributes=False)\n"  # what a container would refuse
    "from autoresearch.engine.sandbox import choose\n"
    "from autoresearch.errors import EngineError\n"
)


def said(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", LESS + code], capture_output=True, text=True, check=True)
    return done.stdout


@needs["network"]
def test_a_machine_with_less_is_named_and_strict_refuses_it():
    found = said("found = choose('auto', os.environ)\nprint(found.missing, found.describe(), found.note(), sep='\\n')")
    missing, described, note = found.splitlines()
    assert "processes" in missing and "files" not in missing
    assert described.startswith("without ") and "processes" in described
    assert note.startswith("the sandbox does not protect ") and "autoresearch doctor" in note
    refused = said("try: choose('strict', os.environ)\nexcept EngineError as error: print(error)")
    assert refused.startswith("the sandbox is not whole: ") and "or run with --sandbox auto." in refused
    assert refused.count("\n") == 1


def test_off_is_said():
    assert choose("off", os.environ) == OFF
    assert OFF.describe() == "none" and "no sandbox" in OFF.note()


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA starts here")
def test_where_a_device_does_not_start_inside_there_is_none_and_it_is_said():
    found = choose("auto", os.environ, "cuda")
    assert (found.mechanisms, found.describe()) == ((), "none")
    assert found.note().startswith("no sandbox (in it CUDA does not start: ")
    with pytest.raises(EngineError, match="the sandbox is not whole: files: in it CUDA does not start: "):
        choose("strict", os.environ, "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_is_used_inside():
    assert choose("auto", os.environ, "cuda") == HERE


@pytest.mark.skipif(bool(HERE.missing), reason="this machine does not protect all")
def test_strict_is_content_with_all():
    assert choose("strict", os.environ).describe() == "full"
    assert HERE.note() is None


def test_a_probe_that_cannot_be_started_is_said_in_a_line(tmp_path):
    (tmp_path / "psutil.py").write_text("raise ImportError('broken')")
    with pytest.raises(EngineError, match=r"^the sandbox cannot be tried: .* Run with --sandbox off"):
        choose("auto", {**os.environ, "PYTHONPATH": str(tmp_path)})
