"""The files of a discovery: relations.csv, relations.parquet, relations.graphml and report.html."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from upernet.discovery.relations import COLUMNS, Discovery, Relation
from upernet.discovery.report import write_report
from upernet.errors import UpernetError, cell_text, did_you_mean, printable
from upernet.files import atomic_path, write_text

GRAPHML = "http://graphml.graphdrawing.org/xmlns"
_NOT_XML = re.compile("[\ufffe\uffff]")
"""What XML cannot hold and `printable` leaves."""
_TYPES = {name: str(field.type) for name, field in Relation.__dataclass_fields__.items()}
"""Column -> str, int or float."""


def write(discovery: Discovery, out: Path, what: Collection[str] | None = None) -> list[Path]:
    """Write a discovery to a folder, each file atomically, and return the paths of the files.

    * csv: `relations.csv`, a row per relation, with the fields of `Relation` as columns
    * parquet: `relations.parquet`, the same table
    * graphml: `relations.graphml`, a node for each class and an edge for each relation
    * report: `report.html`, a page with graphs, tables and example crops, which needs no network

    Args:
        discovery: The discovery.
        out: The folder.
        what: Names of files to write. Default: all; Parquet only where pyarrow is installed.

    Raises:
        UpernetError: A name is unknown, Parquet is asked for without pyarrow, or a file cannot be written.
    """
    if what is None:
        what = [name for name in WRITERS if name != "parquet" or find_spec("pyarrow")]
    for name in check_what(what):
        file, write_it = WRITERS[name]
        write_it(discovery, out / file)
    return [out / WRITERS[name][0] for name in what]


def check_what(what: Collection[str]) -> Collection[str]:
    """Return names of files. Raises UpernetError for one that is unknown, and for parquet without pyarrow."""
    for name in what:
        if name not in WRITERS:
            raise UpernetError(
                f"{name!r} cannot be saved{did_you_mean(name, WRITERS)}; choose from {', '.join(WRITERS)}."
            )
    if "parquet" in what and not find_spec("pyarrow"):
        raise UpernetError("Parquet files need pyarrow; run: pip install 'upernet[parquet]'")
    return what


def write_csv(discovery: Discovery, file: Path) -> None:
    """Write a row per relation; numbers have all their digits, and names are escaped by `cell_text`."""
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(COLUMNS)
    for relation in discovery.relations:
        values = relation.to_dict().values()
        writer.writerow([cell_text(value) if isinstance(value, str) else value for value in values])
    write_text(file, content.getvalue())


def write_parquet(discovery: Discovery, file: Path) -> None:
    """Write the table of `write_csv` as Parquet, which needs pyarrow."""
    pyarrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    kinds = {"str": pyarrow.string(), "int": pyarrow.int64(), "float": pyarrow.float64()}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in _TYPES.items()])
    table = pyarrow.Table.from_pylist([asdict(relation) for relation in discovery.relations], schema)
    with atomic_path(file) as temporary:
        parquet.write_table(table, temporary)


def write_graphml(discovery: Discovery, file: Path) -> None:
    """Write a directed graph: a node for each class of each level, and an edge for each relation, with its values."""
    root = ElementTree.Element("graphml", xmlns=GRAPHML)
    of_edges = {name: kind for name, kind in _TYPES.items() if name not in ("a", "b")}
    names = {"str": "string", "int": "long", "float": "double"}
    for owner, keys in (("node", {"level": "str", "name": "str"}), ("edge", of_edges)):
        for name, kind in keys.items():
            about = {"id": f"{owner}_{name}", "for": owner, "attr.name": name, "attr.type": names[kind]}
            ElementTree.SubElement(root, "key", about)
    graph = ElementTree.SubElement(root, "graph", edgedefault="directed")
    ends = [
        tuple(zip(relation.pair.split("-"), (relation.a, relation.b), strict=True)) for relation in discovery.relations
    ]
    for level, name in dict.fromkeys(end for pair in ends for end in pair):
        node = ElementTree.SubElement(graph, "node", id=_text(f"{level}: {name}"))
        _add_data(node, "node", {"level": level, "name": name})
    for relation, pair in zip(discovery.relations, ends, strict=True):
        source, target = (_text(f"{level}: {name}") for level, name in pair)
        edge = ElementTree.SubElement(graph, "edge", source=source, target=target)
        values = relation.to_dict()
        _add_data(edge, "edge", {name: values[name] for name in of_edges if values[name] is not None})
    ElementTree.indent(root)
    write_text(file, ElementTree.tostring(root, "unicode", xml_declaration=True) + "\n")


def _add_data(parent: ElementTree.Element, owner: str, values: Mapping[str, object]) -> None:
    for name, value in values.items():
        ElementTree.SubElement(parent, "data", key=f"{owner}_{name}").text = _text(value)


def _text(value: object) -> str:
    return _NOT_XML.sub("?", printable(value))


WRITERS: dict[str, tuple[str, Callable[[Discovery, Path], None]]] = {
    "csv": ("relations.csv", write_csv),
    "parquet": ("relations.parquet", write_parquet),
    "graphml": ("relations.graphml", write_graphml),
    "report": ("report.html", write_report),
}
"""Name of what can be written -> its file, and the function that writes it."""
