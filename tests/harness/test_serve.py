"""What a serving process does before the candidate's code is let in."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from autoresearch.engine import caches

SEALED = """
import os, sys
import torch
from autoresearch.harness.serve import _seal
from autoresearch.harness.wire import ServeTask

def compiler(graph, inputs):
    raise AssertionError("compiled")

for packed in (b"", open("compiled.tar", "rb").read(), b"no archive"):
    read, write = os.pipe()
    os.write(write, len(packed).to_bytes(4, "little") + packed)
    _seal(ServeTask("sealed", sys.argv[1], "", "cuda", 1, 1, 1, 0, None, read, -1))
    print(os.environ["TORCHINDUCTOR_CACHE_DIR"], os.environ["TRITON_CACHE_DIR"])

@torch.compile(backend=compiler, fullgraph=True)
def doubled(x):
    return 2 * x

model = torch.nn.Sequential(torch.nn.Linear(2, 2))
model[0].compile(backend=compiler)
whole = torch.compile(model, backend=compiler)
assert doubled(torch.ones(2)).tolist() == [2, 2]
assert whole(torch.ones(1, 2)).shape == (1, 2)
assert list(whole.state_dict())[0].startswith("_orig_mod"), "compiled modules keep the names that their weights have"
"""


def test_a_sealed_process_compiles_nothing_and_has_a_cache_of_its_own_with_what_it_was_given(tmp_path):
    """The GPU's rule, which holds without one: the compiler is told before it compiles anything."""
    environ = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": "/shared", "TRITON_CACHE_DIR": "/shared"}
    made = tmp_path / "made" / "triton" / "K"
    made.mkdir(parents=True)
    (made / "__grp__k.json").write_text('{"child_paths": {"k.so": "/elsewhere/K/k.so"}}')
    (tmp_path / "compiled.tar").write_bytes(caches.packed(tmp_path / "made") or b"")
    shutil.rmtree(tmp_path / "made")
    command = [sys.executable, "-c", SEALED, str(tmp_path / "train_core.py")]
    done = subprocess.run(command, env=environ, cwd=tmp_path, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    found = done.stdout.split()
    assert len(set(found)) == len(found) == 6
    assert all(path.startswith(str(tmp_path)) for path in found)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != tmp_path]
    assert files == [Path(found[3]) / "K" / "__grp__k.json"]
    assert json.loads(files[0].read_text()) == {"child_paths": {"k.so": str(files[0].with_name("k.so"))}}
