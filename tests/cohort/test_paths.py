"""A folder is one command's."""

import pytest

from muse_core.cohort.paths import RunPaths, claim, command_of
from muse_core.errors import OutputError


def test_a_folder_that_one_command_holds_is_refused_to_another(tmp_path):
    paths = RunPaths(tmp_path)
    claim(paths, "build-tcga-nu")
    claim(paths, "build-tcga-nu")
    with pytest.raises(
        OutputError, match=r"holds what `muse build-tcga-nu` made.*`muse infer` needs a folder"
    ) as caught:
        claim(paths, "infer")
    assert caught.value.reason == "output_mixed"
    assert command_of(paths) == "build-tcga-nu"


@pytest.mark.parametrize(
    ("folders", "command"),
    [((), None), (("rois",), "build-tcga-nu"), (("nuclei",), "infer"), (("rois", "patches"), "import-patches")],
)
def test_a_folder_from_before_is_known_by_what_it_holds(tmp_path, folders, command):
    for name in folders:
        (tmp_path / name).mkdir()
    assert command_of(RunPaths(tmp_path)) == command
