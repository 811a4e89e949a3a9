"""What the pages of a report are made with: tables of texts, numbers for people, templates. Light to import."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent / "report" / "templates"


@dataclass(frozen=True)
class Table:
    """``statuses``: one per row where rows are judged, else empty."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    statuses: tuple[str, ...] = ()


def number(value: float | None) -> str:
    """Four digits; a dash for what does not exist."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.4g}"


@cache
def environment() -> Environment:
    """The templates, with what they need."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["number"] = number
    return environment
