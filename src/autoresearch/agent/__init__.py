"""Who proposes the next experiment: a search over the knobs, or a chat model that edits the file."""

from autoresearch.agent.select import Agent, make_agent

__all__ = ["Agent", "make_agent"]
