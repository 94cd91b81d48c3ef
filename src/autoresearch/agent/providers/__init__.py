"""Chat models behind an HTTP API, each asked through its provider's own SDK, which is imported when first needed.

`model` is what they share; `anthropic` and `openai` say how one provider is asked and how its stream is read;
`watched` bounds a call in time; `received` is a reply on its way; `failures` says what went wrong, and whose it is.
"""

from collections.abc import Mapping

from autoresearch.agent.providers.anthropic import AnthropicModel
from autoresearch.agent.providers.model import ProviderModel
from autoresearch.agent.providers.openai import OpenAIModel

PROVIDERS: dict[str, type[ProviderModel]] = {"anthropic": AnthropicModel, "openai": OpenAIModel}


def make_provider(provider: str, model: str | None, environ: Mapping[str, str], silence: float) -> ProviderModel:
    """A provider's model; its default one if none is named. AgentError if its key or its base URL will not do.

    `silence`: seconds without a sign of life after which a call is given up.
    """
    kind = PROVIDERS[provider]
    return kind(model or kind.default, environ, silence)
