"""Broden+ of Unified Perceptual Parsing (Xiao et al., ECCV 2018) from its data sets, for sources of kind `label_table`.

```
OUT/{train,val}.jsonl            a photo per line: its file, size, masks and labels
OUT/photos/DATASET/NAME.jpg
OUT/LEVEL/DATASET/NAME.png       labels of object, part, material; 255 in parts: unknown
OUT/LEVEL/labels.txt             names of the labels
OUT/recipe.yaml                  the sources, for recipes
OUT/report.json                  what was found, left out, and why
```
"""

from __future__ import annotations

from upernet.data.prepare.broden.options import Folders, Options
from upernet.data.prepare.broden.report import Estimate, Report
from upernet.data.prepare.broden.run import estimate_broden, prepare_broden

__all__ = ["Estimate", "Folders", "Options", "Report", "estimate_broden", "prepare_broden"]
