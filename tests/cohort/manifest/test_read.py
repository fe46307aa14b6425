"""Manifests: every fault named with its row, no good row lost."""

import hashlib
import os
import sys
from pathlib import Path

import pytest
from fsspec.registry import _registry

from muse_core.cohort.manifest import ManifestRow, read_manifest, write_manifest
from muse_core.errors import ManifestError
from muse_core.machine.files import safe_name

HEADER = "slide_id,case_id,project,uri,size,md5,mpp"
MD5 = "0123456789abcdef0123456789ABCDEF"
UUID = "600c7d8c-f04c-4125-af14-b1e76dc01a1e"
GDC = "id\tfilename\tmd5\tsize\tstate"
LONG = "n" * 300  # no file system takes such a name
ROOT = Path(__file__).parents[3]


@pytest.fixture
def manifest(tmp_path):
    """Writes lines as a manifest and reads it."""

    def write(*lines: str, encoding: str = "utf-8", end: str = "\n", header: str = HEADER, check_files: bool = False):
        path = tmp_path / "manifest.csv"
        path.write_bytes((end.join([header, *lines]) + end).encode(encoding))
        return read_manifest(path, check_files=check_files)

    return write


def messages(result) -> list[tuple[int | None, str, str]]:
    return [(problem.row, problem.severity, problem.message) for problem in result.problems]


def test_reads_a_full_row(manifest, tmp_path):
    result = manifest(f"s1,c1,TCGA-BRCA,slides/a.svs,123,{MD5},0.2465")
    assert result.problems == ()
    expected = ManifestRow(2, "s1", "c1", "TCGA-BRCA", str(tmp_path / "slides/a.svs"), 123, MD5.lower(), 0.2465)
    assert result.rows == (expected,)


def test_empty_values_have_stand_ins(manifest):
    one, two = manifest("TCGA-A8-A099-01Z-00-DX1,,,/a.svs,,,", "s2,,,/b.svs").rows
    assert (one.case_id, one.project, one.size, one.md5, one.mpp) == ("TCGA-A8-A099", "unknown", None, None, None)
    assert (two.case_id, two.project) == ("s2", "unknown")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_any_line_end_with_or_without_a_byte_order_mark(manifest, end, encoding):
    result = manifest("s1,c,p,/a.svs", "", "😐,c,p,/b.svs,x", encoding=encoding, end=end)
    assert [row.slide_id for row in result.rows] == ["s1"]
    assert messages(result) == [
        (4, "error", "size 'x' is not a whole number of bytes above 0; leave it empty if it is not known")
    ]


def test_columns_in_any_order_with_others_between(manifest):
    result = manifest("/a.svs,hello,s1", header="URI, note ,slide_id")
    assert result.rows[0].slide_id == "s1"
    assert messages(result) == [
        (1, "warning", "column 'note' is not known and not used"),
        (1, "warning", "no column 'case_id'; a slide's TCGA patient, or else its own id, stands in"),
        (1, "warning", "no column 'project'; all slides are of project 'unknown'"),
    ]


def test_semicolons_of_spreadsheets(manifest):
    assert manifest("s1;c;p;/a.svs;;;0.25", header=HEADER.replace(",", ";")).rows[0].mpp == 0.25


def test_quoted_values(manifest):
    result = manifest('"a, ""b""",c,p,"/x,y.svs",,,')
    assert (result.rows[0].slide_id, result.rows[0].uri) == ('a, "b"', "/x,y.svs")


def test_a_quoted_value_may_run_over_lines(manifest):
    header = HEADER + ",note"
    result = manifest('s1,c,p,/a.svs,,,,"two\nlines"', "s2,c,p,/b.svs,,,,", "s3,c,p,/c.svs,zero,,,", header=header)
    assert [row.row for row in result.rows] == [2, 4]
    assert messages(result)[-1][0] == 5


def test_a_quote_that_never_closes_costs_its_own_row_only(manifest):
    result = manifest("s1,c,p,/a.svs,,,", '"s2,c,p,/b.svs,,,', "s3,c,p,/c.svs,,,", '"s4",c,p,/d.svs,,,')
    assert [row.slide_id for row in result.rows] == ["s1", "s3", "s4"]
    assert [(row, severity) for row, severity, _ in messages(result)] == [(3, "error")]
    assert "quote" in result.problems[0].message


def test_two_stray_quotes_do_not_make_one_row_of_two(manifest):
    result = manifest('"s1,c,p,/a.svs,,,', 's2,c,p,/b.svs,,,"', "s3,c,p,/c.svs,,,")
    assert [row.slide_id for row in result.rows] == ["s3"]
    assert [problem.row for problem in result.problems] == [2, 3]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("s,c,p,ftp:///a.svs,,,", "names no host"),
        (",c,p,/a.svs,,,", "slide_id is missing"),
        ("s,c,p,,,,", "uri is missing"),
        ("s,c,p,/a.svs,-1,,", "size '-1' is not a whole number of bytes above 0; leave it empty if it is not known"),
        ("s,c,p,/a.svs,1e6,,", "size '1e6' is not a whole number"),
        ("s,c,p,/a.svs,0,,", "size '0' is not"),
        ("s,c,p,/a.svs,99999999999999999999,,", "size '99999999999999999999' is not"),
        ("s,c,p,/a.svs,1_0,,", "size '1_0' is not"),
        ("s,c,p,/a.svs,,abc,", "md5 'abc' is not 32 hex digits; leave it empty if it is not known"),
        ("s,c,p,/a.svs,,,zero", "mpp 'zero' is not a number of µm/px, such as 0.25"),
        ("s,c,p,/a.svs,,,nan", "mpp 'nan' is not a number"),
        ("s,c,p,/a.svs,,,1_0", "mpp '1_0' is not a number"),
        ("s,c,p,/a.svs,,,0", "mpp '0' is outside 0.01 to 100 µm/px"),
        ("s,c,p,/a.svs,,,-0.25", "mpp '-0.25' is outside"),
        ("s,c,p,/a.svs,,,inf", "mpp 'inf' is outside"),
        ("s,c,p,/a.svs,,,250", "mpp '250' is outside"),
        ("s" * 140_000 + ",c,p,/a.svs,,,", "not CSV: field larger than field limit"),
        ("s,c,p,/a.svs,,,,extra", "8 values under 7 columns; quote a value that holds ','"),
        ("s,c,p,ftpx://h/a.svs,,,", "unknown scheme 'ftpx'"),
        ("s,c,p,gdc://123,,,", "'123' is not a GDC file UUID"),
        ("s,c,p,file://a.svs,,,", "write file:///folder/slide.svs"),
        ("s,c,p,https:///a.svs,,,", "names no host"),
        ("s\x07,c,p,/a.svs,,,", "holds a control character"),
        ("s,c,p\x1b[31m,/a.svs,,,", "project 'p\\x1b[31m' holds a control character"),
        ("s,c,p,/a\x00.svs,,,", None),
        ("s" * 1025 + ",c,p,/a.svs,,,", "takes 1025 bytes; at most 1024 fit"),
        ("😐" * 257 + ",c,p,/a.svs,,,", "takes 1028 bytes"),
    ],
)
def test_a_bad_row_is_named_and_loses_no_other(manifest, line, message):
    if message is None:
        with pytest.raises(ManifestError, match="a binary file"):
            manifest("good,c,p,/g.svs,,,", line)
        return
    result = manifest("good,c,p,/g.svs,,,", line, "good too,c,p,/h.svs,,,")
    assert [row.slide_id for row in result.rows] == ["good", "good too"]
    assert [problem.row for problem in result.problems] == [3]
    assert message in result.problems[0].message
    assert "\n" not in result.problems[0].message


def test_all_faults_of_a_row_are_told(manifest):
    assert len(manifest("s,c,p,,x,y,z").problems) == 4


def test_doubled_ids_are_all_refused_and_name_each_other(manifest):
    result = manifest("s,c,p,/a.svs", "t,c,p,/b.svs", "s,c,p,/c.svs", "s,c,p,/d.svs")
    assert [row.slide_id for row in result.rows] == ["t"]
    assert messages(result) == [
        (2, "error", "slide_id 's' is also in rows 4, 5; give each its own"),
        (4, "error", "slide_id 's' is also in rows 2, 5; give each its own"),
        (5, "error", "slide_id 's' is also in rows 2, 4; give each its own"),
    ]
    assert {problem.slide_id for problem in result.problems} == {"s"}


def test_an_id_of_a_bad_row_counts_as_doubled_too(manifest):
    result = manifest("s,c,p,/a.svs", "s,c,p,/b.svs,zero")
    assert result.rows == ()
    assert [problem.row for problem in result.problems] == [2, 3, 3]


def test_one_file_under_two_ids_is_a_warning(manifest):
    result = manifest("s,c,p,/a.svs", "t,c,p,/a.svs")
    assert len(result.rows) == 2
    assert messages(result)[0] == (2, "warning", "uri '/a.svs' is also that of row 3; the slide would be counted again")
    assert result.errors == ()


def test_one_file_under_many_ids_is_one_warning(manifest):
    result = manifest("t,c,p,/b.svs", *(f"s{number},c,p,/a.svs" for number in range(9)))
    text = "uri '/a.svs' is also that of rows 4, 5, 6, 7, 8 and 3 more; the slide would be counted again"
    assert messages(result) == [(3, "warning", text)]
    assert len(result.rows) == 10


def test_a_missing_driver_is_one_warning_when_files_are_checked(manifest, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)  # not importable, whatever is installed here
    monkeypatch.delitem(_registry, "s3", raising=False)  # nor kept by a test before this one
    lines = ["m,c,p,memory://a.svs", *(f"s{number},c,p,s3://bucket/{number}.svs" for number in range(3))]
    assert manifest(*lines).problems == ()
    result = manifest(*lines, check_files=True)
    text = "a driver is missing: Install s3fs to access S3; add it with pip install; the same for rows 4, 5"
    assert messages(result) == [(3, "warning", f"uri 's3://bucket/0.svs': {text}")]
    assert len(result.rows) == 4


def test_ids_that_differ_in_case_only_are_a_warning(manifest):
    result = manifest("Slide,c,p,/a.svs", "sLIDE,c,p,/b.svs")
    assert len(result.rows) == 2
    assert [(row, severity) for row, severity, _ in messages(result)] == [(2, "warning"), (3, "warning")]


@pytest.mark.parametrize(
    "slide_id", ["../../etc/passwd", "..", ".", "/etc/passwd", "a/b", "😐", "~root", "CON ", "a\\b"]
)
def test_names_never_leave_their_folder(manifest, tmp_path, slide_id):
    name = safe_name(manifest(f"{slide_id},c,p,/a.svs").rows[0].slide_id)
    assert (tmp_path / name).resolve().parent == tmp_path.resolve()
    assert not name.startswith(".")


def test_relative_paths_count_from_the_manifest(manifest, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    assert manifest("s,c,p,../x/a.svs").rows[0].uri == str(tmp_path.parent / "x/a.svs")


def test_files_are_looked_for_when_asked(manifest, tmp_path):
    (tmp_path / "a.svs").write_bytes(b"12345")
    (tmp_path / "folder").mkdir()
    lines = (
        "a,c,p,a.svs,5",
        "b,c,p,b.svs",
        "c,c,p,a.svs,6",
        "d,c,p,folder",
        f"e,c,p,gdc://{UUID}",
        "f,c,p,file:///no.svs",
        f"g,c,p,/{LONG}.svs",
        "h,c,p,a.svs/b.svs",
    )
    assert len(manifest(*lines).rows) == 8
    result = manifest(*lines, check_files=True)
    assert [row.slide_id for row in result.rows] == ["a", "e"]
    assert [text for _, severity, text in messages(result) if severity == "error"] == [
        f"no file {tmp_path / 'b.svs'}; relative paths count from the manifest's folder",
        f"{tmp_path / 'a.svs'} has 5 bytes, the manifest says 6",
        f"{tmp_path / 'folder'} is a folder; name the slide file in it",
        "no file /no.svs; relative paths count from the manifest's folder",
        f"/{LONG}.svs: File name too long; give a file that can be read",
        f"no file {tmp_path / 'a.svs/b.svs'}; relative paths count from the manifest's folder",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty; the first line must be slide_id,"),
        (b"\xef\xbb\xbf\r\n\r\n", "empty"),
        (b"\x00\x01\x02binary", "a binary file, not text"),
        ("slide_id,uri\nå,/a.svs".encode("latin-1"), "line 2 is not UTF-8 text; save it as CSV UTF-8"),
        ("slide_id,uri\na,/a.svs".encode("utf-16"), "UTF-16 text; save it as CSV UTF-8"),
        (b"name,path\na,/a.svs", "no column slide_id, uri, found 'name', 'path'"),
        (b"slide_id,path\na,/a.svs", "no column uri, found 'slide_id', 'path'"),
        (b"slide_id,uri,uri\na,/a.svs,/b.svs", "column 'uri' stands twice in the header"),
        (f"{HEADER}\n\n".encode(), "a header and no slides"),
        (b"x" * 200_000, "its first line is no header"),
    ],
)
def test_what_is_no_manifest_is_one_line(tmp_path, content, message):
    path = tmp_path / "m.csv"
    path.write_bytes(content)
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_manifest_is_one_line(tmp_path):
    with pytest.raises(ManifestError, match=r"none\.csv: no such file; give a CSV, a folder or a slide"):
        read_manifest(tmp_path / "none.csv")
    with pytest.raises(ManifestError, match="File name too long; give a CSV"):
        read_manifest(tmp_path / f"{LONG}.csv")
    with pytest.raises(ManifestError, match="no slide in it"):
        read_manifest(tmp_path / "*.svs")
    with pytest.raises(ManifestError, match="no slide in it; slides end in"):
        read_manifest(tmp_path)


def test_a_gdc_manifest_is_read_as_it_is(manifest):
    barcode = "TCGA-OR-A5J1-01Z-00-DX1"
    result = manifest(f"{UUID}\t{barcode}.{UUID.upper()}.svs\t{MD5}\t123\treleased", header=GDC)
    assert result.problems == ()
    assert result.rows == (ManifestRow(2, barcode, "TCGA-OR-A5J1", "unknown", f"gdc://{UUID}", 123, MD5.lower(), None),)


def test_gdc_files_of_one_barcode_keep_their_uuids(manifest):
    other = "700c7d8c-f04c-4125-af14-b1e76dc01a1e"
    barcode = "TCGA-OR-A5J1-01Z-00-DX1"
    lines = [f"{file_id}\t{barcode}.{file_id}.svs\t\t1\treleased" for file_id in (UUID, other)]
    assert [row.slide_id for row in manifest(*lines, header=GDC).rows] == [f"{barcode}.{UUID}", f"{barcode}.{other}"]


def test_gdc_rows_are_checked(manifest):
    name = f"TCGA-OR-A5J1-01Z-00-DX1.{UUID}.svs"
    lines = [
        f"{UUID}\treads.bam\t{MD5}\t1\treleased",
        f"nouuid\tCPT0001.svs\t{MD5}\t1\treleased",
        f"{UUID}\t{name}\t{MD5}\t1\treleased",
        f"{UUID}\t{name}\t{MD5}\t1\treleased",
        f"{UUID[:-1]}f\tC3L-00001-21.svs\t{MD5}\t1\treleased",
    ]
    result = manifest(*lines, header=GDC)
    assert [row.slide_id for row in result.rows] == ["C3L-00001-21"]
    assert [problem.row for problem in result.errors] == [2, 3, 4, 5]
    assert "is also in row 5" in result.errors[2].message


def test_a_folder_of_slides(tmp_path):
    names = [
        "b.svs",
        "a.svs",
        "a.ndpi",
        "x/c.svs",
        "y/c.svs",
        "y/scan.ome.tif",
        ".hidden.svs",
        "notes.txt",
        "y/._b.svs",
    ]
    for name in [*names, f"TCGA-OR-A5J1-01Z-00-DX1.{UUID.upper()}.svs"]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"slide")
    result = read_manifest(tmp_path, check_files=True)
    expected = ["TCGA-OR-A5J1-01Z-00-DX1", "a.ndpi", "a.svs", "b", "x/c.svs", "y/c.svs", "scan"]
    assert [row.slide_id for row in result.rows] == expected
    assert result.rows[0].case_id == "TCGA-OR-A5J1"
    assert result.problems == ()
    assert result == read_manifest(tmp_path)


def test_a_glob_and_a_single_slide(tmp_path):
    for name in ("a.svs", "b.svs", "c.tif"):
        (tmp_path / name).write_bytes(b"slide")
    assert [row.slide_id for row in read_manifest(tmp_path / "*.svs").rows] == ["a", "b"]
    assert [row.uri for row in read_manifest(tmp_path / "c.tif").rows] == [str(tmp_path / "c.tif")]


@pytest.mark.skipif(os.name != "posix", reason="names of bytes are POSIX")
def test_a_file_name_that_is_not_text_is_a_problem(tmp_path):
    (tmp_path / "a.svs").write_bytes(b"slide")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.svs")).write_bytes(b"slide")
    result = read_manifest(tmp_path, check_files=True)
    assert [row.slide_id for row in result.rows] == ["a"]
    (problem,) = result.problems
    assert problem.slide_id == "\\xff"
    assert "not UTF-8 text; rename the file" in problem.message
    assert problem.message.startswith(f"uri '{tmp_path}/\\xff.svs' ")


@pytest.mark.skipif(os.name != "posix", reason="names of bytes are POSIX")
def test_a_manifest_in_a_folder_that_is_not_text(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    (folder / "m.csv").write_text("slide_id,case_id,project,uri\na,c,p,a.svs\nb,c,p,/b.svs\n")
    result = read_manifest(folder / "m.csv")
    assert [row.slide_id for row in result.rows] == ["b"]
    assert "not UTF-8 text" in result.problems[0].message
    result.problems[0].message.encode()


def test_no_two_files_of_a_folder_share_an_id(tmp_path):
    names = ["a.svs", "a.ndpi", "a.svs.ndpi", "a.svs.ndpi.tif", "x/a.svs", "x/b.svs", "b.svs"]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"slide")
    result = read_manifest(tmp_path)
    assert {row.slide_id: str(Path(row.uri).relative_to(tmp_path)) for row in result.rows} == {
        "a.svs": "a.svs",
        "a.ndpi": "a.ndpi",
        "a.svs.ndpi": "a.svs.ndpi",
        "a.svs.ndpi.tif": "a.svs.ndpi.tif",
        "x/a.svs": "x/a.svs",
        "x/b.svs": "x/b.svs",
        "b.svs": "b.svs",
    }
    assert result.problems == ()


def test_written_manifests_read_back(tmp_path):
    rows = [
        ManifestRow(2, "a, b", "c", "TCGA-BRCA", "/x/a.svs", 5, MD5.lower(), 0.25),
        ManifestRow(3, "😐", "c", "unknown", f"gdc://{UUID}", None, None, None),
    ]
    path = tmp_path / "new" / "m.csv"
    assert write_manifest(rows, path) == 2
    assert read_manifest(path).rows == tuple(rows)
    assert path.read_text(encoding="utf-8").splitlines()[0] == HEADER


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_byte_order_mark_before_the_header_costs_nothing(tmp_path, delimiter):
    path = tmp_path / "m.csv"
    lines = [delimiter.join(words) for words in (("slide_id", "uri"), ("Ä1", "/x/ä.svs"))]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    (row,) = read_manifest(path).rows
    assert (row.slide_id, row.uri) == ("Ä1", "/x/ä.svs")


def test_a_scene_is_read_and_written_where_a_row_has_one(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("slide_id,uri,scene\na,/x.tif,1\nb,/x.tif,2\nc,/y.tif,\nd,/z.tif,0\n")
    found = read_manifest(path)
    assert [(row.slide_id, row.scene) for row in found.rows] == [("a", 1), ("b", 2), ("c", None)]
    (error,) = found.errors
    assert error.message == "scene '0' is not a number from 1 on; leave it empty to take the largest picture"
    assert not any("counted again" in problem.message for problem in found.problems)
    write_manifest(found.rows, path)
    assert path.read_text().splitlines()[0] == HEADER + ",scene"
    assert [row.scene for row in read_manifest(path).rows] == [1, 2, None]


def test_a_large_manifest_is_read_in_linear_time(manifest):
    lines = [f"s{number % 19_000},c,p,/{number}.svs" for number in range(20_000)]
    result = manifest(*lines)
    assert (len(result.rows), len(result.problems)) == (18_000, 2000)


def test_the_sample_manifest_works_offline():
    result = read_manifest(ROOT / "data_manifests/sample.csv", check_files=True)
    assert result.problems == ()
    (row,) = result.rows
    assert hashlib.md5(Path(row.uri).read_bytes()).hexdigest() == row.md5


@pytest.mark.slides
@pytest.mark.skipif(not (ROOT.parent / "shared/data/slides").exists(), reason="needs the real slides in ../shared")
def test_the_shared_slides_as_a_folder():
    result = read_manifest(ROOT.parent / "shared/data/slides", check_files=True)
    ids = [row.slide_id for row in result.rows]
    assert {"CMU-1-Small-Region", "frozen-no-mpp", "OS-1-detail", "😐"} <= set(ids)
    assert len(ids) == len(set(ids)) == 15
    assert result.errors == ()
