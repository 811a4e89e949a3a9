"""What commands print: results and documents on stdout, errors on stderr."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from enum import Enum
from pathlib import Path

from vggt_edge.calibration.scenes.names import is_unicode, printable, shown
from vggt_edge.devices.errors import VggtEdgeError
from vggt_edge.exporter.machine.progress import format_duration

RANDOM_WARNING = "WARNING: random weights ({}): sizes, times and memory are real, accuracy figures mean nothing"
_SECONDS = "_seconds"


def to_document(value: object) -> object:
    """Plain JSON values for dataclasses, paths, enums, mappings, arrays' scalars; not-a-number becomes null.

    Of text that is not UTF-8 the bytes are shown.
    """
    if isinstance(value, Enum):  # first, because a StrEnum is text as well
        return to_document(value.value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return value if is_unicode(value) else shown(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return to_document(str(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_document(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_document(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [to_document(item) for item in items]
    if hasattr(value, "item"):  # numpy's scalars
        return to_document(value.item())
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def print_document(document: object) -> None:
    """The one document of ``--json``."""
    print(json.dumps(to_document(document), indent=2, sort_keys=True, allow_nan=False))


def print_result(result: object, *, as_json: bool, exit_code: int = 0) -> None:
    """A command's result: a document, or one ``name  value`` line per plain field; random weights are warned of."""
    if as_json:
        print_document({"result": result, "exit_code": exit_code})
        return
    document = to_document(result)
    entries = document if isinstance(document, dict) else {"result": document}
    if random := entries.pop("random_weights", ""):
        print(RANDOM_WARNING.format(random))
    plain = {name: value for name, value in entries.items() if value is not None and not isinstance(value, dict | list)}
    print_lines([_line(name, value) for name, value in plain.items()])


def print_lines(lines: Sequence[tuple[str, str]]) -> None:
    """Print a ``name  text`` line for each entry, with the texts aligned."""
    width = max((len(name) for name, _ in lines), default=0)
    for name, text in lines:
        print(printable(f"{name:<{width}}  {text}"))


def _line(name: str, value: object) -> tuple[str, str]:
    """``forward_seconds`` of 243.2 reads ``forward time  4 min 03 s``."""
    if name.endswith(_SECONDS) and isinstance(value, int | float):
        return f"{name.removesuffix(_SECONDS)} time".replace("_", " "), format_duration(value)
    return name.replace("_", " "), str(value)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout: drawn on a terminal, tab-separated for a pipe, which never wraps or cuts."""
    if not sys.stdout.isatty():
        print("\t".join(columns))
        for row in rows:
            print("\t".join(shown(str(cell)) for cell in row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(str(cell))) for cell in row))
    Console().print(table)


def print_error(error: VggtEdgeError) -> None:
    """One error on stderr, its first word red on a terminal."""
    text = printable(str(error))
    if not sys.stderr.isatty():
        print(f"error: {text}", file=sys.stderr)
        return
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text("error: ", style="bold red") + Text(text), soft_wrap=True)


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send what libraries print while a job runs to stderr, also what C code writes to descriptor 1."""
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
