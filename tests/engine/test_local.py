"""Real measurements: what comes of a file that trains, and of those that do not."""

import errno
import hashlib
import importlib.metadata
import os
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from autoresearch.engine.children import MARKER
from autoresearch.engine.files import link as name
from autoresearch.engine.sandbox import OFF
from autoresearch.errors import CorpusError, DeadlinePassed, EngineError
from tests.engine.conftest import TRAIN


def survivors(scratch: Path, servers: bool = False) -> list[psutil.Process]:
    """Processes that carry a measurement's mark, zombies aside; fork servers among them or not."""
    found = []
    for pid in psutil.pids():
        try:
            process = psutil.Process(pid)
            marked = process.environ().get(MARKER, "").startswith(str(scratch))
            if marked and (servers or process.name() != "research-forks"):
                found.append(process)
        except psutil.Error:
            continue
    return found


def folders(scratch: Path) -> list[Path]:
    """What lies where measurements are made, but for the folders of fork servers that are alive."""
    homes = {process.environ()[MARKER].rstrip("/") for process in survivors(scratch, servers=True)}
    return [path for path in (scratch / "run").iterdir() if str(path) not in homes]


def body(code: str, where: str = "    run.start(model)\n") -> str:
    """The training file with some code at a place, by default just before the clock starts."""
    lines = "".join(f"    {line}\n" for line in code.splitlines())
    assert where in TRAIN
    return TRAIN.replace(where, lines + where)


def test_a_file_that_trains_is_measured(engine, trial, tmp_path):
    seen = []
    engine = engine()
    measurement = engine.measure(trial(), seen.append)
    assert (measurement.outcome, measurement.reason, measurement.phase) == ("scored", None, None)
    assert 4.0 < measurement.value < 8.0
    assert measurement.loss < measurement.curve[0].loss
    assert (measurement.seed, measurement.steps, measurement.tokens) == (11, 20, 20 * 8 * 32)
    assert measurement.train_tokens == trial().corpus.train.tokens and measurement.passes
    assert (measurement.parameters, measurement.audit.positions) == (256 * 256, 32)
    assert measurement.peak_memory > 10**8
    assert (measurement.corpus, measurement.harness) == ("fingerprint", engine.fingerprint)
    assert measurement.device_name and measurement.torch_version
    assert len(measurement.start_hash) == 64
    assert (measurement.sandbox, measurement.interruptions) == (engine.sandbox.describe(), ())
    phases = ["import", "build", "warmup", "train", "save", "open", "sealed"]
    assert list(measurement.seconds) == [*phases, "total"]
    assert 0.0 < sum(measurement.seconds[phase] for phase in phases) <= measurement.seconds["total"]

    assert [p.phase for p in seen if p.phase in ("import", "score")] == ["import", "score"]
    assert seen[-1].point.loss == pytest.approx(measurement.loss)
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["curve.csv", "score.log", "train.log"]
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["losses.npz", "weights.safetensors"]
    assert folders(tmp_path / "scratch") == []
    assert survivors(tmp_path) == []

    again = engine.measure(trial())  # the same seed: the same training, to the last bit
    assert (again.loss, again.start_hash) == (measurement.loss, measurement.start_hash)
    assert again.value == pytest.approx(measurement.value, rel=1e-6)  # rows are scored in an order drawn anew
    assert again.start_hash == measurement.start_hash


BROKEN = {
    "syntax": (TRAIN + "def f(:\n", "import", "does not parse", None),
    "exception on import": (TRAIN + "import nowhere\n", "import", "ModuleNotFoundError in import", "import nowhere"),
    "no build_model": (TRAIN.replace("build_model", "build"), "import", "no function `build_model`", None),
    "no main": (TRAIN.replace("def main", "def start"), "import", "no function `main`", None),
    "a constant set twice": (TRAIN + "CONTEXT *= 2\n", "import", "CONTEXT is 64 once imported", None),
    "no model": (TRAIN.replace("return Model()", "return None"), "build", "build_model returned NoneType", None),
    "wrong shape in warm-up": (body("torch.ones(2, 3) @ torch.ones(2, 3)"), "warmup", "RuntimeError in warm-up", "@"),
    "loss not finite": (
        TRAIN.replace("run.report(loss)", "run.report(loss * float('nan'))"),
        "train",
        "the loss is not finite at step 1",
        None,
    ),
    "nothing saved": (TRAIN.replace("    run.save(model)\n", ""), "save", r"without run.save", None),
    "sys.exit": (body("sys.exit('bye')"), "warmup", "SystemExit in warm-up: bye", "bye"),
    "killed": (body("import os\nos.kill(os.getpid(), 9)"), "warmup", "was ended by signal 9 (out of memory?)", None),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_breaks_says_where_and_why(name, engine, trial, tmp_path):
    source, phase, reason, traceback = BROKEN[name]
    measurement = engine().measure(trial(source))
    assert (measurement.outcome, measurement.phase, measurement.value) == ("crashed", phase, None)
    assert reason in measurement.reason
    assert "\n" not in measurement.reason
    if traceback:
        assert traceback in measurement.traceback
        assert str(tmp_path) not in measurement.traceback
        assert len(measurement.traceback) <= 4096
    assert not (tmp_path / "kept").exists()
    assert survivors(tmp_path) == []


def test_a_cheat_is_quarantined_and_leaves_nothing_behind(engine, trial, tmp_path):
    leak = TRAIN.replace(
        "class Model(Bigram): pass",
        "class Model(Bigram):\n    def forward(self, x): return self.table[x] + 9 * self.onehot(self.ahead(x))",
    )
    measurement = engine().measure(trial(leak))
    assert (measurement.outcome, measurement.phase, measurement.value) == ("quarantined", "score", None)
    assert measurement.claim < 1.0
    assert not (tmp_path / "kept").exists()


def test_training_on_after_the_clock_is_ended(engine, trial):
    late = body("time.sleep(600)", "    run.save(model)\n")
    measurement = engine(grace=6.0).measure(trial(late, budget=1.0))
    assert (measurement.outcome, measurement.phase) == ("crashed", "save")
    assert measurement.reason == "main did not return within 6 s of the end of the budget"
    assert measurement.steps is None or measurement.steps <= 20


def test_startup_is_bounded(engine, trial):
    measurement = engine().measure(trial(body("time.sleep(600)"), startup_limit=12.0))
    assert (measurement.phase, measurement.reason) == ("warmup", "start-up took longer than 12 s")
    assert measurement.seconds["total"] < 120


def test_deadline_ends_everything(engine, trial, tmp_path):
    with pytest.raises(DeadlinePassed):
        engine().measure(trial(body("time.sleep(600)"), deadline=time.time() + 4))
    assert survivors(tmp_path) == []
    assert folders(tmp_path / "scratch") == []


def test_a_flood_of_output_costs_neither_memory_nor_disk(engine, trial, tmp_path):
    flood = body("for _ in range(100): print('x' * 1_000_000)\nprint('the end')")
    assert engine().measure(trial(flood)).outcome == "scored"
    log = (tmp_path / "logs" / "train.log").read_text()
    assert len(log) <= 256_000
    assert log.endswith("the end\n")


def test_descendants_die_whatever_they_did_to_get_away(engine, trial, tmp_path):
    """A sleeper in its own session, without the mark in its environment, orphaned before the end."""
    escape = body(  # without a sandbox, which does this by other means
        "import os, subprocess\n"
        "command = f'setsid sleep 600 & echo $! > {os.path.dirname(__file__)}/../../../pid'\n"
        "subprocess.run(['sh', '-c', command], env={'PATH': os.environ['PATH']})"
    )
    assert engine(sandbox=OFF).measure(trial(escape)).outcome == "scored"
    pid = int((tmp_path / "scratch" / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_result_is_taken_though_the_process_lingers(engine, trial):
    linger = body("import os\nos._exit = lambda code: time.sleep(600)")
    measurement = engine().measure(trial(linger))
    assert measurement.outcome == "scored"
    assert measurement.seconds["total"] < 120


def test_children_get_no_secret_and_no_held_out_path(engine, trial, tmp_path):
    spy = body("import os\nprint(dict(os.environ), sys.argv, os.getcwd(), open('/proc/self/environ').read())")
    assert engine().measure(trial(spy)).outcome == "scored"
    log = (tmp_path / "logs" / "train.log").read_text()
    assert "sesame" not in log
    assert "validation-256" not in log
    assert log.count(f"{MARKER}=") == log.count(MARKER) - 1 == 1


def test_a_corpus_that_is_gone_is_not_the_candidates_fault(engine, trial, tmp_path):
    whole = trial()
    gone = replace(whole.corpus.validation, path=str(tmp_path / "nowhere.bin"))
    with pytest.raises(CorpusError, match=r"nowhere\.bin is missing"):
        engine().measure(replace(whole, corpus=replace(whole.corpus, validation=gone)))


def test_an_interrupt_leaves_nothing_behind(engine, trial, tmp_path):
    def interrupt(progress):
        if progress.point:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine().measure(trial(budget=60.0, max_steps=10**6), interrupt)
    assert survivors(tmp_path) == []
    assert folders(tmp_path / "scratch") == []


@pytest.mark.parametrize("phase", ["warmup", "train"])
def test_a_forged_result_is_none(phase, engine, trial):
    """Weights and a result without the clock: the house saw no start, whatever the phase is said to be."""
    forged = "import os, time\nif os.path.basename(os.getcwd()).startswith('open'): time.sleep(8)\n" + body(
        f"run._phases.enter({phase!r})\n"
        "import dataclasses, json, os\n"
        "result = dataclasses.asdict(run.result())\n"
        "open('result.json', 'w').write(json.dumps(result))\n"
        "time.sleep(600)"
    )
    measurement = engine().measure(trial(forged))
    assert (measurement.outcome, measurement.reason) == (
        "crashed",
        "there are weights, but the clock was never started",
    )


def test_of_a_result_only_figures_are_believed_that_can_be(engine, trial):
    """What it was measured on is for the house to say, or it would compare with nothing."""
    forged = TRAIN.replace(
        "    run.save(model)\n",
        "    run.save(model)\n"
        "    import dataclasses, json, time\n"
        "    result = dataclasses.asdict(run.result())\n"
        "    result |= dict(device_name='a dream', torch_version='9', steps=-7, peak_memory=-1, tokens=10**18)\n"
        "    result |= dict(loss=-1e308, flops_per_token=1.7e308, start_hash='x' * 10**5)\n"
        "    result['seconds'] = {str(n): 1.0 for n in range(10**4)} | {'train': 1.7e308, 'save': -1.0}\n"
        "    open('result.json', 'w').write(json.dumps(result))\n"
        "    time.sleep(600)\n",
    )
    m = engine().measure(trial(forged))
    honest = engine().measure(trial())
    assert (m.outcome, m.conditions) == ("scored", honest.conditions)
    assert (m.steps, m.peak_memory, m.tokens, m.loss, m.mfu) == (0, 0, 2**53, -1e9, None)
    assert set(m.seconds) == {"train", "save", "open", "sealed", "total"}
    assert (m.seconds["train"], m.seconds["save"], len(m.start_hash)) == (1e9, 0.0, 64)


def test_what_the_machine_lacks_is_said_with_its_remedy(engine):
    for number, remedy in ((errno.ENOSPC, "Free some space on that disk."), (errno.EMFILE, "ulimit -n")):
        with pytest.raises(EngineError, match=os.strerror(number)) as caught, engine()._blamed():
            raise OSError(number, os.strerror(number))
        assert remedy in caught.value.remedy
    with pytest.raises(IsADirectoryError), engine()._blamed():
        raise IsADirectoryError(errno.EISDIR, "a bug")


def test_a_disk_with_too_little_room_for_what_the_tip_has_left_is_no_patchs_fault(engine, trial, tmp_path, monkeypatch):
    first = trial()
    assert engine().measure(first).outcome == "scored"
    takes = Path(first.keep.weights).stat().st_size
    free = shutil.disk_usage(tmp_path)._replace(free=3 * takes)
    monkeypatch.setattr("autoresearch.engine.site.shutil.disk_usage", lambda _: free)
    with pytest.raises(EngineError, match="an experiment of this run may take") as caught:
        engine().measure(replace(trial(), tip=first.keep))
    assert "Free some space" in caught.value.remedy


def test_another_pytorch_than_the_one_that_measured_is_not_taken_for_it(own_engine, trial, monkeypatch):
    engine = own_engine()
    assert engine.measure(trial()).torch_version == importlib.metadata.version("torch")
    monkeypatch.setattr("autoresearch.engine.local.importlib.metadata.version", lambda _: "99.0")
    assert engine.measure(trial()).torch_version != "99.0"  # by the server that has imported the other
    os.kill(engine._server.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match=r"when this began, and is 99\.0"):
        for _ in range(2):
            engine.measure(trial())


def test_a_scratch_that_cannot_be_written_is_the_machines_fault(engine, trial, tmp_path):
    (tmp_path / "scratch").write_text("in the way")
    with pytest.raises(EngineError, match="cannot be written") as caught:
        engine().measure(trial())
    assert "AUTORESEARCH_CACHE" in caught.value.remedy


UP = "import os\nos.chdir('..')\n"  # from its own folder to the measurement's: without a sandbox it can write there
HOSTILE = {
    "its log is gone": (body(f"{UP}os.remove('train.log')"), "scored", None),
    "all logs are folders": (
        body(f"{UP}os.remove('train.log')\nfor n in ('train', 'score'): os.mkdir(n + '.log')"),
        "scored",
        None,
    ),
    "its folder is gone": (body(f"{UP}import shutil\nshutil.rmtree(os.getcwd())"), "crashed", "import build warmup"),
    "results are folders": (
        body(f"{UP}for n in ('result.json', 'fault.json'): os.mkdir('train/' + n)"),
        "crashed",
        "save",
    ),
    "results are pipes": (
        body(f"{UP}os.mkfifo('train/result.json'), os.mkfifo('train/fault.json')\nos._exit(3)"),
        "crashed",
        "warmup",
    ),
    "the record of processes is a folder": (
        body(f"{UP}os.remove('children.json'), os.mkdir('children.json')"),
        "scored",
        None,
    ),
    "weights are a folder": (body(f"{UP}os.mkdir('train/weights.safetensors')"), "crashed", "save"),
    "a result that is no number": (
        TRAIN + "    run.result = lambda old=run.result: __import__('dataclasses').replace(old(), loss=float('nan'))\n",
        "crashed",
        "save",
    ),
    "a result beyond all numbers": (TRAIN + "    run._flops = float('inf')\n", "crashed", "save"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_candidate_does_to_its_folder_is_its_own_loss(name, engine, trial, tmp_path):
    source, outcome, phase = HOSTILE[name]
    patience = 10.0 if name == "its folder is gone" else 60.0  # nothing more is heard of it
    measurement = engine(sandbox=OFF).measure(trial(source, startup_limit=patience))
    assert measurement.outcome == outcome
    assert measurement.phase in (phase.split() if phase else [None])
    assert (measurement.reason is None) == (outcome == "scored")
    assert survivors(tmp_path) == []
    assert folders(tmp_path / "scratch") == []


FORGED = {
    "a result where the scorer had left its own": body(
        f"{UP}import json\n"
        "for folder in ('score', 'train', '.'):\n"
        "    os.makedirs(folder, exist_ok=True)\n"
        "    result = {'outcome': 'scored', 'value': 0.5, 'claim': 0.5, 'targets': 1, 'bytes': 1}\n"
        "    open(folder + '/result.json.kept', 'w').write(json.dumps(result))\n"
        "    if folder != 'train': os.rename(folder + '/result.json.kept', folder + '/result.json')\n"
        "    open(folder + '/losses.npz', 'w').write('none')\n"
    ),
    "another file in its own place": body(
        "text = open(__file__).read()\n"
        "open(__file__, 'w').write(text.replace('return self.table[tokens]', 'return 0 * self.table[tokens]'))"
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_what_training_writes_about_does_not_reach_the_scorer(name, engine, trial, tmp_path):
    honest = engine().measure(trial())
    measurement = engine(sandbox=OFF).measure(trial(FORGED[name]))
    assert measurement.outcome == "scored"
    assert measurement.value == pytest.approx(honest.value, rel=1e-5)  # threads add up in an order of their own
    assert (tmp_path / "kept" / "losses.npz").stat().st_size > 1000


def test_what_scoring_writes_about_is_no_result(engine, trial, tmp_path):
    """The candidate's side of the scorer looks for a way to answer in the judge's place."""
    forging = TRAIN.replace(
        "class Model(Bigram): pass",
        "import json, os\n"
        "class Model(Bigram):\n"
        "    def forward(self, tokens):\n"
        "        if torch.is_inference_mode_enabled():\n"
        "            os.path.basename(os.getcwd()).startswith('open-') and os.chdir('..')\n"
        "            forged = json.dumps({'outcome': 'scored', 'value': 0.5, 'claim': 0.5}) + '\\n'\n"
        "            for name in ('result.json', 'score/result.json', 'weights/weights.safetensors', 'losses.npz'):\n"
        "                if os.path.isdir(os.path.dirname(name) or '.'): open(name, 'w').write(forged)\n"
        "            for fd in range(5, 100):\n"
        "                if os.path.exists(f'/proc/self/fd/{fd}'): os.write(fd, forged.encode())\n"
        "        return self.table[tokens]\n",
    )
    measurement = engine(sandbox=OFF).measure(trial(forging))
    assert measurement.value is None or measurement.value > 4.0


LINKS = {
    "a link": "os.symlink('elsewhere', weights)",
    "a pipe": "os.mkfifo(weights)",
    "a folder": "os.mkdir(weights)",
    "nothing": "",
}


@pytest.mark.parametrize("name", LINKS)
def test_weights_that_are_no_plain_file_are_not_taken(name, engine, trial):
    swap = (
        TRAIN + "    import os\n    weights = 'weights.safetensors'\n"
        f"    os.rename(weights, 'elsewhere')\n    {LINKS[name]}\n"
    )
    measurement = engine().measure(trial(swap))
    assert (measurement.outcome, measurement.phase) == ("crashed", "save")
    assert measurement.reason == "the weights are not where run.save had put them"


def test_weights_that_change_while_they_are_scored_are_not_believed(engine, trial, tmp_path):
    """This process has loaded them and scores the same, but what would be kept is another model."""
    changing = TRAIN.replace(
        "class Model(Bigram): pass",
        "class Model(Bigram):\n"
        "    def forward(self, tokens):\n"
        "        import os\n"
        "        weights = '../weights/weights.safetensors'\n"
        "        if torch.is_inference_mode_enabled() and os.path.exists(weights):\n"
        "            os.chmod(weights, 0o600)\n"
        "            with open(weights, 'r+b') as file: file.seek(-4, 2), file.write(bytes(4))\n"
        "            os.utime(weights, ns=(0, 0))\n"
        "        return self.table[tokens]\n",
    )
    measurement = engine(sandbox=OFF).measure(trial(changing))
    assert (measurement.outcome, measurement.phase, measurement.value) == ("quarantined", "score", None)
    assert measurement.reason == "the weights' file was changed while it was scored"
    assert not (tmp_path / "kept").exists()


def test_kept_weights_are_those_that_were_scored(engine, trial, tmp_path):
    remembers = TRAIN + (
        "    import hashlib\n    print('SAVED', hashlib.md5(open('weights.safetensors', 'rb').read()).hexdigest())\n"
    )
    assert engine().measure(trial(remembers)).outcome == "scored"
    kept = hashlib.md5((tmp_path / "kept" / "weights.safetensors").read_bytes()).hexdigest()
    assert f"SAVED {kept}" in (tmp_path / "logs" / "train.log").read_text()


def test_an_open_file_is_linked_or_else_copied(tmp_path):
    file, link, copy = tmp_path / "weights", tmp_path / "link", tmp_path / "copy"
    file.write_bytes(b"weights")
    with file.open("rb") as opened:
        link.write_bytes(b"left by one that was killed")
        name(opened, link)
        assert link.samefile(file)
        file.unlink()
        link.unlink()
        name(opened, copy)  # there is no name left to link
    assert copy.read_bytes() == b"weights"


def test_a_ledger_that_cannot_be_written_is_the_machines_fault(engine, trial, tmp_path):
    (tmp_path / "kept").write_text("in the way")
    with pytest.raises(EngineError, match="cannot be written"):
        engine().measure(trial())


def test_a_clock_that_was_set_back_is_seen_from_outside(engine, trial, tmp_path):
    longer = body("run._clock._budget = 8.0")
    measurement = engine().measure(trial(longer, budget=1.0, max_steps=None))
    assert (measurement.outcome, measurement.phase, measurement.value) == ("quarantined", "train", None)
    seconds, budget = re.fullmatch(r"trained for (.*) s where the budget is (.*) s", measurement.reason).groups()
    assert 5.0 < float(seconds) < 60.0
    assert float(budget) == 1.0
    assert measurement.steps > 20
    assert not (tmp_path / "kept").exists()


def test_a_last_step_may_take_its_time(engine, trial):
    slow = TRAIN.replace("run.report(loss)", "time.sleep(1.5)")
    assert engine().measure(trial(slow, budget=1.0)).outcome == "scored"


def test_a_house_that_is_kept_waiting_blames_nobody(engine, trial):
    """Its terminal is stopped while the training goes on."""
    waits = [6.0]

    def stuck(progress):
        if progress.phase == "train" and waits:
            time.sleep(waits.pop())

    steady = TRAIN.replace("run.report(loss)", "time.sleep(0.05), run.report(loss)")
    measurement = engine().measure(trial(steady, budget=1.0, max_steps=None), stuck)
    assert measurement.outcome == "scored"
    assert not waits


def test_weights_that_were_kept_are_scored_again_and_nothing_is_trained(engine, trial, tmp_path):
    first = engine().measure(trial())
    again = engine().measure(replace(trial(), weights=trial().keep.weights, keep=None))
    assert (again.outcome, again.claim) == ("scored", pytest.approx(first.claim, abs=1e-9))
    assert again.steps is None and "train" not in again.seconds and Path(trial().keep.weights).exists()
    other = replace(trial().corpus, validation=trial().corpus.train)
    assert engine().measure(replace(trial(), corpus=other, weights=trial().keep.weights, keep=None)).value < first.value


def test_weights_that_are_gone_are_no_score(engine, trial, tmp_path):
    m = engine().measure(replace(trial(), weights=str(tmp_path / "gone"), keep=None))
    assert m.outcome == "crashed" and "are gone" in m.reason
    assert not folders(tmp_path / "scratch")


EVAL_ONLY = {
    "raises": (
        "raise RuntimeError('not here')",
        "the model failed on rows of tokens, in eval mode and without gradients: RuntimeError: not here",
        True,
    ),
    "has another shape": ("x = x[:, 1:]", "the logits have the wrong shape", False),
    "has another vocabulary": ("return self.table[x][..., 1:]", "the logits have the wrong vocabulary", False),
    "is made of integers": ("return self.table[x].long()", "the logits are no floating-point tensor", False),
}


@pytest.mark.parametrize("name", EVAL_ONLY)
@pytest.mark.parametrize("confined", [True, False])
def test_what_fails_in_scoring_fails_on_made_up_rows_first(name, confined, engine, trial):
    """There it may be shown where, which held-out text would forbid; and in a sandbox before anything is trained."""
    code, reason, shown = EVAL_ONLY[name]
    model = f"class Model(Bigram):\n    def forward(self, x):\n        if not self.training: {code}\n"
    model += "        return self.table[x]\n"
    one = engine(sandbox="auto" if confined else OFF)
    measurement = one.measure(trial("print('a word')\n" + TRAIN.replace("class Model(Bigram): pass", model)))
    assert (measurement.outcome, measurement.phase) == ("crashed", "score")
    assert measurement.reason.startswith(reason) and "a word" not in measurement.reason
    assert bool(measurement.traceback and code in measurement.traceback) == shown
    assert (measurement.steps is None) is (confined and not one.sandbox.missing)


def test_a_long_traceback_is_shown_from_its_end(engine, trial):
    """With what was raised in a line of its own, and none of another that was printed before."""
    model = (
        "class Deep(nn.Module):\n    def __init__(self, depth):\n        super().__init__()\n"
        "        self.inner = Deep(depth - 1) if depth else None\n"
        "    def forward(self, x):\n"
        "        if self.inner: return self.inner(x)\n"
        "        import traceback\n        try: 1 / 0\n        except ZeroDivisionError: traceback.print_exc()\n"
        "        raise RuntimeError('sizes do not match:\\n  3\\n  4\\nThis may be suppressed')\n"
        "class Model(Bigram):\n    def __init__(self):\n        super().__init__()\n        self.deep = Deep(9)\n"
        "    def forward(self, x):\n        return self.table[x] if self.training else self.deep(x)\n"
    )
    found = engine().measure(trial(TRAIN.replace("class Model(Bigram): pass", model)))
    assert found.reason.endswith("without gradients: RuntimeError: sizes do not match")
    assert "raise RuntimeError" in found.traceback and "ZeroDivisionError" not in found.traceback
    assert len(found.traceback) <= 4096


# A rehearsal leaves no trace in the model that is scored.
SAME = {
    "folds weights in eval()": """
    folded = None
    def train(self, mode=True):
        super().train(mode)
        self.folded = None if mode else (self.table * 1.0).detach()
        return self
    def forward(self, tokens):
        return (self.table if self.folded is None else self.folded)[tokens]
""",
    "derives weights at its first rows": """
    derived = None
    def forward(self, tokens):
        if self.training: return self.table[tokens]
        if self.derived is None: self.derived = (self.table * 1.0).detach()
        return self.derived[tokens]
""",
    "remembers what it has derived": """
    @functools.lru_cache
    def derived(self): return (self.table * 1.0).detach()
    def forward(self, tokens):
        return (self.table if self.training else self.derived())[tokens]
""",
    "relies on BOS at the beginning": """
    def forward(self, tokens):
        if (tokens[:, 0] != BOS).any(): raise ValueError('a row must begin with BOS')
        return self.table[tokens]
""",
    "counts rows in a buffer": """
    def __init__(self):
        super().__init__()
        self.register_buffer('seen', torch.zeros(()))
    def forward(self, tokens):
        self.seen = self.seen + 1
        return self.table[tokens]
""",
}


@pytest.mark.parametrize("name", SAME)
def test_the_model_that_is_scored_knows_nothing_of_the_rehearsal(name, engine, trial, corpus):
    one = engine()
    plain = one.measure(trial())
    code = f"import functools\nBOS = {corpus.train.bos}\n" + TRAIN
    found = one.measure(trial(code.replace("class Model(Bigram): pass", f"class Model(Bigram):{SAME[name]}")))
    assert (found.outcome, found.reason) == ("scored", None)
    assert found.value == pytest.approx(plain.value, rel=1e-5)


def test_nothing_that_scoring_prints_or_raises_reaches_the_measurement(engine, trial, tmp_path):
    """It is kept in a log for a person, and an agent is told of measurements alone."""
    model = (
        "class Model(Bigram):\n    def forward(self, x):\n"
        "        if not self.training and x[0, 1:].tolist() != list(range(1, 32)):\n"  # those that are made up
        "            print('HELD', x[0].tolist(), flush=True)\n"
        "            raise RuntimeError(f'HELD {x[0].tolist()}')\n"
        "        return self.table[x]\n"
    )
    measurement = engine().measure(trial(TRAIN.replace("class Model(Bigram): pass", model)))
    assert (measurement.outcome, measurement.phase, measurement.traceback) == ("crashed", "score", None)
    assert "HELD" not in str(measurement)
    assert "HELD" in (tmp_path / "logs" / "score.log").read_text()


def test_a_trial_that_may_be_kept_is_audited_more_closely(engine, trial):
    assert engine().measure(replace(trial(), bar=8.0)).audit.positions == 128
    assert engine().measure(replace(trial(), bar=1.0)).audit.positions == 32
