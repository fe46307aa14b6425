"""The simulated fleet of `benchmarks.capacity`, by sums that a person can do."""

import tomllib
from pathlib import Path

import pytest

from benchmarks.capacity import Machine, cohort_slides, simulate

FLEETS = sorted((Path(__file__).parents[2] / "deploy" / "fleets").glob("*.toml"))
GB = 1e9


def test_time_dollars_and_disk_of_machines_that_stay():
    one = Machine("m", count=2, cores=10, gbit_s=8.0, dollars_hour=3.6)
    found = simulate([one], [({"build": 100.0}, 2 * GB)] * 4, out_bytes=5 * GB)
    assert found.seconds == pytest.approx(20.0), "two slides each, of 100 core seconds on 10 cores"
    assert found.dollars == pytest.approx(2 * 3.6 * 20 / 3600)
    assert found.disk_bytes == pytest.approx(5 * GB + 2 * 2 * 2 * GB)
    assert (found.lost, found.shares["fetch"]) == (0, 0.0)
    assert simulate([one], [({"build": 100.0}, 20 * GB)] * 4, 0.0).shares["fetch"] == 1.0


def test_a_gpu_takes_the_network_off_the_cores():
    gpu = Machine("g", count=1, cores=10, gbit_s=1e9, dollars_hour=0.0, gpus=2, network_speedup=50.0)
    assert gpu.seconds({"read": 20.0, "network": 1000.0}, 0.0)[0] == pytest.approx(10.0)
    assert gpu.seconds({"read": 200.0, "network": 1000.0}, 0.0)[0] == pytest.approx(20.0)


def test_machines_that_are_taken_away_cost_time_and_no_slide():
    calm = Machine("m", count=3, cores=1, gbit_s=1e9, dollars_hour=1.0)
    spot = Machine("m", count=3, cores=1, gbit_s=1e9, dollars_hour=1.0, reclaimed_hours=2.0, back_minutes=5.0)
    slides = [({"build": 600.0}, 0.0)] * 90
    found = simulate([spot], slides, 0.0)
    assert found.lost > 3
    assert found.seconds > simulate([calm], slides, 0.0).seconds


@pytest.mark.parametrize("fleet", FLEETS, ids=lambda path: path.name)
def test_fleets_that_ship_are_understood_and_totals_kept(fleet):
    described = tomllib.loads(fleet.read_text(encoding="utf-8"))
    assert [Machine(**one) for one in described["machines"]]
    slides = cohort_slides(described["cohort"], {"build": (1.0, 2.0)}, mm2=1000.0, checksum_s_a_gb=0.0)
    count = described["cohort"]["slides"]
    assert sum(core_s["build"] for core_s, _ in slides) == pytest.approx(count + 2 * 1000.0)
    assert sum(size for _, size in slides) == pytest.approx(described["cohort"]["bytes"])
