"""On PYTHONPATH of engines that train the core many times: their fork server imports once what torch's optimizers would
import in each of its children, for a second. Where there is a GPU, that is so anyway."""

import sys

if "autoresearch.harness.child" in sys.orig_argv:
    import torch._dynamo  # noqa: F401
