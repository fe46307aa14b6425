"""The viewer on a slide of a million nuclei: what the server answers and holds, what a browser draws.

    python -m benchmarks.view [--nuclei N] [--side PX] [--slide F.svs] [--browser]

The nuclei are drawn: clusters over an ellipse on a slide of 60,000 px, three classes. It measures
    digest    the pyramid of counts and the queue, made once a slide, seconds
    box       squares of 4,096 level-0 px (1 mm at 0.25 um/px), none asked for before: ms, median and slowest of 50, and
              the server's processor time; against reading the slide's whole file and filtering it, which is what
              nuclei without a spatial order need
    memory    of the server, MB, after all of it
    browser   with --browser, headless Chromium drawing in software: seconds to the first picture with nuclei, frames a
              second and processor ms a frame of all its processes while zooming and panning for the second time, the
              page's heap; the same frames by WebGL in software, as it was before
With --slide its pixels are read, too; it should be as large as --side says.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from muse_core.nuclei_dataset import NucleiHeader, NucleusPoints, nuclei_table, part_path, write_nuclei
from muse_core.schemas import INFERRED_SLIDES
from muse_core.viewer.points import TILE_PX

if TYPE_CHECKING:
    from playwright.sync_api import Page

MPP = 0.25
BOXES = 50
CLASSES = ("lymphocyte", "tumour_epithelial", "stromal")
CHROMIUM = "/usr/bin/chromium"


def draw_run(out: Path, n_nuclei: int, side: int, slide: Path | None) -> None:
    """A run of one slide: nuclei in clusters of some hundreds over an ellipse."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0.5, 0.14, (max(1, n_nuclei // 400), 2))
    place = centres[rng.integers(0, len(centres), n_nuclei)] + rng.normal(0, 0.004, (n_nuclei, 2))
    xy = np.clip(place, 0.01, 0.99) * side
    chances = rng.dirichlet((0.6, 0.9, 0.5), n_nuclei).astype(np.float32)
    points = NucleusPoints(
        xy, chances.argmax(1), rng.uniform(0.5, 1, n_nuclei).astype(np.float32), chances, np.ones(n_nuclei, bool)
    )
    header = NucleiHeader("S1", "BENCH", (MPP, MPP), CLASSES, {"model_id": "drawn", "mpp_source": "drawn"})
    write_nuclei(part_path(out, header), [nuclei_table(header, points)], header)
    row = {"slide_id": "S1", "project": "BENCH", "status": "done", "mpp_x": MPP, "mpp_y": MPP}
    row |= {"width_level0": side, "height_level0": side, "n_nuclei": n_nuclei, "uri": str(slide) if slide else None}
    pq.write_table(pa.Table.from_pylist([row], schema=INFERRED_SLIDES), out / "slides.parquet")


@contextmanager
def viewer(out: Path) -> Iterator[tuple[psutil.Process, str]]:
    """`muse view` in a process of its own, and its address."""
    command = [sys.executable, "-m", "muse_core.cli", "view", "--nuclei", str(out), "--no-browser", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        try:
            yield psutil.Process(process.pid), url
        finally:
            process.terminate()


def measure_server(process: psutil.Process, url: str, side: int) -> dict[str, float]:
    """Digest, boxes and memory."""
    with httpx.Client(base_url=url, timeout=120) as client:
        begun = time.perf_counter()
        client.get("api/summary", params={"slide": "S1"}).raise_for_status()
        digest_s = time.perf_counter() - begun
        per_side = side // TILE_PX
        places = [divmod(int(place), per_side) for place in np.random.default_rng(1).permutation(per_side**2)[:BOXES]]
        client.get("api/points/0/0", params={"slide": "S1"})
        before, seconds, n_points = sum(process.cpu_times()[:2]), [], 0
        for column, row in places:
            begun = time.perf_counter()
            n_points += len(client.get(f"api/points/{column}/{row}", params={"slide": "S1"}).content) // 8
            seconds.append(time.perf_counter() - begun)
        cpu_ms = 1000 * (sum(process.cpu_times()[:2]) - before) / len(places)
        for kind in ("counts/0", "counts/0?score=0.7", "ask?kind=doubtful&n=50"):
            client.get(f"api/{kind}{'&' if '?' in kind else '?'}slide=S1").raise_for_status()
    return {
        "digest_s": digest_s,
        "box_median_ms": 1000 * float(np.median(seconds)),
        "box_slowest_ms": 1000 * max(seconds),
        "box_cpu_ms": cpu_ms,
        "points_per_box": n_points / len(places),
        "server_mb": process.memory_info().rss / 1e6,
    }


def measure_baseline(out: Path, side: int) -> float:
    """Median processor ms to read a square's rows where the file has no spatial order: all of it, then a filter."""
    part = next(out.glob("nuclei/*/*/part-*.parquet"))
    names = ["x_level0", "y_level0", "class_id", "score", *(f"p_{name}" for name in CLASSES)]
    per_side, seconds = side // TILE_PX, []
    for place in np.random.default_rng(1).permutation(per_side**2)[:10]:
        left, top = (int(one) * TILE_PX for one in divmod(int(place), per_side))
        begun = time.process_time()
        table = pq.read_table(part, columns=names, partitioning=None)
        x, y = table["x_level0"].to_numpy(), table["y_level0"].to_numpy()
        table.filter(pa.array((x >= left) & (x < left + TILE_PX) & (y >= top) & (y < top + TILE_PX)))
        seconds.append(time.process_time() - begun)
    return 1000 * float(np.median(seconds))


def measure_browser(url: str) -> dict[str, float]:
    """First picture, frames a second and heap, in headless Chromium without a graphics card."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--enable-unsafe-swiftshader"]
        with playwright.chromium.launch(executable_path=CHROMIUM, args=flags) as browser:
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            begun = time.perf_counter()
            page.goto(f"{url}#slide=S1")
            # Playwright's own waiting evaluates strings in the page, which its policy forbids.
            while not page.evaluate("window.muse?.page?.stage?.nuclei?.state"):
                time.sleep(0.02)
            first_s = time.perf_counter() - begun
            found = {"first_picture_s": first_s} | _moves(page, "")
            heap = page.evaluate("performance.memory.usedJSHeapSize / 1e6")
            state = page.evaluate("window.muse.page.stage.nuclei.state")
            page.goto(f"{url}?draw=gl#slide=S1")
            while not page.evaluate("window.muse?.page?.stage?.nuclei?.state"):
                time.sleep(0.02)
            found |= _moves(page, "_gl")
    return {**found, "page_heap_mb": heap, "ends_with": state}


def _moves(page: "Page", suffix: str) -> dict[str, float]:
    """Frames a second and processor ms a frame of each move."""
    found = {}
    for name, script in _MOVES.items():
        page.evaluate(_ACT + script)  # what a browser compiles while it runs
        cpu = _children_cpu_s()
        frames, seconds = page.evaluate(_ACT + script)
        found[f"fps_{name}{suffix}"] = frames / seconds
        found[f"cpu_ms_{name}{suffix}"] = 1000 * (_children_cpu_s() - cpu) / frames
    return found


def _children_cpu_s() -> float:
    """Processor seconds of the browser's processes so far."""
    browsers = [one for one in psutil.Process().children(recursive=True) if "chrom" in one.name()]
    return sum(sum(one.cpu_times()[:2]) for one in browsers)


# How many frames were drawn in how many seconds; what is still on its way is waited for before.
_ACT = """async () => {
  const { stage } = window.muse.page, { camera } = stage;
  const wait = () => new Promise((done) => requestAnimationFrame(done));
  const settle = async () => { for (let waited = 0; waited < 600 && stage.isWaiting; waited += 1) await wait(); };
  const run = async (steps, act) => {
    await settle();
    const begun = performance.now();
    for (let step = 0; step < steps; step += 1) { act(step); stage.moved(); await wait(); }
    return [steps, (performance.now() - begun) / 1000];
  };
  const zoom = (step) => camera.zoom(step % 20 < 10 ? 1.05 : 1 / 1.05, 480, 400, true);
"""
_MOVES = {
    "zooming_far": "return run(60, zoom); }",
    "panning_near": """camera.goTo({ x: camera.slide.width / 2, y: camera.slide.height / 2, scale: 0.25 }, true);
  stage.moved();
  return run(60, () => camera.pan(-12, 4)); }""",
    "zooming_near": "return run(60, zoom); }",
}


def main() -> None:
    """Measure and print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nuclei", type=int, default=1_000_000)
    parser.add_argument("--side", type=int, default=60_000)
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--browser", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        draw_run(out, args.nuclei, args.side, args.slide)
        with viewer(out) as (process, url):
            found: dict[str, Any] = measure_server(process, url, args.side)
            found["baseline_cpu_ms"] = measure_baseline(out, args.side)
            found["baseline_ratio"] = found["baseline_cpu_ms"] / max(found["box_cpu_ms"], 1e-6)
            print(json.dumps(found))
            if args.browser:
                found |= measure_browser(url)
                found["server_mb"] = process.memory_info().rss / 1e6
    for name, value in found.items():
        print(f"{name:<24} {value:>12.2f}" if isinstance(value, float) else f"{name:<24} {value:>12}")
    print(json.dumps({"nuclei": args.nuclei, "side_px": args.side, **found}))


if __name__ == "__main__":
    main()
