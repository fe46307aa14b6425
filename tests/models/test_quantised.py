"""Quantised weights: only those of exactly this checkpoint are taken, and threads never change an answer."""

import shutil

import numpy as np
import pytest

from muse_core.errors import ConfigError
from muse_core.models.quantised import (
    QuantisedNet,
    int8_pays,
    quantised_for,
    quantised_path,
    read_quantised,
    sha256_of,
)
from muse_core.models.shipped import MUSE_NANO_NDC, NUCLEUS_DETECTOR


def test_the_shipped_weights_are_of_the_shipped_checkpoint():
    found = quantised_for(MUSE_NANO_NDC)
    assert found == quantised_path(MUSE_NANO_NDC)
    assert read_quantised(found).source_sha256 == sha256_of(MUSE_NANO_NDC)


def test_weights_of_another_checkpoint_are_not_taken(tmp_path):
    other = tmp_path / "ndc.safetensors"
    other.write_bytes(NUCLEUS_DETECTOR.read_bytes())
    assert quantised_for(other) is None, "there are none"
    shutil.copy(quantised_path(MUSE_NANO_NDC), quantised_path(other))
    assert quantised_for(other) is None, "they are of the checkpoint that ships"
    other.write_bytes(MUSE_NANO_NDC.read_bytes())
    assert quantised_for(other) == tmp_path / "ndc.int8.safetensors"


def test_files_of_another_kind_are_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"format 'muse-ndc-2' found, 'muse-int8-1' needed; make them with muse"):
        read_quantised(MUSE_NANO_NDC)
    with pytest.raises(ConfigError, match=r"none\.safetensors: cannot be read"):
        read_quantised(tmp_path / "none.safetensors")


def test_answers_are_the_same_bit_for_bit_whatever_the_threads_and_what_came_before():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (1, *sides, 3), dtype=np.uint8) for sides in ((128, 192), (64, 64))]
    quantised = read_quantised(quantised_path(MUSE_NANO_NDC))
    one, two = QuantisedNet(quantised, threads=1), QuantisedNet(quantised, threads=2)
    first = one(images[0])
    assert first.shape == (1, 4, 64, 96)
    assert first.dtype == np.float32
    assert np.array_equal(first, two(images[0]))
    one(images[1])
    assert np.array_equal(first, one(images[0])), "by code kept from before"


@pytest.mark.parametrize(
    ("flags", "best"),
    [("fpu avx2 avx512f avx512_vnni amx_int8", "amx_int8"), ("avx2 avx512_vnni", "avx512_vnni"), ("sse4_2", "")],
)
def test_processors_by_their_flags(tmp_path, monkeypatch, flags, best):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"flags\t\t: {flags}\n")
    assert int8_pays(cpuinfo) == best
    assert int8_pays(tmp_path / "none") == ""
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert int8_pays(cpuinfo) == ""
