"""Addresses of webhooks: who knows one may write to it, so no more than its host is ever shown."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from autoresearch.errors import Misuse


def check(url: str) -> None:
    """Misuse if it is no whole http(s) address."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and "…" not in url
    except ValueError:
        fits = False
    if not fits or any(character.isspace() for character in url):
        raise Misuse(
            "--notify was given what is no http or https address.",
            "Write it whole, such as --notify https://ntfy.sh/my-topic.",
        )


def shown(url: str) -> str:
    """As much of an address as may be seen."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "…"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/…"


def masked(arguments: Sequence[str]) -> list[str]:
    """A command line as it may be shown."""
    hidden = []
    for before, word in zip(("", *arguments), arguments, strict=False):
        option, equals, url = word.partition("=")
        if before == "--notify":
            hidden.append(shown(word))
        elif option == "--notify" and equals:
            hidden.append(f"{option}={shown(url)}")
        else:
            hidden.append(word)
    return hidden
