"""The page in a real browser on a real server: Debian's Chromium driven by Playwright; skipped where there is none."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.make_ndc import write_random_ndc
from tests.data.make_slides import Drawing, draw_aperio, tissue_image

CHROMIUM = next((path for path in map(Path, ("/usr/bin/chromium", "/usr/bin/chromium-browser")) if path.exists()), None)
PATIENCE_S = 240.0  # machines under load
FLAGS = ["--no-sandbox", "--enable-unsafe-swiftshader"]  # WebGL in software: `?draw=gl` asks for it

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Playwright's own sockets
]


class Server:
    """`muse view` in a process of its own."""

    def __init__(self, out: Path, *options: str) -> None:
        command = [sys.executable, "-m", "muse_core.cli", "view", "--nuclei", str(out), "--no-browser", "--json"]
        self._command = [*command, *options]
        self.journal = out / "lab" / "journal.jsonl"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = json.loads(self.process.stdout.readline())["url"]

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.close()

    def stop(self) -> int:
        self.process.terminate()
        return self.close()

    def close(self) -> int:
        status = self.process.wait(timeout=PATIENCE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    @property
    def labels(self) -> list[dict]:
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return [json.loads(line)["mark"] for line in lines]


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def begun(out: Path, *options: str) -> Server:
        servers.append(Server(out, *options))
        return servers[-1]

    yield begun
    for server in servers:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with (
        sync_api.sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS) as one,
    ):
        yield one


@pytest.fixture
def open_page(browser) -> Iterator[Callable[[str], object]]:
    """Pages of one browser; what goes wrong in their scripts fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    wrong: list[str] = []

    def opened(url: str):
        page = context.new_page()
        page.set_default_timeout(1000 * PATIENCE_S)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(url)
        return page

    yield opened
    context.close()
    assert wrong == []


def until(page, expression: str) -> object:
    """Wait for a value of the page; Playwright's own waiting evaluates strings, which the page's policy forbids."""
    ends = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends:
        value = page.evaluate(f"typeof muse !== 'undefined' && ({expression})")
        if value:
            return value
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {expression}")


def test_see_filter_correct_and_lose_nothing(out, serve, open_page, drawn):
    server = serve(out)
    page = open_page(server.url)
    page.get_by_role("link", name="S1").last.click()
    until(page, "muse.page?.stage?.nuclei.state === 'points' && !muse.page.stage.isWaiting")

    # Every nucleus is on the graphics card; a class is switched off, a cut made.
    assert page.evaluate("muse.page.stage.nuclei.heldPoints") == len(drawn[1])
    page.get_by_role("checkbox", name="Show stromal").uncheck()
    assert "hide=stromal" in until(page, "location.hash.includes('hide') && location.hash")
    page.keyboard.press("+")
    until(page, "muse.page.stage.camera.goal === null && muse.page.stage.camera.scale > 0.2")

    # Twenty answers by keyboard.
    page.goto(f"{server.url}#ask=doubtful")
    until(page, "muse.page.waiting?.length > 0")
    for number in range(20):
        page.keyboard.press(("1", "2", "Enter", "0")[number % 4])
    until(page, "muse.marks.outbox.length === 0")
    assert len(server.labels) == 20
    assert sum(mark["class_name"] is None for mark in server.labels) == 5

    # Another page shows them; one is taken back there and is gone here.
    other = open_page(f"{server.url}#slide=S1")
    until(other, "muse.page?.nucleusMarks?.length === 20")
    page.keyboard.press("ArrowLeft")
    until(other, "muse.page.nucleusMarks.length === 19")

    # The server dies; a mark made meanwhile waits in the page and is on disk once it is back.
    server.kill()
    page.keyboard.press("1")
    until(page, "muse.marks.outbox.length === 1 && !muse.marks.online")
    server.start()
    until(page, "muse.marks.outbox.length === 0 && muse.marks.online")
    until(other, "muse.page.nucleusMarks.length === 20")
    assert [mark["kind"] for mark in server.labels] == ["nucleus"] * 20 + ["undo", "nucleus"]
    assert server.stop() == 0


@pytest.mark.parametrize("zoom", [0.05, 0.2, 1.2])
def test_without_a_graphics_card_the_picture_is_the_same(out, serve, open_page, zoom):
    """Pixels, and nuclei as densities, dots and rings: by WebGL and by the canvas that the page takes itself."""
    server = serve(out)
    pictures = []
    for how, painter in (("", "RasterPainter"), ("?draw=gl", "GlPainter")):
        page = open_page(f"{server.url}{how}#slide=S1&x=2800&y=2400&zoom={zoom}")
        until(page, "muse.page?.stage?.nuclei.state && !muse.page.stage.isWaiting")
        assert page.evaluate("muse.page.stage.painter.constructor.name") == painter
        picture = page.locator("canvas.pixels").screenshot(animations="disabled")
        pictures.append(np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), np.float32))
    assert pictures[0].std() > 10
    assert np.abs(pictures[0] - pictures[1]).mean() < 3
    assert server.stop() == 0


def test_a_region_is_drawn_counted_and_labelled_whole(out, serve, open_page):
    server = serve(out)
    page = open_page(f"{server.url}#slide=S1&x=2800&y=2400&zoom=0.4")
    until(page, "muse.page?.stage?.nuclei.state === 'points' && !muse.page.stage.isWaiting")
    page.keyboard.press("r")
    page.mouse.move(300, 300)
    page.mouse.down()
    page.mouse.move(520, 480, steps=4)
    page.mouse.up()
    page.get_by_role("button", name="All right here").click()
    until(page, "muse.marks.outbox.length === 0 && muse.marks.entries.length === 3")
    whole = server.labels[-1]
    assert whole["whole"] is True
    assert len(whole["dots"]) > 20
    (labels,) = (out / "lab").rglob("labels/S1.geojson")
    assert len(json.loads(labels.read_text())["features"]) == len(whole["dots"]) + 1
    assert server.stop() == 0


@pytest.mark.parametrize(
    "weights", [pytest.param("drawn", id="tiny"), pytest.param("shipped", id="shipped", marks=pytest.mark.slow)]
)
@pytest.mark.timeout(3600)
def test_twenty_corrections_teach_and_the_nuclei_change(tmp_path, serve, open_page, weights):
    """With a network so small that 50 steps take seconds, and, where time allows, with the weights that ship."""
    image, _ = tissue_image(2400, 1600, mpp=0.25, seed=5)
    slide = draw_aperio(tmp_path / "S1.svs", image, Drawing(mpp=(0.25, 0.25)))
    given = ["--checkpoint", str(write_random_ndc(tmp_path / "tiny.safetensors"))] if weights == "drawn" else []
    out = tmp_path / "run"
    command = [sys.executable, "-m", "muse_core.cli", "infer", "--slides", str(slide), "--out", str(out), *given]
    command += ["--set", "min_score=0"] if weights == "drawn" else []  # it is sure of no nucleus
    subprocess.run(command, check=True)
    server = serve(out, *given)
    page = open_page(f"{server.url}#ask=doubtful")
    until(page, "muse.page?.waiting?.length > 0")
    for number in range(20):
        page.keyboard.press(("1", "2", "3")[number % 3])
    until(page, "muse.marks.outbox.length === 0")
    page.goto(f"{server.url}#slide=S1")
    before = until(page, "muse.page?.slide?.version")
    page.get_by_role("spinbutton", name="Steps of training").fill("50")
    page.get_by_role("button", name="Teach the model").click()
    for _ in range(8):  # minutes on a machine under load
        try:
            until(page, "['done', 'failed'].includes(muse.marks.job.state)")
            break
        except AssertionError:
            continue
    job = page.evaluate("muse.marks.job")
    assert job["state"] == "done", job
    assert job["progress"]["decision"]["candidate"]["n_labels"] >= 1
    assert len(job["progress"]["losses"]) == 5
    assert until(page, f"muse.page.slide.version !== '{before}' && muse.page.slide.version")
    assert (out / "lab" / "inferred" / "nuclei").is_dir()
    assert server.stop() == 0
