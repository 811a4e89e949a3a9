"""Lines of tegrastats, as boards print them."""

from __future__ import annotations

from vggt_edge.exporter.deploy.tegrastats import Recorder

ORIN = (
    "11-30-2026 02:00:00 RAM 3270/7620MB (lfb 22x4MB) SWAP 0/3810MB (cached 0MB) CPU [2%@1510,off] EMC_FREQ 0%@2133 "
    "GR3D_FREQ {load}%@[305] cpu@{heat}C cv0@-256C soc2@46.1C VDD_IN {power}mW/4824mW VDD_SOC 1452mW/1452mW"
)
XAVIER = "RAM 2000/7771MB (lfb 1x1MB) CPU [1%@1190] GR3D_FREQ 3% AO@34C GPU@33.5C PMIC@50C VDD_IN 2800/2800"


def test_the_highest_and_the_mean() -> None:
    recorder = Recorder()
    for heat, load, power in ((47.5, 10, 4000), (51.25, 99, 9000), (50.0, 40, 5000)):
        recorder.add(ORIN.format(heat=heat, load=load, power=power))
    found = recorder.telemetry
    assert found is not None
    assert (found.samples, found.ram_bytes, found.ram_total_bytes) == (3, 3270 << 20, 7620 << 20)
    assert (found.gpu_percent, found.celsius, found.hottest) == (99, {"cpu": 51.25, "soc2": 46.1}, ("cpu", 51.25))
    assert found.milliwatts == {"VDD_IN": 9000, "VDD_SOC": 1452}
    assert found.mean_milliwatts["VDD_IN"] == 6000


def test_an_older_board_says_less() -> None:
    recorder = Recorder()
    recorder.add(XAVIER)
    found = recorder.telemetry
    assert found is not None
    assert (found.celsius["PMIC"], found.gpu_percent, found.milliwatts) == (50, 3, {})


def test_lines_that_say_nothing() -> None:
    recorder = Recorder()
    for line in ("", "tegrastats: permission denied", "RAM lots", "x" * 100_000):
        recorder.add(line)
    assert recorder.telemetry is None
