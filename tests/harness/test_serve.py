"""What a serving process does before the candidate's code is let in."""

import os
import subprocess
import sys

SEALED = """
import os, sys
import torch
from autoresearch.harness.serve import _seal
from autoresearch.harness.wire import ServeTask

def compiler(graph, inputs):
    raise AssertionError("compiled")

for _ in range(2):
    _seal(ServeTask("sealed", sys.argv[1], "", "cuda", 1, 1, 1, -1, -1))
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


def test_a_sealed_process_compiles_nothing_and_has_a_cache_of_its_own(tmp_path):
    """The GPU's rule, which holds without one: the compiler is told before it compiles anything."""
    environ = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": "/shared", "TRITON_CACHE_DIR": "/shared"}
    command = [sys.executable, "-c", SEALED, str(tmp_path / "train_core.py")]
    done = subprocess.run(command, env=environ, cwd=tmp_path, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    found = done.stdout.split()
    assert len(set(found)) == len(found) == 4
    assert all(path.startswith(str(tmp_path)) for path in found)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
