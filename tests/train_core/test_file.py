"""The training core as a file: its knobs, what it imports, its length; and the yardstick beside it."""

import ast
import subprocess
import sys

import torch

from autoresearch import knobs
from tests.train_core.cores import CPU, TEXT, YARDSTICK, FakeRun


def test_knobs_are_few_annotated_and_within_their_domains():
    found = knobs.read(TEXT)
    for name in ("MOMENTUM_START", "ADAM_EPSILON", "KERNEL_ROWS"):  # constants of a method, further down
        assert found.pop(name).domain is None
    assert 25 <= len(found) <= 40
    assert all(knob.note for knob in found.values())
    assert {"CONTEXT", "VOCAB_SIZE", "DEPTH"} <= set(found)
    assert not found["CONTEXT"].domain and not found["VOCAB_SIZE"].domain
    assert sum(knob.domain is not None for knob in found.values()) >= 20
    for knob in found.values():
        if knob.domain and knob.domain.choices:
            assert knob.value in knob.domain.choices, knob
        elif knob.domain:
            assert knob.domain.low <= knob.value <= knob.domain.high, knob


def test_every_bracketed_comment_is_the_domain_of_a_knob():
    code = TEXT.removeprefix(f'"""{ast.get_docstring(ast.parse(TEXT), clean=False)}"""')
    bracketed = [line for line in code.splitlines() if line.partition("  # ")[2].startswith(("[", "{"))]
    found = [knob for knob in knobs.read(TEXT).values() if knob.domain]
    assert [line.split()[0] for line in bracketed] == [knob.name for knob in found]


def test_it_stands_alone():
    tree = ast.parse(TEXT)
    guarded = {node for block in tree.body if isinstance(block, ast.Try) for node in ast.walk(block)}
    imported = {False: set(), True: set()}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported[node in guarded] |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported[node in guarded].add(str(node.module).split(".")[0])
    assert imported[False] <= sys.stdlib_module_names | {"torch"}
    assert imported[True] == {"triton"}


def test_a_person_can_read_it_from_top_to_bottom():
    assert len(TEXT.splitlines()) <= 700


def test_importing_it_imports_no_compiler(tmp_path):
    (tmp_path / "train_core.py").write_text(TEXT)
    code = "import sys, train_core; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=120).returncode == 0


def test_the_yardstick_still_trains(load):
    core = load(source=YARDSTICK, MICRO_ROWS=8)
    on_meta = core.build_model(torch.device("meta"))
    assert on_meta(torch.zeros(2, 64, dtype=torch.int64, device="meta")).shape == (2, 64, 256)
    run = FakeRun(1)
    core.main(run)
    assert run.events == ["start", "save"] and len(run.losses) == 1
    fresh = core.build_model(CPU).state_dict()
    assert set(fresh) == set(run.saved.state_dict())
    assert not torch.equal(run.saved.unembedding.weight, run.started["unembedding.weight"])
