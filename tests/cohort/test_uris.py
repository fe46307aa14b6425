"""URIs: what is local, what is wrong, what may be shown, and how slides are named."""

import os
import sys
from pathlib import Path

import pytest
from fsspec.registry import _registry

from muse_core.cohort.uris import (
    absolute_uri,
    missing_driver,
    path_of,
    path_text,
    public_text,
    public_uri,
    scheme_of,
    slide_stem,
    slide_suffix,
    uri_problem,
    uri_suffix,
)


@pytest.mark.parametrize(
    ("uri", "scheme", "path"),
    [
        ("a/b.svs", "", Path("a/b.svs")),
        ("/a b/c.svs", "", Path("/a b/c.svs")),
        ("file:///a%20b/c.svs", "file", Path("/a b/c.svs")),
        ("FILE:///c.svs", "file", Path("/c.svs")),
        ("https://host/a.svs", "https", None),
        ("gdc://x", "gdc", None),
        ("simplecache::s3://bucket/a.svs", "simplecache::s3", None),
        ("odd:name.svs", "", Path("odd:name.svs")),
    ],
)
def test_schemes_and_local_paths(uri, scheme, path):
    assert scheme_of(uri) == scheme
    assert path_of(uri) == path


@pytest.mark.parametrize(
    "uri",
    [
        "a.svs",
        "file:///a.svs",
        "http://host/a",
        "https://me:x@[::1]:80/a",
        "s3://b_c/a",
        "s3://arn:aws:s3:us-west-2:123:accesspoint/x/a.svs",
        "ftp://me:x@host/a",
        "hdfs:///a",
        "memory://a",
        "simplecache::gs://b/a",
        "gdc://600C7D8C-F04C-4125-AF14-B1E76DC01A1E",
    ],
)
def test_good_uris(uri):
    assert uri_problem(uri) is None


@pytest.mark.parametrize(
    "uri",
    [
        "file://a.svs",
        "file:///a%00.svs",
        "http://",
        "http://[::1",
        "http://host:99999/a",
        "http://host:x/a",
        "ftp://",
        "ftp:///a.svs",
        "sftp:///a.svs",
        "s3://",
        "gs:///a.svs",
        "gdc://",
        "gdc://../x",
        "nope://x",
    ],
)
def test_bad_uris(uri):
    assert uri_problem(uri)


@pytest.mark.parametrize("uri", ["s3://b/a.svs", "S3://b/a.svs", "simplecache::s3://b/a.svs"])
def test_a_missing_driver_is_named(monkeypatch, uri):
    monkeypatch.setitem(sys.modules, "s3fs", None)  # not importable, whatever is installed here
    monkeypatch.delitem(_registry, "s3", raising=False)  # nor kept by a test before this one
    assert missing_driver(uri) == "a driver is missing: Install s3fs to access S3; add it with pip install"


@pytest.mark.parametrize("uri", ["memory://a.svs", "simplecache::memory://a::b.svs"])
def test_no_driver_is_missing(uri):
    assert missing_driver(uri) is None


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("/a?b#c.svs", "/a?b#c.svs"),  # a path is shown as it is: these may stand in file names
        ("https://me:secret@host:81/a.svs?sig=secret#secret", "https://host:81/a.svs"),
        ("https://me:secret@[host/a?sig=secret", "[host/a"),
        ("s3://key:secret@bucket/a.svs", "s3://bucket/a.svs"),
        ("simplecache::http://me:secret@host/a.svs?sig=secret", "simplecache::http://host/a.svs"),
        ("zip://a.svs::simplecache::s3://key:secret@bucket/a.zip", "zip://a.svs::simplecache::s3://bucket/a.zip"),
        ("blockcache::http://me:secret@[::1]:80/a.svs", "blockcache::http://[::1]:80/a.svs"),
    ],
)
def test_secrets_are_not_shown(uri, shown):
    assert public_uri(uri) == shown
    assert public_text(f"ClientError('{uri}'): no answer") == f"ClientError('{shown}'): no answer"


@pytest.mark.skipif(os.name != "posix", reason="names of bytes are POSIX")
def test_a_path_of_any_bytes_can_be_told():
    assert path_text(Path(os.fsdecode("/å/".encode() + b"\xff.svs"))) == "/å/\\xff.svs"


def test_relative_paths_and_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert absolute_uri("x/../a.svs", Path("/m")) == "/m/a.svs"
    assert absolute_uri("~/a.svs", Path("/m")) == "/home/me/a.svs"
    assert absolute_uri("s3://b/a.svs", Path("/m")) == "s3://b/a.svs"


@pytest.mark.parametrize(
    ("name", "suffix", "stem"),
    [
        ("x/A.SVS", ".svs", "A"),
        ("a.b.ome.tif", ".ome.tif", "a.b"),
        ("a.tiff", ".tiff", "a"),
        ("a.txt", "", "a"),
        ("a", "", "a"),
    ],
)
def test_slide_names(name, suffix, stem):
    assert slide_suffix(name) == suffix
    assert slide_stem(name) == stem


def test_suffixes_of_uris():
    assert uri_suffix("https://host/a.ndpi?sig=x.svs") == ".ndpi"
    assert uri_suffix("gdc://600C7D8C-F04C-4125-AF14-B1E76DC01A1E") == ".svs"
    assert uri_suffix("https://host/data/17") == ""
