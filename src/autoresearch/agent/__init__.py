"""Who proposes the next experiment: a search over the knobs, or a chat model that edits the file."""

from autoresearch.agent.select import make_agent

__all__ = ["make_agent"]
