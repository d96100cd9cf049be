"""Captions and numbers beside audio files, in Hugging Face's AudioFolder convention.

``metadata.jsonl`` holds one JSON object a line, ``metadata.csv`` one row a file; both may lie in any folder of a
collection and speak of the files in it: ``file_name`` (relative to the metadata), ``text``, and any further columns
such as ``tempo``, ``key`` or ``instruments``. In a CSV file an empty cell is a column that is not known, and a cell
that is JSON (a number, or a list such as ``["a", "b"]``) is taken as that.
"""

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

JSON_LINES, CSV = "metadata.jsonl", "metadata.csv"


class Record(NamedTuple):
    """What is known of one file."""

    place: str
    """File and line of the metadata, for messages."""
    facts: dict[str, Any]


def find_metadata(folder: Path) -> list[Path]:
    """All metadata files below a folder, sorted."""
    return sorted(path for name in (JSON_LINES, CSV) for path in folder.rglob(name) if path.is_file())


def read_metadata(folder: Path) -> list[Record]:
    """Records of all metadata below a folder, with ``file_name`` relative to it; empty if there is none.

    Raises:
        ValueError: a line is no record with a ``file_name``, or two are about one file; the line is named.
    """
    records: dict[str, Record] = {}
    for path in find_metadata(folder):
        for place, record in _read(path):
            if not isinstance(record, dict):
                raise ValueError(f"{place}: it must be a JSON object with file_name and text, got {record!r}")
            name = record.get("file_name")
            if not name or not isinstance(name, str):
                raise ValueError(f"{place}: file_name must name a file in {path.parent}, got {name!r}")
            name = (path.parent.relative_to(folder) / name).as_posix()
            if name in records:
                raise ValueError(f"{place}: there is more than one record of {name}; keep one")
            records[name] = Record(place, record | {"file_name": name})
    return list(records.values())


def _read(path: Path) -> list[tuple[str, Any]]:
    """Records of one file, each with its place for messages."""
    text = path.read_text(encoding="utf-8-sig")
    if path.name == CSV:
        rows = csv.DictReader(text.splitlines(), restkey="more cells than columns")
        return [
            (
                f"{path}, row {number}",
                {name: _cell(name, cell) for name, cell in row.items() if cell not in ("", None)},
            )
            for number, row in enumerate(rows, start=1)
        ]
    records = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            place = f"{path}, line {number}"
            try:
                records.append((place, json.loads(line)))
            except ValueError as error:
                raise ValueError(f"{place}: this is not JSON: {error}") from error
    return records


def _cell(name: str, cell: Any) -> Any:
    if name in ("file_name", "text"):
        return cell
    try:
        value = json.loads(cell)
    except (ValueError, TypeError):
        return cell
    return value if isinstance(value, int | float | list) else cell
