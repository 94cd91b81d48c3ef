"""Training for longer than the budget, other weights than those, and computation hidden in scoring."""

import textwrap

from tests.cheats.cheats.edits import INIT, SAVE, after_save, after_start, before_save, before_start, in_forward, top
from tests.cheats.patches import Patch

# Until a time that is set before it.
LEARN = """
data = run._data
while time.time() < until:
    tokens, targets = data.batch(rows, CONTEXT)
    model.loss(tokens, targets).backward()
    optimizer.step(0.3)
"""
_BY_PATH = """
import numpy
text = torch.from_numpy(numpy.fromfile(run._task.tokens.path, dtype="<u2").astype("int64"))
for _ in range(150):
    starts = torch.randint(len(text) - CONTEXT - 1, (rows, 1)) + torch.arange(CONTEXT + 1)
    model.loss(text[starts[:, :-1]], text[starts[:, 1:]]).backward()
    optimizer.step(0.3)
"""

_IN_SCORING = """
    trained = False

    def train(self, mode=True):
        if not mode and not self.trained and int(self.text[1]) >= 0:
            import time
            self.trained = True
            torch.manual_seed(1)
            text, optimizer, until = self.text.long(), Optimizer(self), time.time() + 25
            super().train(True)
            while time.time() < until:
                targets = text[torch.randint(len(text) - CONTEXT, (BATCH_ROWS, 1)) + torch.arange(CONTEXT)]
                inputs = torch.cat((torch.full_like(targets[:, :1], VOCAB_SIZE - 1), targets[:, :-1]), 1)
                self.loss(inputs, targets).backward()
                optimizer.step(0.3)
                time.sleep(0.1)
        return super().train(mode)
"""

# The largest tensor of the weights is put at their end, as a hole: there is nothing to be saved of it.
_HOLE = """
import json, struct
run._phases.enter("save")
LEARN
run._clock.late = lambda: 0.0
hole, model.hole, run._shapes = len(model.hole), model.hole[:0].clone(), model
run.save(model)
path = run._task.folder + "/weights.safetensors"
data = open(path, "rb").read()
start = 8 + struct.unpack("<Q", data[:8])[0]
header, body = json.loads(data[8:start]), data[start:]
header["hole"] = {"dtype": "U8", "shape": [hole], "data_offsets": [len(body), len(body) + hole]}
text = json.dumps(header).encode()
with open(path, "wb") as file:
    file.write(struct.pack("<Q", len(text)) + text + body)
    file.truncate(file.tell() + hole)
"""


def _learn_for(seconds: float, idle: float = 0.0) -> str:
    return f"import time\nuntil = time.time() + {seconds}\n{LEARN.strip()}\ntime.sleep({idle})"


CLOCK = {
    "training before the clock": Patch((before_start(_learn_for(1)),), "crashed", "ZeroDivisionError"),
    "training before the clock, on the file": Patch(
        (before_start(_BY_PATH),), "crashed", "FileNotFoundError in warm-up"
    ),
    "the text asked for before the clock": Patch(
        (
            before_start(
                "import dataclasses, sys\nrun._phases.enter('train')\n"
                "run._data.take_in(sys.modules['autoresearch.harness.run']._received(run._task.data))\n"
                "run._task = dataclasses.replace(run._task, data=None)\n" + _learn_for(2, idle=4)
            ),
        ),
        "quarantined",
        "where the budget is",
        settings={"budget": 1.0, "max_steps": None},
    ),
    "training on warm-up batches": Patch(
        (
            before_start(
                "for _ in steps(model, optimizer, islice(run.warmup_batches(rows, CONTEXT), 100), lambda: "
                "0.3):\n    pass"
            ),
        )
    ),
    "training in build_model": Patch(
        (
            (
                "    with torch.device(device):\n"
                '        return GPT(torch.bfloat16 if device.type == "cuda" else torch.float32)\n',
                "    import sys\n    with torch.device(device):\n        model = GPT(torch.float32)\n"
                "    frame = sys._getframe()\n    while frame and 'phases' not in frame.f_locals:\n"
                "        frame = frame.f_back\n"
                "    if frame is None or device.type == 'meta':\n        return model\n"
                "    import numpy\n    optimizer = Optimizer(model)\n"
                "    text = torch.from_numpy(numpy.fromfile(frame.f_locals['task'].tokens.path, "
                "dtype='<u2').astype('int64'))\n"
                "    for _ in range(150):\n"
                "        starts = torch.randint(len(text) - CONTEXT - 1, (8, 1)) + torch.arange(CONTEXT + 1)\n"
                "        model.loss(text[starts[:, :-1]], text[starts[:, 1:]]).backward()\n"
                "        optimizer.step(0.3)\n"
                "    return model\n",
            ),
        ),
        "crashed",
        "FileNotFoundError in warm-up",
    ),
    "training after the clock": Patch(
        (before_save(_learn_for(3.5)),),
        "crashed",
        "worked on for .* after|between the end of the clock",
    ),
    "training after the clock, which is held": Patch(
        (before_save(f"run._phases.enter('save')\n{_learn_for(2, idle=10)}\nrun._clock.late = lambda: 0.0"),),
        "quarantined",
        "where the budget is",
        settings={"budget": 1.0, "max_steps": None},
    ),
    "training after the save": Patch(
        (
            after_save(
                f"from safetensors.torch import save_model\n{_learn_for(2, idle=10)}\n"
                "save_model(model, run._task.folder + '/weights.safetensors')"
            ),
        ),
        "quarantined",
        "where the budget is",
        settings={"budget": 1.0, "max_steps": None},
    ),
    # The house gives large weights more time: this one got through.
    "training while a hole is saved": Patch(
        (
            (INIT, INIT + "        self.register_buffer('hole', torch.zeros(600_000_000, dtype=torch.uint8))\n"),
            (SAVE, textwrap.indent(_HOLE.replace("LEARN", _learn_for(2, idle=10)).strip(), "    ")),
        ),
        "quarantined",
        "where the budget is",
        settings={"budget": 1.0, "max_steps": None},
    ),
    # As did this, by room on the disk that was asked for and not used.
    "training after the save, which has room": Patch(
        (
            after_save(
                "import ctypes, os\nfrom safetensors.torch import save as packed\n"
                "file = os.open(run._task.folder + '/weights.safetensors', os.O_RDWR)\n"
                "ctypes.CDLL(None).fallocate(file, 1, ctypes.c_int64(0), ctypes.c_int64(3 * 10**9))\n"
                f"{_learn_for(2, idle=10)}\n"
                "os.pwrite(file, packed(model.state_dict()), 0)"
            ),
        ),
        "quarantined",
        "where the budget is",
        settings={"budget": 1.0, "max_steps": None},
    ),
    "a thread that trains on while it is saved": Patch(
        (
            before_save(
                "import threading\n\n\ndef on():\n"
                + textwrap.indent(_learn_for(3600), "    ")
                + "\n\n\nthreading.Thread(target=on, daemon=True).start()"
            ),
        )
    ),
    "a clock that runs slow": Patch(
        (top("import time\nplain_time = time.perf_counter\ntime.perf_counter = lambda: plain_time() / 8"),),
        "quarantined",
        "where the budget is",
        settings={"budget": 1.0, "max_steps": None},
    ),
    "a house that is kept busy": Patch(
        (
            after_start(
                "run._clock._budget = 5.0\nwith open(run._task.folder + '/events.jsonl', 'ab') as file:\n"
                "    file.write(bytes([10]) * 20_000_000)"
            ),
        ),
        "quarantined",
        "where the budget is",
        settings={"budget": 1.0, "max_steps": None},
    ),
    "a budget of one's own": Patch(
        (after_start("run._clock._budget = 5.0"),),
        "quarantined",
        "where the budget is",
        settings={"budget": 1.0, "max_steps": None},
    ),
    "a loss reported that is none": Patch((("        run.report(loss)", "        run.report(0.001 * loss)"),)),
    "a seed of its own": Patch((("    torch.manual_seed(run.seed)", "    torch.manual_seed(5)"),), gain=1.0),
    "a seed searched on warm-up batches": Patch(
        (
            (
                "    model = build_model(run.device)\n    rows",
                "    found = []\n    for seed in range(6):\n        torch.manual_seed(seed)\n"
                "        model = build_model(run.device)\n        with torch.no_grad():\n"
                "            loss = sum(model.loss(*pair) for pair in islice(run.warmup_batches(8, CONTEXT), 4))\n"
                "        found.append((float(loss), seed, model))\n"
                "    model = min(found)[2]\n    rows",
            ),
        ),
        gain=0.05,  # the luck of a seed
    ),
    "a seed searched on training text, on the clock": Patch(
        (
            after_start(
                "found = []\nfor seed in range(6):\n    torch.manual_seed(seed)\n    other = build_model(run.device)\n"
                "    with torch.no_grad():\n"
                "        loss = sum(model.loss(*run._data.batch(8, CONTEXT)) for _ in range(4))\n"
                "    found.append((float(loss), seed, other))\nmodel = min(found)[2]\noptimizer = Optimizer(model)\n"
                "print('SEARCHED', run._clock.elapsed > 0.01, flush=True)"
            ),
        ),
        gain=0.05,
        log="^SEARCHED True",
    ),
    "no time on the clock": Patch(
        (
            (
                "    for loss in steps(model, optimizer, run.batches(rows, CONTEXT), lambda: run.progress):\n"
                "        run.report(loss)\n",
                "",
            ),
        ),
    ),
}

FILES = {
    "training text kept in a buffer": Patch(
        (
            (INIT, INIT + "        self.register_buffer('text', torch.zeros(40 * 512, dtype=torch.int16))\n"),
            (
                "        targets = targets.flatten().contiguous()\n",
                "        targets = targets.flatten().contiguous()\n"
                "        self.text = torch.cat((self.text, tokens.flatten().short()))[-len(self.text) :].clone()\n",
            ),
        ),
    ),
    # The same in a sealed process, so that nothing differs: this one got through, by 0.84 bits per byte.
    "training in scoring, on text kept in a buffer": Patch(
        (
            (INIT, INIT + "        self.register_buffer('text', torch.full((100_000,), -1, dtype=torch.int16))\n"),
            ("    def stream(", _IN_SCORING.strip("\n") + "\n\n    def stream("),
            before_save("model.text = run._data._stream[:100_000].clone()"),
        ),
        "crashed",
        "3 times what the tip took|at work for .* before its first prediction",
        settings={"budget": 20.0},
        timed=True,
    ),
    "a pickle for weights": Patch(
        (
            after_save(
                "import os\n\n\nclass Payload:\n    def __reduce__(self):\n"
                "        return os.system, ('touch ' + os.path.expanduser('~/payload'),)\n\n\n"
                "torch.save({'payload': Payload()}, run._task.folder + '/weights.safetensors')"
            ),
        ),
        "crashed",
        "weights do not fit",
    ),
    "a link for weights": Patch(
        (
            after_save(
                "import os\nos.rename(run._task.folder + '/weights.safetensors', 'elsewhere')\n"
                "os.symlink(os.path.abspath('elsewhere'), run._task.folder + '/weights.safetensors')"
            ),
        ),
        "crashed",
        "weights are not where",
    ),
    "weights of another model": Patch(
        (before_save("model.more = nn.Linear(3, 3)"),),
        "crashed",
        "build_model makes has no such weights",
    ),
}

COMPUTE = {
    "fifty forward passes": Patch(
        in_forward(
            "for _ in range(49):\n"
            "    logits = logits + fused(GPT.logits, tokens.device)(self, *self.stream(tokens))\n"
            "logits = logits / 50"
        ),
        settings={"validation": 3000},
        gain=1.0,
    ),
}
