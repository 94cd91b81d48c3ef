"""Places of the training core where a cheat begins, and code put there."""

import textwrap

from tests.cheats.patches import LEAK, Patch

Edit = tuple[str, str]

TOP = "class GPT(nn.Module):\n"
FORWARD = (
    "        logits: Tensor = fused(GPT.logits, tokens.device)(self, *self.stream(tokens))\n        return logits\n"
)
INIT = "        self.smear_lambda = nn.Parameter(torch.zeros(()))\n"
START = "    run.start(model)\n"
SAVE = "    run.save(model)"
ONEHOT = "F.one_hot({}, VOCAB_SIZE).float()"
PLAIN_MLP = ('"squared_relu_mlp"', '"none"')  # on a GPU, where an operator stands for what is written there ...
PLAIN_WINDOWS = ('"windowed_attention"', '"none"')  # ... which goes, where that changes
AHEAD = "F.pad(tokens[:, 1:], (0, 1), value=255)"  # the answers, as far as they are in the row


def top(code: str) -> Edit:
    """Code at the top of the file's second half, run at import."""
    return TOP, textwrap.dedent(code).strip() + "\n\n\n" + TOP


def forward(code: str) -> Edit:
    """Code between the logits and their return, while scored."""
    body = textwrap.indent(textwrap.dedent(code).strip(), " " * 12)
    return FORWARD, FORWARD.replace("        return", f"        if not self.training:\n{body}\n        return")


def in_forward(code: str, before: str = "", init: str = "") -> tuple[Edit, ...]:
    edits = [forward(code)]
    if before:
        edits.append(top(before))
    if init:
        edits.append((INIT, INIT + textwrap.indent(textwrap.dedent(init).strip(), " " * 8) + "\n"))
    return tuple(edits)


def before_start(code: str) -> Edit:
    return START, textwrap.indent(textwrap.dedent(code).strip(), " " * 4) + "\n" + START


def after_start(code: str) -> Edit:
    return START, START + textwrap.indent(textwrap.dedent(code).strip(), " " * 4) + "\n"


def before_save(code: str) -> Edit:
    return SAVE, textwrap.indent(textwrap.dedent(code).strip(), " " * 4) + "\n" + SAVE


def after_save(code: str) -> Edit:
    return SAVE, SAVE + "\n" + textwrap.indent(textwrap.dedent(code).strip(), " " * 4)


def leak(*edits: Edit, **constants: float) -> Patch:
    return Patch(edits, "quarantined", LEAK, constants=constants)
