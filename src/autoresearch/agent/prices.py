"""What a model's tokens cost: from the table of genai-prices, or as the user says."""

import math
from dataclasses import dataclass
from typing import Protocol

from autoresearch.errors import Misuse
from autoresearch.records import Usage

_MILLION = 1e6


class Price(Protocol):
    """What a model's tokens cost."""

    def cost(self, usage: Usage) -> float:
        """US dollars for a call that took these tokens."""
        ...


@dataclass(frozen=True, slots=True)
class GivenPrice:
    """US dollars per million tokens, as the user gave them; what is written to a cache costs what input does."""

    input: float
    output: float
    cached: float

    def cost(self, usage: Usage) -> float:
        """US dollars."""
        total, cached, _, _ = _parts(usage)
        fresh = total - cached
        return (fresh * self.input + cached * self.cached + (usage.output_tokens or 0) * self.output) / _MILLION


@dataclass(frozen=True, slots=True)
class ListPrice:
    """A provider's price for a model of that name, tiers and cache included, as genai-prices knows it."""

    provider: str
    model: str

    def cost(self, usage: Usage) -> float:
        """US dollars. LookupError if the table has no such model."""
        import genai_prices

        total, cached, written, written_5m = _parts(usage)
        found = genai_prices.calc_price(
            genai_prices.Usage(
                input_tokens=total,
                cache_read_tokens=cached,
                cache_write_tokens=written,
                # At Anthropic alone they are kept for an hour, at another price, unless it says otherwise.
                cache_write_1h_tokens=written - written_5m if self.provider == "anthropic" else 0,
                output_tokens=usage.output_tokens or 0,
            ),
            self.model,
            provider_id=self.provider,
        )
        return float(found.total_price)


def _parts(usage: Usage) -> tuple[int, int, int, int]:
    """Tokens of the prompt, and of these cached, written, and written for a short time: no part is more than what it
    is part of, whatever a server says."""
    total = usage.input_tokens or 0
    cached = min(usage.cached_tokens or 0, total)
    written = min(usage.written_tokens or 0, total - cached)
    return total, cached, written, min(usage.written_5m_tokens or 0, written)


def listed(provider: str, model: str, url: str | None = None) -> Price | None:
    """The list price of a model, None if there is none: of the provider whose API is at `url`, if the table knows it,
    and else of `provider`, which a gateway may stand before."""
    price = ListPrice(_seller(url) or provider, model)
    try:
        cost = price.cost(Usage(input_tokens=1000, cached_tokens=100, written_tokens=100, output_tokens=100))
    except Exception:  # an unknown model, or one that is not priced by such tokens: what it costs is not known
        return None
    return price if cost > 0 else None


def _seller(url: str | None) -> str | None:
    """Whose API it is."""
    if url is None:
        return None
    from genai_prices.data_snapshot import get_snapshot

    try:
        return get_snapshot().find_provider(None, None, url).id
    except LookupError:
        return None


def describe(price: Price) -> str:
    """A price in a few words, as it is for short prompts."""
    rates = [1000 * price.cost(usage) for usage in (Usage(input_tokens=1000), Usage(output_tokens=1000))]
    return "${:.4g} in and ${:.4g} out per million tokens".format(*rates)


def given(text: str) -> Price:
    """The price in `IN,OUT` or `IN,OUT,CACHED`, US dollars per million tokens. Misuse if it is none."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (2, 3) or not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise Misuse(
            f"--price {text} is not a price.",
            "Write IN,OUT or IN,OUT,CACHED in dollars per million tokens, such as --price 3,15,0.3; 0,0 if it is free.",
        )
    return GivenPrice(numbers[0], numbers[1], numbers[2] if len(numbers) == 3 else numbers[0])
