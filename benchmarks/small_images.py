"""What the machinery costs a small image: `muse infer` on many drawn PNGs of 256 px, beside the network's own time.

Prints seconds an image and the network's share of them; then, sampled a hundred times a second, in which functions of
the project the time goes.

    python -m benchmarks.small_images --count 100
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from threading import Event, Thread

import pyarrow.parquet as pq
from PIL import Image

from muse_core import api
from muse_core.infer import InferSettings
from muse_core.machine.process import own_process
from tests.data.make_slides import tissue_image

SIDE_PX = 256
_WAITING = frozenset({"wait", "get", "result", "acquire", "_worker", "sample", "select", "_wait_for_tstate_lock"})


def draw(folder: Path, count: int) -> None:
    """`count` images of tissue, each of its own."""
    image, _ = tissue_image(2048, 2048, mpp=0.5, seed=1)
    for number in range(count):
        x, y = 97 * number % (2048 - SIDE_PX), 61 * number % (2048 - SIDE_PX)
        Image.fromarray(image[y : y + SIDE_PX, x : x + SIDE_PX]).save(folder / f"image{number:05d}.png")


class Sampler:
    """Which functions of muse_core threads are in, by share of samples in which a thread is at work."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()
        self.samples = 0
        self._ended = Event()
        self._thread = Thread(target=self.sample, name="sampler", daemon=True)

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def sample(self) -> None:
        """Until the block ends."""
        while not self._ended.wait(0.01):
            self.samples += 1
            for frame in list(sys._current_frames().values()):
                if frame.f_code.co_name in _WAITING:
                    continue
                names = set()
                while frame is not None:
                    if "muse_core" in frame.f_code.co_filename:
                        names.add(f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}")
                    frame = frame.f_back
                self.found.update(names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    count = parser.parse_args().count
    own_process()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        draw(folder / "images", count + 1)
        api.infer(folder / "images" / "image00000.png", folder / "warm", mpp=0.5, device="cpu")
        with Sampler() as sampler:
            begun = time.monotonic()
            summary = api.infer(folder / "images", folder / "out", settings=InferSettings(), mpp=0.5, device="cpu")
            seconds = time.monotonic() - begun
        begun = time.monotonic()
        again = api.infer(folder / "images", folder / "out", settings=InferSettings(), mpp=0.5, device="cpu")
        idle = time.monotonic() - begun
        rows = pq.read_table(folder / "out" / "slides.parquet").to_pylist()
    an_image = seconds / len(rows)
    print(f"{summary.slides_done} of {len(rows)} images done, {an_image:.3f} s an image")
    own = sampler.found["quantised.find"] / max(1, sampler.samples)
    print(f"the network {own:.0%} of it, all else {an_image * (1 - own):.3f} s an image")
    print(f"run again, {again.slides_reused} finished before: {idle:.2f} s in all")
    for function, times in sampler.found.most_common(45):
        print(f"  {times / max(1, sampler.samples):6.1%} {function}")


if __name__ == "__main__":
    main()
