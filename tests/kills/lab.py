"""The lab whose run is killed, and an agent that has something to propose for every verdict."""

import re
from pathlib import Path

from tests.conftest import PROGRAM, Lab, write_texts

TAG = "quick"

CORE = '''\
"""A bigram model: it learns in a moment, and how much of that shows is its SHARE's doing."""

import torch
import torch.nn.functional as F
from torch import nn

VOCAB_SIZE = 256  # bytes
CONTEXT = 32  # tokens
DEPTH = 1  # layers
SHARE = 0.02  # [0.001, 1.5] log; of what it has learned
LUCK = 0.0  # [0.0, 1.0]; how much is the seed's doing


class Bigram(nn.Module):
    def __init__(self, device):
        super().__init__()
        self.table = nn.Embedding(VOCAB_SIZE, VOCAB_SIZE, device=device)
        nn.init.zeros_(self.table.weight)

    def forward(self, tokens):
        return self.table(tokens) * SHARE


def build_model(device):
    return Bigram(device)


def main(run):
    model = build_model(run.device)
    run.start(model)
    for tokens, targets in run.batches(64, CONTEXT):
        loss = F.cross_entropy(model.table(tokens).flatten(0, 1), targets.flatten())
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            model.table.weight -= 100 * model.table.weight.grad
        run.report(loss.detach())
    with torch.no_grad():
        model.table.weight *= 1 + LUCK * (run.seed % 7 - 3) / 10
    run.save(model)
'''

AGENT = '''\
"""Reads a prompt, and proposes what its number says: of every verdict one in turn."""

import re
import sys

prompt = sys.stdin.read()
number = int(re.search(r"Propose experiment (\\d+)", prompt)[1])
kind = ("better", "worse", "lucky", "better", "broken", "nonsense")[number % 6]
share = float(re.findall(r"^SHARE = (\\S+)", prompt, re.M)[-1])
new = {
    "better": (round(share + 0.006, 4), 0.0),
    "worse": (round(share / 2, 4), 0.0),
    "lucky": (round(share + 0.002, 4), 1.0),  # as its seed will have it: a check with another one tells
    "broken": (share, '"no"'),
}
print(f"TITLE: {kind} {number}\\nFAMILY: optimizer\\nHYPOTHESIS: because.\\nEXPECT: -0.1\\ntrain_core.py")
for name, value in zip(("SHARE", "LUCK"), new.get(kind, ())):
    line = re.findall(rf"^{name} = .*$", prompt, re.M)[-1]
    changed = re.sub(r"= \\S+", f"= {value}", line, count=1)
    if changed != line:
        print(f"<<<<<<< SEARCH\\n{line}\\n=======\\n{changed}\\n>>>>>>> REPLACE")
'''


def make_lab(root: Path) -> Lab:
    """A lab in a new folder, with a home, a cache and temporary files of its own, whose owner is in the middle of
    something."""
    texts, home, temporary = root / "texts", root / "home", root / "tmp"
    write_texts(texts)
    home.mkdir()
    temporary.mkdir()
    (home / ".gitconfig").write_text("[user]\n\tname = Ada\n\temail = ada@example.org\n")
    user = Lab(root, home, root / "cache", {"TMPDIR": str(temporary)})
    lab = user.at(root / "lab")
    _done(user, "init", "lab")
    program = re.sub(r"constants: \{.*?\}\n", "", PROGRAM.format(corpus=texts), flags=re.DOTALL)
    program = program.replace("max_steps: 2", "max_steps: 60").replace("seeds: 1", "seeds: 2")
    lab.program.write_text(program)
    lab.train_core.write_text(CORE)
    (root / "agent.py").write_text(AGENT)
    lab.git("add", "--all")
    lab.git("commit", "--quiet", "--message", "A bigram model")
    (lab.root / "README.md").write_text("staged\n")
    lab.git("add", "README.md")
    (lab.root / "README.md").write_text("and edited\n")
    (lab.root / "notes.txt").write_text("not tracked\n")
    _done(lab, "prepare", "--program", "programs/quick.md")
    return lab


def _done(lab: Lab, *arguments: object) -> None:
    done = lab(*arguments)
    assert done.code == 0, done.err + done.out
