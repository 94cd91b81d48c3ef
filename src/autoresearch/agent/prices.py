"""What a model's tokens cost: from the table of genai-prices, or as the user says."""

import math
from dataclasses import dataclass

from autoresearch.agent.models import Price
from autoresearch.errors import Misuse
from autoresearch.records import Usage

_MILLION = 1e6


@dataclass(frozen=True, slots=True)
class GivenPrice:
    """US dollars per million tokens, as the user gave them; what is written to a cache costs what input does."""

    input: float
    output: float
    cached: float

    def cost(self, usage: Usage) -> float:
        """US dollars."""
        read = usage.cached_tokens or 0
        fresh = (usage.input_tokens or 0) - read
        return (fresh * self.input + read * self.cached + (usage.output_tokens or 0) * self.output) / _MILLION


@dataclass(frozen=True, slots=True)
class ListPrice:
    """A provider's price for a model of that name, tiers and cache included, as genai-prices knows it."""

    provider: str
    model: str

    def cost(self, usage: Usage) -> float:
        """US dollars. Cache writes at the one-hour rate where there is one, since that is what is asked for."""
        import genai_prices

        written = usage.written_tokens or 0
        found = genai_prices.calc_price(
            genai_prices.Usage(
                input_tokens=usage.input_tokens or 0,
                cache_read_tokens=usage.cached_tokens or 0,
                cache_write_tokens=written,
                cache_write_1h_tokens=written if self.provider == "anthropic" else 0,
                output_tokens=usage.output_tokens or 0,
            ),
            self.model,
            provider_id=self.provider,
        )
        return float(found.total_price)


def listed(provider: str, model: str) -> Price | None:
    """The list price of a provider's model; None if there is none."""
    price = ListPrice(provider, model)
    try:
        price.cost(Usage(input_tokens=1, output_tokens=1))
    except LookupError:
        return None
    return price


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
