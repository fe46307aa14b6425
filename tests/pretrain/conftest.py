import pytest

from tests.pretrain.tiny_runs import drawn_dataset


@pytest.fixture(scope="session")
def rois(tmp_path_factory):
    return drawn_dataset(tmp_path_factory.mktemp("rois"))
