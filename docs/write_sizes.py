"""Count the parameters and multiply-adds of all models, for src/upernet/checkpoints/sizes.json.

::

    python docs/write_sizes.py    # after a change of a network or a recipe
"""

from __future__ import annotations

import json

from upernet.checkpoints.sizes import SIZES, counted_size
from upernet.files import write_text
from upernet.models import list_models


def main() -> None:
    sizes = {name: counted_size(name) for name in list_models()}
    counts = {name: {"params": size.params, "macs": size.macs} for name, size in sizes.items()}
    write_text(SIZES, json.dumps(counts, indent=2) + "\n")


if __name__ == "__main__":
    main()
