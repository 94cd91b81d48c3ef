"""On PYTHONPATH of labs that train nothing: their fork server imports nothing ahead, which would take it seconds.

All else is as it is, also if something is trained after all: a child imports for itself, as on macOS.
"""

import sys

if "autoresearch.harness.child" in sys.orig_argv:
    from autoresearch.harness import preload

    for name in ("first", "rest"):
        if not callable(getattr(preload, name, None)):
            raise SystemExit(f"preload.{name} is not there any more")
        setattr(preload, name, lambda *_: None)
