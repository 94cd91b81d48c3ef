"""What measured: figures with different fingerprints are not compared."""

import contextlib
import hashlib
from importlib import metadata
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
WINDOWS = "nvidia-cudnn-frontend"  # the package that the harness uses where it is installed, which changes the speed


def harness_fingerprint() -> str:
    """SHA-256 over the text of the harness and of the corpus reader, read as files, and the version of WINDOWS."""
    digest = hashlib.sha256()
    for path in [*sorted((_PACKAGE / "harness").rglob("*.py")), _PACKAGE / "corpus" / "reader.py"]:
        text = path.read_bytes()
        digest.update(f"{path.name} {len(text)}\n".encode() + text)
    with contextlib.suppress(metadata.PackageNotFoundError):
        digest.update(f"{WINDOWS} {metadata.version(WINDOWS)}\n".encode())
    return digest.hexdigest()
