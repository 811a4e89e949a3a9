"""The section of a report about devices."""

from __future__ import annotations

from vggt_edge.exporter.deploy.page import MARK, DeviceRun, Rails, with_devices

HOSTILE = "<script>alert(1)</script>"
RAILS = Rails({"cpu": 61.5}, {"VDD_IN": 9000}, {"VDD_IN": 4500.0}, 1 << 30, 8 << 30, 97)


def test_nothing_that_a_device_says_is_markup() -> None:
    run = DeviceRun(HOSTILE, HOSTILE, "failed", None, Rails({HOSTILE: 1.0}, {}, {}, 0, 0, 0), HOSTILE, HOSTILE)
    page = with_devices(f"<main>{MARK}</main>", [run])
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page


def test_a_report_of_an_earlier_version_takes_it_at_its_end() -> None:
    page = with_devices("<main><p>old</p></main>", [DeviceRun("orin", "ssh://orin", "not_run", None, RAILS, "15W")])
    assert page.startswith("<main><p>old</p>")
    assert page.endswith("</section>\n</main>")
    for text in ("61.5 C", "9.00 W", "4.50 W", "15W"):
        assert text in page
