"""Measurements behind the documents: `python -m benchmarks.NAME`, from the root of the repository."""
