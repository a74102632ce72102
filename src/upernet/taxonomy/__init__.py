"""Taxonomies: the levels of perception, their classes, and which parts belong to which object."""

from upernet.taxonomy.levels import LEVEL_KINDS, LEVELS, LevelKind, LevelName
from upernet.taxonomy.mapping import TaxonomyMapping, map_taxonomies, merge_taxonomies
from upernet.taxonomy.taxonomy import (
    IGNORE,
    Level,
    PartGroup,
    Taxonomy,
    list_taxonomies,
    load_taxonomy,
)

__all__ = [
    "IGNORE",
    "LEVELS",
    "LEVEL_KINDS",
    "Level",
    "LevelKind",
    "LevelName",
    "PartGroup",
    "Taxonomy",
    "TaxonomyMapping",
    "list_taxonomies",
    "load_taxonomy",
    "map_taxonomies",
    "merge_taxonomies",
]
