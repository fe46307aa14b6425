"""What a cohort costs on a fleet: unit costs measured here, a simulated run of all of TCGA, and a check on a batch.

    python -m benchmarks.capacity [--fleet deploy/fleets/spot.toml] [--no-check]

Unit costs are seconds of one core, of a slide and of a mm² of tissue (two drawn slides and a line through them):
    checksum  of a slide's bytes, once fetched
    build     tissue, reading, encoding, commit (no detector); detect: the rest of a build with the learned detector
    infer     reading, network and writing, as the run itself tells them apart
The fleet's machines take slide after slide from one list, as `--share` does; fetching overlaps with work, a machine
that is taken away loses what it had of its slide, and others take that up. The check forecasts the core seconds of a
batch of other slides by the same unit costs and then runs it.
"""

import argparse
import heapq
import json
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from muse_core import api
from muse_core.machine.files import md5_of
from muse_core.machine.process import own_process
from muse_core.slide.drawn import draw_slide

ROI_MM2 = (2048 * 0.25e-3) ** 2
TAKEN_UP_S = 90.0  # until the others know that a machine is gone, and one of them comes by
SIDES_PX = (3200, 4800)  # of the slides that unit costs are measured on
BATCH_PX = (3600, 4200)
BYTES_A_ROI, BYTES_A_NUCLEUS = 1.6e6, 50.0  # of the tables
TOLERANCE = 0.2
Stages = dict[str, tuple[float, float]]  # core seconds of a slide, and of a mm², by stage


@dataclass
class Machine:
    """A kind of machine of the fleet; see the file."""

    name: str
    count: int
    cores: int
    gbit_s: float
    dollars_hour: float
    core_speed: float = 1.0
    gpus: int = 0
    network_speedup: float = 1.0
    reclaimed_hours: float = float("inf")
    back_minutes: float = 0.0

    def seconds(self, core_s: dict[str, float], size: float) -> tuple[float, float]:
        """Of computing one slide, cores and GPUs side by side, and of fetching it."""
        on_gpu = core_s.get("network", 0.0) if self.gpus else 0.0
        on_cores = (sum(core_s.values()) - on_gpu) / self.cores / self.core_speed
        gpu_s = on_gpu / self.network_speedup / max(1, self.gpus)
        return max(on_cores, gpu_s), 8 * size / (self.gbit_s * 1e9)


@dataclass
class Forecast:
    """What a simulated run came to."""

    seconds: float = 0.0
    dollars: float = 0.0
    lost: int = 0
    shares: dict[str, float] = field(default_factory=dict)  # of machines' time, by what bounded the slide
    disk_bytes: float = 0.0


def core_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Of this process, its threads together; the clock would tell of who else is on the machine."""
    begun = time.process_time()
    answer = work()
    return time.process_time() - begun, answer


def run_build(slide: Path, out: Path, detector: str) -> tuple[float, Any]:
    """Core seconds of building a slide in this process, and its summary."""
    settings = {"detector": detector, "contact_sheets": False}
    return core_seconds(lambda: api.build(slide, out, settings=settings, workers=0, device="cpu"))


def run_infer(slide: Path, out: Path) -> tuple[float, Any]:
    """The same of inferring it."""
    return core_seconds(lambda: api.infer(slide, out, device="cpu"))


def unit_costs(folder: Path) -> tuple[dict[str, Stages], dict[str, float]]:
    """Stages of a build and of an inference, by a line through two slides; and nuclei and bytes a mm²."""
    seen: list[dict[str, float]] = []
    for number, side in enumerate((SIDES_PX[0], *SIDES_PX)):  # the first loads models and imports
        slide = folder / f"{number}-{side}.svs"
        draw_slide(slide, side, side)
        bare, built = run_build(slide, folder / f"bare{number}", "none")
        full, _ = run_build(slide, folder / f"full{number}", "learned")
        inferred, found = run_infer(slide, folder / f"infer{number}")
        shares = {name: getattr(found, f"{name}_share") or 0.0 for name in ("read", "network", "write")}
        seen.append(
            {"build": bare, "detect": max(0.0, full - bare), "mm2": found.tissue_mm2, "nuclei": found.n_nuclei}
            | {"roi_mm2": built.n_rois * ROI_MM2, "checksum": core_seconds(lambda slide=slide: md5_of(slide))[0]}
            | {name: inferred * share for name, share in shares.items()}
            | {"bytes": slide.stat().st_size}
        )
    small, large = seen[1:]

    def line(stage: str, over: str) -> tuple[float, float]:
        slope = max(0.0, (large[stage] - small[stage]) / (large[over] - small[over]))
        return max(0.0, large[stage] - slope * large[over]), slope

    stages = {
        "build": {"build": line("build", "roi_mm2"), "detect": line("detect", "roi_mm2")},
        "infer": {name: line(name, "mm2") for name in ("read", "network", "write")},
    }
    per_byte = large["checksum"] / large["bytes"]
    return stages, {"nuclei_per_mm2": large["nuclei"] / large["mm2"], "checksum_s_a_gb": 1e9 * per_byte}


def core_s_of(stages: Stages, mm2: float) -> dict[str, float]:
    """Core seconds of a slide, by stage."""
    return {name: fixed + slope * mm2 for name, (fixed, slope) in stages.items()}


def simulate(
    fleet: list[Machine], slides: list[tuple[dict[str, float], float]], out_bytes: float, seed: int = 0
) -> Forecast:
    """A run of slides, (core seconds by stage, bytes), in their order over the fleet.

    Args:
        fleet: kinds of machines.
        slides: the work.
        out_bytes: of the tables at the end.
        seed: of what is taken away when.
    """
    rng, result = np.random.default_rng(seed), Forecast()
    machines = [kind for kind in fleet for _ in range(kind.count)]
    lives = [rng.exponential(one.reclaimed_hours) * 3600 if one.reclaimed_hours < 1e9 else np.inf for one in machines]
    free = [(0.0, number) for number in range(len(machines))]
    heapq.heapify(free)
    waiting = [(0.0, number) for number in range(len(slides))]  # from when a slide may be begun
    heapq.heapify(waiting)
    bounded, largest = {"compute": 0.0, "fetch": 0.0}, 0.0
    while waiting:
        not_before, slide = heapq.heappop(waiting)
        at, number = heapq.heappop(free)
        machine, (core_s, size) = machines[number], slides[slide]
        begun = max(at, not_before)
        compute_s, fetch_s = machine.seconds(core_s, size)
        needed = max(compute_s, fetch_s)
        if begun + needed > lives[number]:
            gone = max(begun, lives[number])
            back = gone + 60 * machine.back_minutes
            lives[number] = back + rng.exponential(machine.reclaimed_hours) * 3600
            heapq.heappush(waiting, (gone + TAKEN_UP_S, slide))
            heapq.heappush(free, (back, number))
            result.lost += 1
            continue
        bounded["compute" if compute_s >= fetch_s else "fetch"] += needed
        largest = max(largest, size)
        result.seconds = max(result.seconds, begun + needed)
        heapq.heappush(free, (begun + needed, number))
    hours = result.seconds / 3600
    result.dollars = sum(one.count * one.dollars_hour for one in fleet) * hours
    total = sum(bounded.values())
    result.shares = {name: spent / total for name, spent in bounded.items()}
    result.disk_bytes = out_bytes + 2 * largest * len(machines)  # one in work and one that is fetched, each
    return result


def cohort_slides(cohort: dict[str, float], stages: Stages, mm2: float, checksum_s_a_gb: float) -> list[Any]:
    """Slides of a cohort, drawn so that tissue and bytes come to their totals."""
    rng = np.random.default_rng(1)
    weights = rng.lognormal(0.0, cohort["spread"], int(cohort["slides"]))
    weights /= weights.sum()
    slides = []
    for weight in weights.tolist():
        size = weight * cohort["bytes"]
        slides.append((core_s_of(stages, weight * mm2) | {"checksum": size / 1e9 * checksum_s_a_gb}, size))
    return slides


def check(folder: Path, stages: dict[str, Stages]) -> dict[str, float]:
    """Forecast over run, core seconds of a batch of other slides, a build and an inference together."""
    forecast = real = 0.0
    for side in BATCH_PX:
        slide = folder / f"batch-{side}.svs"
        draw_slide(slide, side, side + 400)
        built_s, built = run_build(slide, folder / f"build-{side}", "learned")
        inferred_s, found = run_infer(slide, folder / f"found-{side}")
        real += built_s + inferred_s
        forecast += sum(core_s_of(stages["build"], built.n_rois * ROI_MM2).values())
        forecast += sum(core_s_of(stages["infer"], found.tissue_mm2).values())
    return {"check_forecast_s": forecast, "check_real_s": real, "check_ratio": forecast / real}


def print_costs(stages: dict[str, Stages]) -> None:
    print(f"{'core seconds of':<18}{'a slide':>10}{'a mm2':>10}")
    for work, found in stages.items():
        for name, (fixed, slope) in found.items():
            print(f"{work + ': ' + name:<18}{fixed:>10.2f}{slope:>10.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fleet", type=Path, default=Path("deploy/fleets/spot.toml"))
    parser.add_argument("--no-check", action="store_true")
    args = parser.parse_args()
    own_process()
    described = tomllib.loads(args.fleet.read_text(encoding="utf-8"))
    cohort, fleet = described["cohort"], [Machine(**one) for one in described["machines"]]
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        stages, seen = unit_costs(Path(name))
        print_costs(stages)
        if not args.no_check:
            figures |= check(Path(name), stages)
    tissue = {"build": cohort["rois"] * ROI_MM2, "infer": cohort["nuclei"] / cohort["nuclei_per_mm2"]}
    tables = {"build": cohort["rois"] * BYTES_A_ROI, "infer": cohort["nuclei"] * BYTES_A_NUCLEUS}
    print(f"\n{'run':<8}{'days':>8}{'dollars':>10}{'core days':>11}{'disk, TB':>10}{'taken away':>12}  bound by")
    for work in stages:
        slides = cohort_slides(cohort, stages[work], tissue[work], seen["checksum_s_a_gb"])
        found = simulate(fleet, slides, tables[work])
        core_days = sum(sum(core_s.values()) for core_s, _ in slides) / 86400
        bound = ", ".join(f"{one} {share:.0%}" for one, share in found.shares.items())
        print(f"{work:<8}{found.seconds / 86400:>8.2f}{found.dollars:>10.0f}{core_days:>11.1f}", end="")
        print(f"{found.disk_bytes / 1e12:>10.2f}{found.lost:>12}  {bound}")
        figures |= {f"{work}_days": found.seconds / 86400, f"{work}_dollars": found.dollars}
        figures |= {f"{work}_core_days": core_days, f"{work}_disk_tb": found.disk_bytes / 1e12}
    if "check_ratio" in figures:
        print(
            f"\nbatch of {len(BATCH_PX)} other slides: forecast {figures['check_forecast_s']:.1f} core seconds, ",
            end="",
        )
        print(f"real {figures['check_real_s']:.1f}: {figures['check_ratio']:.2f} of it, wanted 0.8 to 1.2")
    print(json.dumps({"benchmark": "capacity", **figures, **seen}))
    sys.exit(abs(figures.get("check_ratio", 1.0) - 1) > TOLERANCE)


if __name__ == "__main__":
    main()
