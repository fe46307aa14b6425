import json
import logging

import pytest

from muse_core.errors import ConfigError, DatasetError, SlideReadError
from muse_core.labels.lab import read_lab
from tests.data.make_lab import box, feature, point, write_csv, write_geojson, write_image, write_slide


@pytest.fixture
def root(tmp_path):
    """One 300 x 200 px image, no labels yet."""
    write_image(tmp_path, "a")
    return tmp_path


def _outline(x, y, name):
    ring = [[x - 4, y - 4], [x + 4, y - 4], [x + 4, y + 4], [x - 4, y + 4], [x - 4, y - 4]]
    return feature({"type": "Polygon", "coordinates": [ring]}, name)


def test_points_outlines_and_regions_of_qupath(root):
    dots = [point(20.5, 30.25, "Tumour"), _outline(50, 60, "Immune"), box(10, 10, 100, 100)]
    many = feature({"type": "MultiPoint", "coordinates": [[70, 80], [80, 70]]}, "Tumour")
    write_geojson(root, "a", [*dots, many])
    found = read_lab(root)
    assert found.class_names == ("Immune", "Tumour")
    (image,) = found.images
    assert image.xy.tolist() == [[20.5, 30.25], [50, 60], [70, 80], [80, 70]]
    assert image.class_ids.tolist() == [1, 0, 1, 1]
    assert [area.bounds for area in image.areas] == [(10, 10, 100, 100)]
    assert (image.is_slide, image.size_px, image.mpp) == (False, (300, 200), 0.5)


def test_csv_by_the_names_of_its_columns_in_any_order_and_case(root):
    write_csv(root, "a", [(30, 20, "Tumour"), (60.5, 50, "Immune")], header="Y, X ,Class")
    (image,) = read_lab(root).images
    assert image.xy.tolist() == [[20, 30], [50, 60.5]]


def test_coco_key_points_and_boxes_of_several_images(root):
    write_image(root, "b")
    (root / "labels").mkdir()
    content = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "sub/b.png"}],
        "categories": [{"id": 7, "name": "Tumour"}],
        "annotations": [
            {"image_id": 1, "category_id": 7, "bbox": [10, 20, 8, 6]},
            {"image_id": 2, "category_id": 7, "keypoints": [40, 50, 2]},
        ],
    }
    (root / "labels" / "all.json").write_text(json.dumps(content))
    first, second = read_lab(root).images
    assert (first.name, first.xy.tolist()) == ("a", [[14, 23]])
    assert (second.name, second.xy.tolist()) == ("b", [[40, 50]])


def test_the_classes_of_the_settings_come_in_their_order(root):
    (root / "dataset.toml").write_text('mpp = 0.5\nclasses = ["Tumour", "Immune"]\n')
    write_csv(root, "a", [(20, 30, "Tumour"), (50, 60, "Immune")])
    found = read_lab(root)
    assert found.class_names == ("Tumour", "Immune")
    assert found.images[0].class_ids.tolist() == [0, 1]


def test_a_slide_knows_its_own_scale_and_the_settings_serve_those_that_do_not(tmp_path):
    nuclei = write_slide(tmp_path, "knows", 800, 600)
    write_slide(tmp_path, "lacks", 800, 600, mpp=None)
    for name in ("knows", "lacks"):
        write_csv(tmp_path, name, [(*xy, "Dark") for xy in nuclei[:5]])
    with pytest.raises(DatasetError, match=r"lacks\.svs: doesn't say its um/px; write mpp = 0\.5.*dataset\.toml$"):
        read_lab(tmp_path)
    (tmp_path / "dataset.toml").write_text("mpp = 0.25\n")
    knows, lacks = read_lab(tmp_path).images
    assert (knows.mpp, lacks.mpp) == (None, 0.25)
    assert (knows.is_slide, knows.size_px) == (True, (800, 600))


DOT = point(20, 30, "Tumour")
BAD_FEATURES = [
    pytest.param(
        [DOT, point(320, 30, "Tumour")], r"feature 2: dot \(320, 30\) outside the 300x200 px of a\.png", id="x"
    ),
    pytest.param([point(20, -1, "Tumour")], r"feature 1: dot \(20, -1\) outside the 300x200", id="negative"),
    pytest.param([DOT, point(20, 40, None)], "feature 2: no class; each nucleus needs one", id="no class"),
    pytest.param([DOT, box(0, 0, 9, 9, None)], r"feature 2: no class.*regions the class Region\*", id="plain region"),
    pytest.param(
        [DOT, box(10, 10, 60, 60), box(50, 50, 90, 90)],
        r"feature 3: region overlaps that of .*feature 2 by 100 px²; cut or merge them",
        id="overlap",
    ),
    pytest.param(
        [DOT, box(250, 150, 350, 250)],
        r"feature 2: region \(250, 150, 350, 250\) reaches outside the 300x200 px of a\.png",
        id="region half outside",
    ),
    pytest.param([DOT, box(400, 400, 500, 500)], "feature 2: region .* reaches outside", id="region outside"),
    pytest.param(
        [DOT, feature({"type": "LineString", "coordinates": [[0, 0], [9, 9]]}, "Region*")],
        "feature 2: a region that is a LineString",
        id="line",
    ),
    pytest.param(
        [DOT, feature({"type": "LineString", "coordinates": [[0, 0], [9, 9]]}, "Tumour")],
        "feature 2: a nucleus that is a LineString; a point or polygon needed",
        id="line as a nucleus",
    ),
    pytest.param([DOT, feature({"type": "Point", "coordinates": []}, "Tumour")], "feature 2: ", id="empty point"),
    pytest.param([DOT, {"type": "Feature", "properties": {}}], "feature 2: no geometry", id="no geometry"),
    pytest.param([DOT, 7], "feature 2: no geometry", id="a number"),
    pytest.param([DOT, point(10**400, 1, "Tumour")], "feature 2: no geometry", id="a coordinate too large"),
    pytest.param([DOT, feature(DOT["geometry"], None) | {"properties": "x"}], "feature 2: no class", id="properties"),
    pytest.param(
        [DOT, point(40, 50, "tumour")],
        "feature 2: class 'tumour', but 'Tumour' in .*feature 1; write them alike",
        id="case",
    ),
    pytest.param([box(10, 10, 60, 60)], "labels: no dot in any file", id="regions only"),
    pytest.param([], "labels: no dot in any file", id="nothing"),
]


@pytest.mark.parametrize(("features", "said"), BAD_FEATURES)
def test_what_is_wrong_in_a_geojson_is_told_with_its_row(root, features, said):
    write_geojson(root, "a", features)
    with pytest.raises(DatasetError, match=said) as caught:
        read_lab(root)
    assert "\n" not in str(caught.value)


BAD_ROWS = [
    pytest.param([(20, 30, "T"), ("x", 30, "T")], "x,y,class", r"a\.csv, row 3: x 'x', y '30'; two numbers", id="word"),
    pytest.param([(20, 30, "T"), (), ("x", 30, "T")], "x,y,class", r"a\.csv, row 4: x 'x'", id="after a blank line"),
    pytest.param([(20, 30, "T"), (20, "", "T")], "x,y,class", "row 3: x '20', y ''", id="no y"),
    pytest.param([(20, 30, "T"), (20, 30)], "x,y,class", "row 3: no class", id="short"),
    pytest.param([(20, 30, "T"), ("nan", 30, "T")], "x,y,class", r"row 3: dot \(nan, 30\) outside", id="nan"),
    pytest.param([(20, 30, "T")], "a,b,c", "columns a, b, c found; a header with x, y and class", id="header"),
    pytest.param([(20, 30, "T")], "20,30,T", "columns 20, 30, t found; a header", id="no header"),
]


@pytest.mark.parametrize(("rows", "header", "said"), BAD_ROWS)
def test_what_is_wrong_in_a_csv_is_told_with_its_row(root, rows, header, said):
    write_csv(root, "a", rows, header)
    with pytest.raises(DatasetError, match=said):
        read_lab(root)


def test_columns_in_the_order_y_x_are_named_where_dots_leave_the_image(root):
    write_csv(root, "a", [(190, 20, "T"), (150, 250, "T"), (20, 290, "T")])  # y, x of a 300 x 200 px image
    with pytest.raises(DatasetError, match=r"row 3: dot \(150, 250\).*is the order of the columns y x\?"):
        read_lab(root)


def test_an_unknown_class_and_one_without_dots(root):
    (root / "dataset.toml").write_text('mpp = 0.5\nclasses = ["Tumour", "Immune"]\n')
    write_csv(root, "a", [(20, 30, "Tumour"), (50, 60, "Stroma")])
    with pytest.raises(DatasetError, match=r"row 3: class 'Stroma' is unknown; .*dataset\.toml has Tumour, Immune"):
        read_lab(root)
    write_csv(root, "a", [(20, 30, "Tumour")])
    with pytest.raises(DatasetError, match=r"dataset\.toml: class 'Immune' has no dot"):
        read_lab(root)


def test_files_that_are_missing_or_doubled(root):
    with pytest.raises(DatasetError, match=r"labels: no \.geojson, \.csv or \.json"):
        read_lab(root)
    write_csv(root, "b", [(20, 30, "T")])
    with pytest.raises(DatasetError, match=r"images: no file named b\.\*"):
        read_lab(root)
    (root / "labels" / "b.csv").unlink()
    write_csv(root, "a", [(20, 30, "T")])
    write_geojson(root, "a", [DOT])
    with pytest.raises(DatasetError, match="'a' has labels in two files"):
        read_lab(root)


def test_settings_that_make_no_sense(root):
    write_csv(root, "a", [(20, 30, "T")])
    (root / "dataset.toml").write_text('val = ["z"]\nmpp = 0.5\n')
    with pytest.raises(ConfigError, match="val names 'z', which has no labels"):
        read_lab(root)
    (root / "dataset.toml").write_text("mmp = 0.5\n")
    with pytest.raises(ConfigError, match="mmp"):
        read_lab(root)
    (root / "dataset.toml").unlink()
    with pytest.raises(DatasetError, match=r"a\.png: doesn't say its um/px; write mpp = 0\.5"):
        read_lab(root)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "no JSON that can be read"),
        ("7", "no GeoJSON"),
        pytest.param("[" * 100_000, "no JSON that can be read", id="nested"),
        ('{"annotations": []}', "COCO without 'images'"),
        ('{"images": [{"id": 1, "file_name": "a.png"}], "categories": [], "annotations": [3]}', "annotation 1: a int"),
        (
            '{"images": [{"id": 1, "file_name": "a.png"}], "categories": [], "annotations": [{"image_id": 2}]}',
            "annotation 1: image_id 2 is none",
        ),
        (
            '{"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 3, "name": "T"}], "annotations": '
            '[{"image_id": 1, "category_id": 3, "bbox": [1, 2]}]}',
            "annotation 1: neither keypoints",
        ),
    ],
)
def test_json_that_is_neither(root, content, said):
    (root / "labels").mkdir()
    (root / "labels" / "all.json").write_text(content)
    with pytest.raises(DatasetError, match=said):
        read_lab(root)


GOOD_ANNOTATION = {"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]}
BAD_COCO = [
    ({"image_id": [1]}, r"annotation 2: image_id \[1\] is none of the file's"),
    ({"category_id": {"id": 3}}, r"annotation 2: category_id \{'id': 3\} is none of the file's"),
    ({"keypoints": {"x": 1, "y": 2}}, "annotation 2: neither keypoints"),
    ({"keypoints": "12"}, "annotation 2: neither keypoints"),
    ({"bbox": "1234"}, "annotation 2: neither keypoints"),
    ({"bbox": [10**400, 1, 2, 3]}, "annotation 2: neither keypoints"),
]


@pytest.mark.parametrize(("changes", "said"), BAD_COCO)
def test_coco_annotations_that_make_no_sense_are_told_with_their_number(root, changes, said):
    write_coco(root, annotations=[GOOD_ANNOTATION, GOOD_ANNOTATION | changes])
    with pytest.raises(DatasetError, match=said):
        read_lab(root)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"annotations": 5}, "COCO's 'annotations' is 5; a list needed"),
        ({"images": {"id": 1}}, "COCO's 'images' is {'id': 1}; a list needed"),
        ({"images": [{"id": [1], "file_name": "a.png"}]}, "images 1: .*; an object with id and file_name needed"),
        ({"categories": [{"id": 3, "name": "T"}, {"id": 4}]}, "categories 2: .*; an object with id and name needed"),
        ({"categories": [7]}, "categories 1: 7; an object with id and name needed"),
    ],
)
def test_coco_whose_lists_make_no_sense(root, changes, said):
    write_coco(root, **changes)
    with pytest.raises(DatasetError, match=said):
        read_lab(root)


def write_coco(root, **changes):
    whole = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 3, "name": "T"}],
        "annotations": [GOOD_ANNOTATION],
    }
    (root / "labels").mkdir()
    (root / "labels" / "all.json").write_text(json.dumps(whole | changes))


@pytest.mark.parametrize("name", ["a.png", "a.svs"])
def test_a_file_that_is_no_image(root, name):
    (root / "images" / "a.png").unlink()
    (root / "images" / name).write_bytes(b"nothing")
    write_csv(root, "a", [(20, 30, "T")])
    with pytest.raises((DatasetError, SlideReadError), match=name):
        read_lab(root)


def test_dots_outside_all_regions_are_left_out_and_that_is_told(root, caplog):
    write_geojson(root, "a", [DOT, point(150, 150, "Tumour"), box(10, 10, 100, 100)])
    with caplog.at_level(logging.WARNING):
        read_lab(root)
    assert "feature 2: 1 of 2 dots of a.png lie in no region" in caplog.text


def test_a_region_that_crosses_itself_is_mended(root):
    bow = {"type": "Polygon", "coordinates": [[[10, 10], [90, 90], [90, 10], [10, 90], [10, 10]]]}
    write_geojson(root, "a", [DOT, feature(bow, "Region*")])
    (area,) = read_lab(root).images[0].areas
    assert area.is_valid
    assert area.area == pytest.approx(3200)


def test_ground_to_be_ignored_is_no_class_and_is_cut_out(root):
    dots = [point(20, 30, "Tumour"), point(60, 60, "Immune")]
    write_geojson(
        root, "a", [*dots, box(10, 10, 100, 100), box(50, 50, 70, 70, "Ignore*"), box(0, 0, 5, 5, "Necrosis*")]
    )
    found = read_lab(root)
    assert found.class_names == ("Tumour",), "the other dot lies on ignored ground"
    (image,) = found.images
    assert [area.area for area in image.areas] == [90 * 90 - 20 * 20]


def test_of_an_image_without_regions_all_but_the_ignored_is_known(root):
    write_geojson(root, "a", [point(20, 30, "Tumour"), box(0, 100, 300, 200, "Ignore*")])
    (image,) = read_lab(root).images
    assert [area.bounds for area in image.areas] == [(0, 0, 300, 100)]


def test_an_area_many_times_a_nucleus_is_none_and_said(root, caplog):
    areas = [box(100, 50, 250, 180, "Tumour"), box(10, 10, 200, 190, "Stroma area")]
    write_geojson(root, "a", [point(20, 30, "Tumour"), _outline(50, 60, "Immune"), *areas])
    with caplog.at_level(logging.WARNING):
        found = read_lab(root)
    assert found.class_names == ("Immune", "Tumour")
    assert found.images[0].xy.tolist() == [[20, 30], [50, 60]]
    assert "2 of 3 outlines are no nuclei but areas" in caplog.text
    assert "4875 um2" in caplog.text  # 150 x 130 px of 0.25 um2


def test_names_in_an_array_are_a_class(root):
    region = box(10, 10, 100, 100)
    region["properties"]["classification"] = {"names": ["Region*"], "color": [1, 2, 3]}
    dot = point(20, 30, None)
    dot["properties"]["classification"] = {"names": ["Tumour", "CD3"], "color": [1, 2, 3]}
    write_geojson(root, "a", [dot, region])
    found = read_lab(root)
    assert found.class_names == ("Tumour: CD3",)
    assert len(found.images[0].areas) == 1


@pytest.mark.parametrize("name", ["S1", "S1.ome", "S1.ome.tif"])
def test_labels_of_an_ome_tiff_are_found_as_qupath_names_them(tmp_path, name):
    (tmp_path / "images").mkdir()
    write_slide(tmp_path, "S1")
    (slide,) = (tmp_path / "images").glob("S1.*")
    slide.rename(tmp_path / "images" / "S1.ome.tif")
    write_geojson(tmp_path, name, [point(20, 30, "Tumour")])
    (image,) = read_lab(tmp_path).images
    assert image.path.name == "S1.ome.tif"


def test_byte_order_marks_and_the_shadow_files_of_macos_cost_nothing(root):
    path = write_geojson(root, "a", [point(20, 30, "Tumour")])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    path.with_name("._a.geojson").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X        \xff\xfe")
    (root / "images" / "._a.png").write_bytes(b"\0\5\26\7")
    assert read_lab(root).images[0].xy.tolist() == [[20, 30]]


def test_names_are_compared_in_one_unicode_form(tmp_path):
    write_image(tmp_path, "cafe\u0301")
    write_geojson(tmp_path, "caf\u00e9", [point(20, 30, "Tumour")])
    (tmp_path / "dataset.toml").write_text('mpp = 0.5\nval = ["cafe\u0301"]\n', encoding="utf-8")
    found = read_lab(tmp_path)
    assert (found.images[0].name, found.validation) == ("caf\u00e9", {"caf\u00e9"})
