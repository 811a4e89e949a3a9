"""Mixed against uniform: budgets, blind choices, what counts as the front, and that put together is tuned together."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
import torch
from pareto import budgets, composed, orders, with_eight_bits
from pareto_plot import draw
from pareto_tables import EXACT, FAMILIES, PROBED, UNIFORM, Found, Point, Run, Sensitivities, front, render, spearman

from vggt_edge.calibration.observation.collect import calibrate
from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.quantization.tuned import any_tuned
from vggt_edge.calibration.scenes.synthetic import render_scene
from vggt_edge.calibration.tuning.tune import tune
from vggt_edge.exporter.models.vggt import VGGT


def run(size: int, error: float) -> Run:
    figures = {"auc30": 80.0, "abs_rel": 0.1, "cross_head": 0.1, "output_error": error}
    return Run(size, {"plain": figures, "tuned": figures})


def point(way: str, size: int, error: float, label: str = "") -> Point:
    return Point(way, size, (run(size, error),), label)


@pytest.fixture
def found() -> Found:
    exact = {(block, scheme): error for block, error in (("a", 1.0), ("b", 2.0)) for scheme in ("w8a16", "w4a16")}
    points = (point(UNIFORM, 100, 4e-4, "w4a16"), point(PROBED, 150, 1e-4), point(EXACT, 150, 2e-4))
    fp32 = run(400, 0.0).figures["plain"]
    return Found(FAMILIES[0], 400, fp32, points, Sensitivities(exact, exact, 1.0, 9.0))


def test_budgets_end_at_eight_bits_and_hold_what_other_plans_take() -> None:
    assert budgets(400, 1000) == [500, 600, 700, 800, 900, 1000]
    assert 650 in budgets(400, 1000, [650])


def test_blocks_are_taken_in_order_and_a_large_one_is_passed_over() -> None:
    assert with_eight_bits("abc", {"a": 5, "b": 90, "c": 5}, room=10) == {"a", "c"}
    assert with_eight_bits("abc", {"a": 5, "b": 90, "c": 5}, room=4) == frozenset()


def test_random_orders_are_permutations_and_the_same_twice() -> None:
    first, again = orders(list("abcdef")), orders(list("abcdef"))
    assert first == again
    assert all(sorted(order) == list("abcdef") for lists in first.values() for order in lists)


def test_the_front_holds_what_nothing_beats() -> None:
    assert front([(1, 9.0), (2, 5.0), (3, 6.0), (4, 5.0), (5, 1.0)]) == {(1, 9.0), (2, 5.0), (5, 1.0)}
    assert front([(1, 2.0), (1, 1.0)]) == {(1, 1.0)}


def test_ranks_agree_with_themselves_and_an_unknown_scheme_has_none(found: Found) -> None:
    assert spearman(found.sensitivities) == pytest.approx(1)
    assert math.isnan(spearman(found.sensitivities, "fp16"))


def test_tables_say_what_is_on_the_front_and_the_ratio_to_exact(found: Found) -> None:
    text = render([found])
    assert "**1.00e-04**" in text
    assert "**2.00e-04**" not in text
    assert "geometric mean over budgets: 2.00 plain (2.00 to 2.00)" in text


def test_the_plot_is_the_same_twice_and_refuses_an_error_of_nothing(found: Found) -> None:
    assert draw([found]) == draw([found])
    ElementTree.fromstring(draw([found]))
    with pytest.raises(ValueError, match="not a number above 0"):
        draw([Found(found.family, 400, found.fp32, (point(PROBED, 150, 0.0),), found.sensitivities)])


def test_blocks_tuned_apart_are_those_tuned_together(make_small: Callable[..., VGGT]) -> None:
    """To the bit: so a benchmark may tune once for each scheme and not once for each plan."""
    model = make_small(outputs=("camera",))
    scenes = [render_scene(seed, 2, 28, 28) for seed in range(2)]
    stats = calibrate(model, scenes)

    def tuned(schemes: dict[str, str]) -> VGGT:
        made = [Assignment(name, scheme, "test", 0.0, 0, 0.0) for name, scheme in schemes.items()]
        plan = PrecisionPlan(stats.model_digest, stats.digest, "test", 64, tuple(made), rest_scheme="fp16")
        copied = copy.deepcopy(model)
        tune(copied, plan, stats, scenes)
        return copied

    mixed = {name: ("w8a8", "w4a16")[index % 2] for index, name in enumerate(model.blocks())}
    uniform = {scheme: tuned(dict.fromkeys(mixed, scheme)) for scheme in ("w8a8", "w4a16")}
    together, apart = tuned(mixed), composed(model, {name: uniform[scheme] for name, scheme in mixed.items()})
    states = together.state_dict(), apart.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(
        together.get_parameter("camera_head.trunk.0.mlp.fc1.weight"),
        model.get_parameter("camera_head.trunk.0.mlp.fc1.weight"),
    )
    for name, layer in together.named_modules():
        ours, theirs = any_tuned(layer), any_tuned(apart.get_submodule(name))
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert ours.input_scale == theirs.input_scale
