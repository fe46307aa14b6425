"""Slides drawn once a session, and where the real ones are."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from muse_core.machine.process import own_process
from tests.data.make_slides import Drawing, draw_aperio, tissue_image

SHARED = Path(__file__).parents[2] / "shared"
FLOWS = "tests/flows/"


def pytest_configure() -> None:
    """Tests are the entry point of their process."""
    own_process()


@pytest.hookimpl(trylast=True)  # after they were shuffled
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest group comes first, so that no process is left alone with it at the end."""
    for item in items:
        if _group(item.nodeid) == FLOWS:
            item.add_marker(pytest.mark.timeout(900))  # whichever is first waits until the server has come up
    items.sort(key=lambda item: _group(item.nodeid) != FLOWS)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object | None:
    """With --dist loadfile, groups that share what is dear stay in one process.

    Groups by marks (--dist loadgroup of pytest-xdist 3.8) come to nothing with pytest 9.2: each process makes all.
    """
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByGroup(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    return ByGroup(config, log)


def _group(nodeid: str) -> str:
    """Tests of a file share what they draw and train, those of flows a server too."""
    return FLOWS if nodeid.startswith(FLOWS) else nodeid.partition("::")[0]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test for a GPU that somebody names is skipped where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real slides and patches, which the project does not hold."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """An Aperio slide of 1.4 x 1.2 mm at 0.25 µm/px with drawn nuclei, and their (N, 2) level-0 places."""
    image, nuclei = tissue_image(5600, 4800, mpp=0.25, seed=7)
    path = draw_aperio(tmp_path_factory.mktemp("slides") / "drawn.svs", image, Drawing(mpp=(0.25, 0.25), tile_px=240))
    return path, nuclei


@pytest.fixture
def no_pictures(monkeypatch) -> None:
    """As where matplotlib is not installed: a short run of training takes longer to draw its charts than to train."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


@pytest.fixture(autouse=True)
def no_handlers_are_left():
    """A command run inside the test's process logs to a stream that is closed when the test ends."""
    yield
    root = logging.getLogger()
    for handler in [one for one in root.handlers if type(one) is logging.StreamHandler]:
        root.removeHandler(handler)


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """An S3-compatible server on loopback, and the environment that leads there."""
    pytest.importorskip("moto")
    from tests.object_store import s3_server

    with s3_server() as address, pytest.MonkeyPatch.context() as environment:
        keys = {"AWS_ACCESS_KEY_ID": "key-of-the-test", "AWS_SECRET_ACCESS_KEY": "secret-of-the-test"}
        for name, value in {**keys, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": address}.items():
            environment.setenv(name, value)
        yield address


@pytest.fixture
def bucket(s3_address, tmp_path, monkeypatch) -> Iterator[str]:
    """The URL of an empty bucket; working folders are the test's own."""
    import s3fs

    from muse_core.cohort.objects import open_store

    monkeypatch.setenv("MUSE_WORK", str(tmp_path / "work"))
    name = f"bucket-{abs(hash(tmp_path)) % 10**12}"
    s3fs.S3FileSystem.clear_instance_cache()
    open_store.cache_clear()
    s3fs.S3FileSystem().mkdir(name)
    yield f"s3://{name}"
    s3fs.S3FileSystem.clear_instance_cache()
    open_store.cache_clear()
