"""Reading our own JSON documents: strictly, through pydantic; whatever is wrong with a file, its error names the field.

The types of documents are frozen dataclasses, and the one definition of what a file may hold. Writing stays with each
type, because some of them are digested and must be written the same way for ever.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from vggt_edge.devices.errors import InputError

T = TypeVar("T")
Count: TypeAlias = Annotated[int, Field(ge=0, le=2**53)]  # every program reads these exactly, also as floats
Finite: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]
Seconds: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Sha256: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

_SHOWN_FAULTS = 5


def read_document(
    kind: type[T],
    text: str | bytes,
    *,
    what: str,
    where: str,
    expected: str,
    remedy: str = "export again",
    extra: Literal["forbid", "ignore"] = "forbid",
) -> T:
    """``text`` as a ``kind``; nothing is converted, and no field may be missing, unknown or of another type.

    extra: ``ignore`` for documents of other programs, which may say more than we read.

    ``InputError`` "not <what>: <field>: <fault>" names the faulty fields, such as ``assignments.3.weight_bytes``.
    """
    try:
        return TypeAdapter(kind).validate_json(text, strict=True, extra=extra)
    except ValidationError as error:
        faults = "; ".join(map(_fault, error.errors(include_url=False)[:_SHOWN_FAULTS]))
        raise InputError(f"not {what}: {faults}", where=where, expected=expected, remedy=remedy) from None


def _fault(error: Any) -> str:
    field = ".".join(map(str, error["loc"]))
    said = "unknown field" if error["type"] == "unexpected_keyword_argument" else error["msg"]
    return f"{field}: {said}" if field else said
