"""Discovery of visual knowledge: which classes of different levels go together in a collection of photos."""

from upernet.discovery.discover import discover
from upernet.discovery.relations import Discovery, Relation

__all__ = ["Discovery", "Relation", "discover"]
