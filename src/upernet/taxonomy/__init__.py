"""What can be recognised: the levels of perception, their classes, and which parts belong to which object."""

from upernet.taxonomy.taxonomy import (
    IGNORE,
    LEVELS,
    Level,
    PartGroup,
    Taxonomy,
    list_taxonomies,
    load_taxonomy,
)

__all__ = ["IGNORE", "LEVELS", "Level", "PartGroup", "Taxonomy", "list_taxonomies", "load_taxonomy"]
