"""What measured: figures with different fingerprints are not compared."""

import hashlib
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def harness_fingerprint() -> str:
    """SHA-256 over the text of the harness and of the corpus reader, read as files."""
    digest = hashlib.sha256()
    for path in [*sorted((_PACKAGE / "harness").rglob("*.py")), _PACKAGE / "corpus" / "reader.py"]:
        text = path.read_bytes()
        digest.update(f"{path.name} {len(text)}\n".encode() + text)
    return digest.hexdigest()
