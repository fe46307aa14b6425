"""Who may take over a folder of a store at once, and who waits for a sign of life first."""

from dataclasses import replace

import fsspec
import pytest

from muse_core.cohort import lease
from muse_core.cohort.heartbeat import own_facts
from muse_core.cohort.lease import Lease
from muse_core.cohort.objects import ObjectFolder
from muse_core.errors import OutputError

GONE = 2**22 + 1  # above any process' number


@pytest.fixture
def folder(tmp_path):
    yield ObjectFolder(f"memory://{tmp_path.name}/out")
    fsspec.filesystem("memory").rm(tmp_path.name, recursive=True)


@pytest.mark.parametrize(("kernel", "waits"), [(None, 0), ("another boot 1", 1), ("", 1)])
def test_a_process_is_gone_only_where_its_number_means_something(folder, monkeypatch, kernel, waits):
    facts = replace(own_facts("infer", ""), pid=GONE)
    Lease(folder).take(facts if kernel is None else replace(facts, kernel=kernel))
    waited: list[float] = []
    if waits:  # a container of the same host name, whose process this one cannot see
        with pytest.raises(OutputError, match="another run"):
            Lease(folder, waited.append).take(own_facts("infer", ""))
        monkeypatch.setattr(lease, "SILENT_S", -1.0)
    Lease(folder, waited.append).take(own_facts("infer", ""))
    assert len(waited) == waits
