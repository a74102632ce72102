"""A first recipe for a folder of photos and masks: what is in the folder, and good settings to train on it.

`propose` looks at the folder: `listing` -> `masks` (by `layouts`, `measure` and `classes`), `outlines` or
`label_folders` -> `Found` -> `splits` and `defaults` -> `Proposal`. `write_recipe` writes it.
"""

from __future__ import annotations

from upernet.scaffold.proposal import Proposal, propose
from upernet.scaffold.writing import recipe_files, write_recipe

__all__ = ["Proposal", "propose", "recipe_files", "write_recipe"]
