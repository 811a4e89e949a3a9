"""The table of what judges an export leaves out no target and no version that a profile names."""

from __future__ import annotations

from judged import rows

from vggt_edge.devices.profile import list_profiles


def test_every_target_has_what_judges_it_and_what_its_devices_have() -> None:
    profiles = list_profiles()
    found = [(name.strip("`"), row) for row in rows(profiles) for name in row[-1].split(", ")]
    for profile in profiles:
        own = [row for name, row in found if name in (profile.name, "all")]
        assert any("run here" in row[2] for row in own), profile.name
        missing = [row[0] for row in own if "not_run" in row[2]]
        assert sorted(missing) == sorted(release.name for release in profile.toolchain.releases)
