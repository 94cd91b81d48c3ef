"""What measured: figures with different fingerprints are not compared."""

import contextlib
import hashlib
from importlib import metadata
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_EXTRAS = ("nvidia-cudnn-frontend",)  # used by the harness where they are installed, which changes the speed


def harness_fingerprint() -> str:
    """SHA-256 over the text of the harness and of the corpus reader, read as files, and the versions of extras."""
    digest = hashlib.sha256()
    for path in [*sorted((_PACKAGE / "harness").glob("*.py")), _PACKAGE / "corpus" / "reader.py"]:
        text = path.read_bytes()
        digest.update(f"{path.name} {len(text)}\n".encode() + text)
    for name in _EXTRAS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            digest.update(f"{name} {metadata.version(name)}\n".encode())
    return digest.hexdigest()
