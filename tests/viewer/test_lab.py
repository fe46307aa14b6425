"""What is made of marks is what `muse finetune --dataset lab`, `--tissue` and `--regions` read."""

import json

import numpy as np
import pytest
import shapely

from muse_core.errors import OutputError
from muse_core.labels.lab import read_lab
from muse_core.nuclei_dataset import read_regions
from muse_core.viewer.lab import Lab, SlideFrame
from muse_core.viewer.marks import AreaMark, NucleusMark, SentMark, TissueMark, UndoMark

SQUARE = [[(1000.0, 1000.0), (2000.0, 1000.0), (2000.0, 2000.0), (1000.0, 2000.0)]]


def sent(mark) -> SentMark:
    sent.count += 1
    return SentMark(id=f"mark-{sent.count:06d}", mark=mark)


sent.count = 0


def nucleus(xy, name, **changes) -> SentMark:
    return sent(NucleusMark(slide_id="S1", x=xy[0], y=xy[1], class_name=name, **changes))


@pytest.fixture
def lab(tmp_path, drawn):
    return Lab(tmp_path / "lab", lambda slide_id: SlideFrame(drawn[0], (0.25, 0.25)))


def dots(folder) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for image in read_lab(folder).images:
        for xy, class_id in zip(image.xy.tolist(), image.class_ids, strict=True):
            found.setdefault(read_lab(folder).class_names[class_id], []).append(tuple(xy))
    return found


def _images(folder):
    return read_lab(folder).images if (folder / "labels").exists() else ()


def test_marks_become_dots_on_known_ground_some_of_them_held_back(lab, drawn):
    xy = drawn[1][::20]
    lab.append([nucleus(point, ("a", "b")[number % 2]) for number, point in enumerate(xy)], "Ada")
    learned, held = dots(lab.folder), dots(lab.folder / "held-back")
    together = [point for found in (learned, held) for points in found.values() for point in points]
    assert len(together) == len(xy)
    np.testing.assert_allclose(np.sort(together, axis=0), np.sort(xy, axis=0), atol=0.01)
    share = sum(map(len, held.values())) / len(xy)
    assert 0.1 < share < 0.32
    (image,) = read_lab(lab.folder).images
    ground = shapely.union_all(image.areas)
    assert shapely.contains_xy(ground, image.xy).all()
    assert ground.area < len(image.xy) * 1.01 * np.pi * 24**2


def test_ground_at_the_slides_edge_ends_there(tmp_path, drawn):
    frame = SlideFrame(drawn[0], (0.25, 0.25), size_level0=(5600.0, 4800.0))
    lab = Lab(tmp_path / "lab", lambda slide_id: frame)
    corners = [(1.0, 1.0), (5599.0, 4799.0), (1.0, 4799.0), (5599.0, 1.0), (5599.5, 2400.0), (2800.0, 0.0)]
    wide = [[(5000.0, 4000.0), (6000.0, 4000.0), (6000.0, 4500.0), (5000.0, 4500.0)]]
    whole = AreaMark(slide_id="S1", rings=wide, whole=True, dots=((5500.0, 4200.0, "a"), (5900.0, 4200.0, "a")))
    beyond = nucleus((5601.0, 100.0), "a")
    lab.append([*(nucleus(corner, "a") for corner in corners), sent(whole), beyond], "Ada")
    images = [image for folder in (lab.folder, lab.folder / "held-back") for image in _images(folder)]
    assert sum(len(image.xy) for image in images) == len(corners) + 1
    areas = [area for image in images for area in image.areas]
    assert shapely.box(0, 0, 5600, 4800).covers(shapely.union_all(areas))


def test_what_is_held_back_stays_so(lab, drawn):
    xy = drawn[1][::20]
    lab.append([nucleus(point, "a") for point in xy[:40]], "Ada")
    before = dots(lab.folder / "held-back")["a"]
    lab.append([nucleus(point, "b") for point in xy[40:]], "Ada")
    assert set(before) <= set(dots(lab.folder / "held-back")["a"])


def test_the_last_word_on_a_nucleus_counts_and_no_nucleus_is_ground_without_a_dot(lab):
    lab.append([nucleus((1000, 1000), "a"), nucleus((1003, 1001), "b"), nucleus((3000, 3000), None)], "Ada")
    lab.append([nucleus((1200, 1600), "a"), nucleus((3010, 1600), "a")], "Bo")
    folders = [lab.folder, lab.folder / "held-back"]
    found = [read_lab(folder) for folder in folders if (folder / "labels").exists()]
    names = [one.class_names[class_id] for one in found for image in one.images for class_id in image.class_ids]
    assert sorted(names) == ["a", "a", "b"]
    ground = shapely.union_all([area for one in found for image in one.images for area in image.areas])
    assert shapely.contains_xy(ground, 3000, 3000)


def test_an_area_labelled_whole_is_a_region_with_its_dots_as_marked_since(lab):
    inside = ((1100.0, 1100.0, "a"), (1500.0, 1500.0, "a"), (1900.0, 1900.0, "b"))
    area = AreaMark(slide_id="S1", rings=SQUARE, name="here", whole=True, dots=inside)
    lab.append([sent(area), nucleus((1500, 1501), "b"), nucleus((1900, 1900), None)], "Ada")
    folder = lab.folder if (lab.folder / "labels" / "S1.geojson").exists() else lab.folder / "held-back"
    (image,) = read_lab(folder).images
    assert [one.area for one in image.areas] == [1e6]
    assert dots(folder) == {"a": [(1100.0, 1100.0)], "b": [(1500.0, 1501.0)]}


def test_what_is_taken_back_is_gone_from_the_files(lab):
    (entry,) = lab.append([nucleus((1000, 1000), "a")], "Ada")
    lab.append([sent(UndoMark(slide_id="S1", of=entry.n))], "Ada")
    assert not list(lab.folder.rglob("*.geojson"))
    assert lab.of_slide("S1") == []
    assert len(lab.journal.entries()) == 2, "the journal keeps both"


def test_files_behind_the_journal_are_made_anew(lab, drawn):
    lab.append([nucleus((1000, 1000), "a")], "Ada")
    files = list(lab.folder.rglob("labels/*.geojson"))
    for file in files:
        file.unlink()
    again = Lab(lab.folder, lambda slide_id: SlideFrame(drawn[0], (0.25, 0.25)))
    again.write_all(["S1", "S9"])
    assert all(file.exists() for file in files)


def test_tissue_counts_from_the_image_and_regions_as_qupath_does(tmp_path, drawn):
    lab = Lab(tmp_path / "lab", lambda slide_id: SlideFrame(drawn[0], (0.25, 0.25), (100.0, 50.0)))
    lab.append([sent(TissueMark(slide_id="S1", polygons=[SQUARE])), sent(AreaMark(slide_id="S1", rings=SQUARE))], "Ada")
    (tissue,) = read_regions(lab.folder / "tissue" / "S1.geojson", {}, origin_level0=(0, 0))
    assert tissue.area_level0.bounds == (1000, 1000, 2000, 2000)
    (region,) = read_regions(lab.folder / "regions" / "S1.geojson", {}, origin_level0=(0, 0))
    assert region.area_level0.bounds == (900, 950, 1900, 1950)


def test_a_file_that_a_person_made_is_not_overwritten(lab):
    for folder in (lab.folder, lab.folder / "held-back"):
        (folder / "labels").mkdir(parents=True)
        (folder / "labels" / "S1.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    with pytest.raises(OutputError, match=r"S1.geojson: not made by muse view; move it out"):
        lab.append([nucleus((1000, 1000), "a")], "Ada")


def test_a_given_mpp_goes_with_the_slide(tmp_path, drawn):
    frame = SlideFrame(drawn[0], (0.5, 0.5), mpp_given=True)
    lab = Lab(tmp_path / "lab", lambda slide_id: frame)
    lab.append([nucleus((1000 + 300 * number, 1000), "a") for number in range(12)], "Ada")
    (image,) = read_lab(lab.folder).images
    assert image.mpp == 0.5


def test_labels_on_another_than_a_files_largest_picture_do_not_keep_the_lab_from_learning(tmp_path, drawn, caplog):
    frames = {
        "S1": SlideFrame(drawn[0], (0.25, 0.25)),
        "S1-scene": SlideFrame(drawn[0], (0.25, 0.25), is_largest_picture=False),
    }
    lab = Lab(tmp_path / "lab", frames.__getitem__)
    marks = [nucleus(point, "a") for point in drawn[1][::20]]
    other = [sent(NucleusMark(slide_id="S1-scene", x=point[0], y=point[1], class_name="a")) for point in drawn[1][:9]]
    lab.append([*marks, *other], "Ada")
    assert [image.name for image in read_lab(lab.folder).images] == ["S1"]
    assert len(lab.of_slide("S1-scene")) == 9, "the marks are kept"
    assert "S1-scene: a scene of its file; teaching leaves out its labels" in caplog.text
