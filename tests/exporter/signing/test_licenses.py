"""Weights that may not be sold are not signed for sale, unless someone answers for it; `licenses` lists all parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vggt_edge.exporter.supply.licenses import license_of_model

Run = Callable[..., Any]


@pytest.mark.parametrize(
    ("source", "given", "license_"),
    [
        ("vggt-mini", None, "Apache-2.0"),
        ("facebook/VGGT-1B", None, "CC-BY-NC-4.0"),
        ("facebook/VGGT-1B", "LicenseRef-ours", "LicenseRef-ours"),
        ("vggt_omega_1b_512.pt", None, "LicenseRef-FAIR-Noncommercial-Research"),
        ("model.pt", None, "unknown"),
    ],
)
def test_licences_of_models(source: str, given: str | None, license_: str) -> None:
    assert license_of_model(source, given) == license_


def test_the_list(make_bundle: Callable[[str], Path], vggt_edge: Run) -> None:
    bundle = make_bundle("CC-BY-NC-4.0")
    parts = {one["name"]: one for one in vggt_edge("licenses", bundle, "--json").document["result"]["parts"]}
    weights = parts["a model for jetson-orin"]
    assert (weights["kind"], weights["license"], weights["commercial"]) == ("weights", "CC-BY-NC-4.0", False)
    assert (parts["plotly.js"]["kind"], parts["plotly.js"]["license"]) == ("code", "MIT")
    assert (parts["torch"]["kind"], parts["torch"]["commercial"]) == ("tool", None)
    assert "forbidden" in vggt_edge("licenses", bundle).out


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_a_bundle_without_an_sbom(bundle: Path, content: str | None, pair: Any, vggt_edge: Run) -> None:
    if content is not None:
        (bundle / "sbom.cdx.json").write_text(content)
    finished = vggt_edge("licenses", bundle)
    assert finished.code == 2
    assert "cannot read the licences" in finished.err


def test_nobody_signs_for_a_purpose_without_an_sbom(bundle: Path, pair: Any, vggt_edge: Run) -> None:
    assert vggt_edge("sign", bundle, "--key", pair.private, "--purpose", "commercial").code == 2
    assert not (bundle / "model.sig").exists()


@pytest.mark.parametrize(
    ("license_", "flags", "reason"),
    [
        ("Apache-2.0", ("--purpose", "commercial"), None),
        ("CC-BY-NC-4.0", ("--purpose", "commercial"), "forbids commercial use"),
        ("LicenseRef-FAIR-Noncommercial-Research", ("--purpose", "commercial"), "forbids commercial use"),
        ("CC-BY-NC-4.0", ("--purpose", "research"), None),
        ("CC-BY-NC-4.0", (), None),
        ("CC-BY-NC-4.0", ("--purpose", "commercial", "--accept-license", "CC-BY-NC-4.0"), None),
        ("CC-BY-NC-4.0", ("--purpose", "commercial", "--accept-license", "MIT"), "and MIT was accepted"),
        ("unknown", ("--purpose", "commercial"), "nobody here knows"),
        ("unknown", ("--purpose", "commercial", "--accept-license", "unknown"), None),
        ("Our terms", ("--purpose", "commercial"), "nobody here knows"),
        ("Apache-2.0", ("--purpose", "war"), "unknown purpose 'war'"),
        ("Apache-2.0", ("--accept-license", "MIT"), "--accept-license does not go here"),
    ],
)
def test_signing_for_a_purpose(
    license_: str,
    flags: tuple[str, ...],
    reason: str | None,
    make_bundle: Callable[[str], Path],
    pair: Any,
    vggt_edge: Run,
) -> None:
    bundle = make_bundle(license_)
    finished = vggt_edge("sign", bundle, "--key", pair.private, *flags)
    if reason is not None:
        assert finished.code == 2
        assert reason in finished.err
        assert not (bundle / "model.sig").exists()
        return
    assert finished.code == 0, finished.err
    state = vggt_edge("verify", bundle, "--key", pair.public, "--json").document["result"]["signature"]
    assert state["purpose"] == (flags[1] if flags else None)


def test_an_export_says_so_before_it_works(tmp_path: Path, pair: Any, vggt_edge: Run) -> None:
    asked = ("--target", "host-cpu", "--frames", "2", "--resolution", "28", "--model-license", "CC-BY-NC-4.0")
    finished = vggt_edge("export", *asked, "--sign-key", pair.private, "--purpose", "commercial", "-o", tmp_path / "o")
    assert finished.code == 2
    assert "forbids commercial use" in finished.err
    assert "calibrate" not in finished.err
    assert not (tmp_path / "o").exists()
