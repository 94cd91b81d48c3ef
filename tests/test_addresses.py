"""No more of a webhook's address than its host is seen."""

from autoresearch.addresses import masked, shown

SECRET = "T0KEN-of-the-channel"


def test_only_the_host_is_shown() -> None:
    assert shown(f"https://me:{SECRET}@hooks.example.org:8443/a/{SECRET}?b={SECRET}#c") == (
        "https://hooks.example.org:8443/…"
    )
    assert masked(["run", "--notify", "https://a.b/c", "-n", "3", "--notify=http://[", "--agent=x"]) == [
        "run", "--notify", "https://a.b/…", "-n", "3", "--notify=…", "--agent=x",
    ]  # fmt: skip
