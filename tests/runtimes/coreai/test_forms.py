"""Every quantized form of every layer: same numbers as torch, packed in the asset, realised as planned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vggt_edge.runtimes.coreai.session import CoreAISession

FORMS = ("fp32", "fp16", "w8a16", "w4a16", "p6a16", "p4a16", "w8a8")
LAYERS = ("linear", "conv", "conv_transpose")


@pytest.fixture(scope="module")
def outputs(case: Any, session: CoreAISession) -> dict[str, Any]:
    return session.run({"x": case.x})


@pytest.mark.parametrize("scheme", FORMS)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_form_computes_what_torch_does(case: Any, outputs: dict[str, Any], kind: str, scheme: str) -> None:
    """Within FP32 rounding: integers, scales and tables are taken over bit by bit."""
    got, expected = outputs[f"{scheme}_{kind}"], case.expected[f"{scheme}_{kind}"]
    assert np.abs(got - expected).max() <= 2e-6 * np.abs(expected).max() * np.sqrt(64)


def test_every_block_has_what_was_asked(case: Any) -> None:
    assert [(entry.block, entry.asked, entry.realised) for entry in case.lowered.realised] == [
        (scheme, scheme, scheme) for scheme in FORMS
    ]
    assert "2 of them excluded" in case.lowered.realised[FORMS.index("w4a16")].how


def test_the_folder_holds_exactly_what_is_listed(case: Any) -> None:
    found = sorted(str(path.relative_to(case.out)) for path in case.out.rglob("*") if path.is_file())
    assert found == list(case.lowered.files)


def test_the_checks_say_what_was_done(case: Any) -> None:
    converted, ran = case.lowered.checks
    assert (converted.status, ran.status) == ("passed", "passed")
    assert "f16, f32, si4, si8, ui4, ui6" in converted.detail
    assert converted.figures["linears"] == len(FORMS) * len(LAYERS)
    assert ran.measured["seconds"] > 0


def test_a_run_gives_the_same_bits_again(case: Any, session: CoreAISession, outputs: dict[str, Any]) -> None:
    again = session.run({"x": case.x})
    assert list(again) == list(session.output_names)
    assert all(np.array_equal(again[name], outputs[name]) for name in outputs)
