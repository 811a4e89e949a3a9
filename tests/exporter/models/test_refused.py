"""docs/models/refused.md says what is refused and how, as the package answers now."""

from __future__ import annotations

from pathlib import Path

from vggt_edge.runtimes.common.kit import script_module

refused = script_module(Path(__file__).with_name("refused.py"), "refused")


def test_the_document_has_every_refusal_as_it_is_answered() -> None:
    text = refused.DOCUMENT.read_text()
    assert refused.written(text) == text, "run `python tests/exporter/models/refused.py --write`"


def test_every_refusal_is_exit_code_2_and_says_what_to_do() -> None:
    for title, message, advice, code in refused.rows():
        assert code == "2", title
        assert message, title
        assert advice, title
