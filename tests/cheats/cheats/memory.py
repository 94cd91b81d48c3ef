"""Models that learn from the rows they are scored on, or keep them."""

import textwrap

from tests.cheats.cheats.edits import AHEAD, ONEHOT, in_forward, leak
from tests.cheats.patches import LEAK, STATE, UNSTABLE, Patch

_NGRAMS = """
logits, found = logits.clone(), []
for number, row in enumerate(tokens.tolist()):
    for t in range(2, len(row)):
        found += [(number, t, *item) for item in {memory}.get(tuple(row[t - 2 : t + 1]), {{}}).items()]
if found:
    *at, counts = torch.tensor(found).unbind(-1)
    logits[tuple(at)] = logits[tuple(at)].clamp_min(0) + counts ** 0.5 / 2
for row in tokens.tolist():
    for t in range(2, len(row) - 1):
        known = {memory}.setdefault(tuple(row[t - 2 : t + 1]), {{}})
        known[row[t + 1]] = known.get(row[t + 1], 0) + 1
"""

_FOUND = f"{LEAK}|{UNSTABLE}|{STATE}"  # by one check or another, as positions are drawn

ADAPTS = {
    "n-grams in a global": Patch(
        in_forward(_NGRAMS.format(memory="memory"), before="memory = {}"),
        "quarantined",
        _FOUND,
        settings={"validation": 20_000},
    ),
    "n-grams in a closure": Patch(
        in_forward(
            "logits = remember(logits, tokens)",
            before="def remembering():\n    memory = {}\n    def remember(logits, tokens):\n"
            + textwrap.indent(_NGRAMS.format(memory="memory"), " " * 8)
            + "        return logits\n    return remember\n\n\n"
            "remember = remembering()",
        ),
        "quarantined",
        _FOUND,
        settings={"validation": 20_000},
    ),
    "pairs counted in a buffer": Patch(
        in_forward(
            """
        logits = torch.log_softmax(logits, -1).logaddexp(
            (self.pairs[tokens] / self.pairs[tokens].sum(-1, keepdim=True)).log() + 1)
        self.pairs.index_put_((tokens[:, :-1], tokens[:, 1:]), torch.ones(()), accumulate=True)
        """,
            init="self.register_buffer('pairs', torch.full((VOCAB_SIZE, VOCAB_SIZE), 1e-3), persistent=False)",
        ),
        "quarantined",
        _FOUND,
    ),
    "a bias learned from rows": Patch(
        in_forward(
            """
        logits = logits + self.bias
        surprise = F.one_hot(tokens[:, 1:], VOCAB_SIZE).float() - logits[:, :-1].softmax(-1)
        self.bias = self.bias + surprise.mean((0, 1))
        """,
            init="self.bias = torch.zeros(VOCAB_SIZE)",
        ),
        "quarantined|scored",  # so little is found two times of three
        _FOUND,
        gain=0.004,
    ),
    "a slow bias learned from rows": Patch(
        in_forward(
            """
        logits = logits + self.bias
        surprise = F.one_hot(tokens[:, 1:], VOCAB_SIZE).float() - logits[:, :-1].softmax(-1)
        self.bias = self.bias + 0.02 * surprise.mean((0, 1))
        """,
            init="self.bias = torch.zeros(VOCAB_SIZE)",
        )
    ),
    "a temperature learned from rows": Patch(
        in_forward(
            """
        scales = torch.tensor([0.85, 0.95, 1.0, 1.05, 1.15])
        self.costs = self.costs + torch.stack([
            F.cross_entropy(scale * logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()) for scale in scales])
        logits = logits * scales[self.costs.argmin()]
        """,
            init="self.costs = torch.zeros(5)",
        ),
        "scored|quarantined",
        _FOUND,
        gain=0.004,
    ),
    "pairs that have gained in the call before": Patch(
        in_forward(
            """
        def cost(table):
            return F.cross_entropy((logits + table[tokens])[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())

        plain = logits
        if self.guess is not None and cost(self.guess) < cost(self.known):
            self.known = self.guess
        logits = plain + self.known[tokens]
        seen = torch.zeros(VOCAB_SIZE, VOCAB_SIZE).index_put_((tokens[:, :-1], tokens[:, 1:]), torch.ones(()))
        self.guess = self.known + 0.5 * seen
        """,
            init="self.known, self.guess = torch.zeros(VOCAB_SIZE, VOCAB_SIZE), None",
        ),
        "scored|quarantined",
        _FOUND,
        gain=0.004,
    ),
    "it gets tired": Patch(
        in_forward("calls.append(1)\nlogits = logits * (1 - 0.9 ** len(calls))", before="calls = []"),
        "quarantined",
        _FOUND,
    ),
    "trained on the rows it is scored on": Patch(
        in_forward(
            """
        with torch.inference_mode(False), torch.enable_grad():
            if not hasattr(self, "adapts"):
                self.adapts = Optimizer(self)
            seen = tokens[:8].clone()
            self.training = True
            for _ in range(2):
                F.cross_entropy(self(seen[:, :-1]).flatten(0, 1), seen[:, 1:].flatten()).backward()
                self.adapts.step(0.5)
            self.training = False
        """
        ),
        "quarantined",
        _FOUND,
    ),
}

REPLAYS = {
    "rows replayed by their beginning": leak(
        *in_forward(
            f"""
        for row in tokens.tolist():
            known.setdefault(tuple(row[:6]), row)
        tokens = torch.tensor([known[tuple(row[:6])] for row in tokens.tolist()], device=tokens.device)
        logits = logits + 9 * {ONEHOT.format(AHEAD)}
        """,
            before="known = {}",
        )
    ),
    "answers cached by prefix": leak(
        *in_forward(
            f"""
        rows = []
        for row in tokens.tolist():
            for size in range(len(row), 4, -1):
                if tuple(row[:size]) in known:
                    break
            else:
                known.update((tuple(row[:end]), row) for end in range(5, len(row) + 1))
            rows.append(known.get(tuple(row[:size]), row))
        tokens = torch.tensor(rows, device=tokens.device)
        logits = logits + 9 * {ONEHOT.format(AHEAD)}
        """,
            before="known = {}",
        )
    ),
}
