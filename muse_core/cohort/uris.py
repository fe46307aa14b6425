"""Where a slide is: paths, file://, http(s)://, gdc://UUID and whatever fsspec knows; and the suffixes slides have."""

import os
import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit, urlunsplit

import fsspec

SLIDE_SUFFIXES = (
    ".ome.tiff",  # the two-part suffixes first: the longest that fits is the suffix
    ".ome.tif",
    ".ome.btf",
    ".svs",
    ".tiff",
    ".tif",
    ".ndpi",
    ".mrxs",
    ".scn",
    ".svslide",
    ".bif",
    ".vms",
    ".vmu",
    ".dcm",
    ".czi",
    ".qptiff",
    ".btf",
    ".tf8",
    ".tf2",
)

_TO_TIFF = "convert it, such as by `vips tiffsave {name} slide.tif --tile --pyramid --compression jpeg --Q 90`"
_BY_BIO_FORMATS = "export it as OME-TIFF or tiled TIFF with the scanner's own program or Bio-Formats' bfconvert"
# Formats that people try; what each is, and what to do.
_UNREAD = {
    ".jp2": ("a JPEG 2000 image", _TO_TIFF),
    ".jpx": ("a JPEG 2000 image", _TO_TIFF),
    ".j2k": ("a JPEG 2000 image", _TO_TIFF),
    ".bmp": ("a BMP image", _TO_TIFF),
    ".webp": ("a WebP image", _TO_TIFF),
    ".gif": ("a GIF image", _TO_TIFF),
    ".heic": ("an HEIC image", _TO_TIFF),
    ".avif": ("an AVIF image", _TO_TIFF),
    ".vsi": ("an Olympus slide", _BY_BIO_FORMATS),
    ".lif": ("a Leica LIF file", _BY_BIO_FORMATS),
    ".isyntax": ("a Philips iSyntax slide", _BY_BIO_FORMATS),
    ".i2syntax": ("a Philips iSyntax slide", _BY_BIO_FORMATS),
    ".ets": ("a part of an Olympus slide", _BY_BIO_FORMATS),
    ".nd2": ("a Nikon ND2 file", _BY_BIO_FORMATS),
    ".kfb": ("a KFBio slide", _BY_BIO_FORMATS),
    ".mds": ("a Motic slide", _BY_BIO_FORMATS),
    ".tmap": ("a UNIC slide", _BY_BIO_FORMATS),
    ".zarr": ("a Zarr folder", _BY_BIO_FORMATS),
}

_WITH_PORT = frozenset({"http", "https", "ftp", "sftp", "ssh", "smb"})
_WITH_BUCKET = frozenset({"s3", "s3a", "gs", "gcs"})
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.:-]+)://")
_LINKS = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.-]*(?:://|::))")  # not those of an IPv6 host
_URI_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://[^\s'\"<>)]+")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def scheme_of(uri: str) -> str:
    """The scheme in lower case, '' for a plain path."""
    found = _SCHEME.match(uri)
    return found[1].lower() if found else ""


def path_of(uri: str) -> Path | None:
    """The file that a path or a file:// URI names; None where it is elsewhere."""
    scheme = scheme_of(uri)
    if scheme == "":
        return Path(uri)
    return Path(unquote(uri.partition("://")[2])) if scheme == "file" else None


def path_text(path: Path) -> str:
    """A path as Unicode, whatever bytes it is made of."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def absolute_uri(uri: str, folder: Path | str) -> str:
    """The URI as it is, or for a plain path the absolute one, relative paths being counted from `folder`.

    Args:
        uri: of a slide.
        folder: a folder on this machine, or the URL of one elsewhere.

    Raises:
        ValueError: the path leads out of the bucket.
    """
    if scheme_of(uri) or (isinstance(folder, str) and uri.startswith(("/", "~"))):
        return uri
    if isinstance(folder, str):
        return _below_url(uri, folder)
    return os.path.abspath(folder / os.path.expanduser(uri))  # no symlink resolved: the name a person gave stays


def _below_url(path: str, folder: str) -> str:
    """A path below a folder's URL, without its `.` and `..`, which mean nothing to a store: there they are names."""
    scheme, _, rest = folder.partition("://")
    bucket, *keys = rest.split("/")
    for part in path.split("/"):
        if part == ".." and not keys:
            raise ValueError(
                f"uri {path!r} leads out of {scheme}://{bucket}, counted from {folder}; give its whole URL"
            )
        if part == "..":
            keys.pop()
        elif part != ".":
            keys.append(part)
    return f"{scheme}://{'/'.join([bucket, *keys])}"


def uri_problem(uri: str) -> str | None:
    """What is wrong with a URI, and what would be right; None where nothing is."""
    scheme, rest = scheme_of(uri), uri.partition("://")[2]
    if scheme == "":
        return None
    if scheme == "file":
        if "%00" in rest:
            return f"uri {uri!r} holds a %00, which no file name does"
        return None if rest.startswith("/") else f"uri {uri!r} has no absolute path; write file:///folder/slide.svs"
    if scheme == "gdc":
        return (
            None if _UUID.fullmatch(rest) else f"uri {uri!r}: {rest!r} is not a GDC file UUID (8-4-4-4-12 hex digits)"
        )
    if scheme in _WITH_PORT and not _host(uri):
        return f"uri {public_uri(uri)!r} names no host, or a wrong port; write {scheme}://host/folder/slide.svs"
    if scheme in _WITH_BUCKET and not rest.partition("/")[0]:
        return f"uri {public_uri(uri)!r} names no bucket; write {scheme}://bucket/folder/slide.svs"
    first = scheme.partition("::")[0]
    if first not in fsspec.available_protocols():
        return (
            f"uri {public_uri(uri)!r}: unknown scheme {first!r}; use a path, file, http, https, gdc or one of fsspec's"
        )
    return None


def missing_driver(uri: str) -> str | None:
    """What to install before fsspec can read a URI; None where nothing is missing. Imports drivers, opens nothing."""
    for link in _LINKS.split(uri):
        try:
            fsspec.get_filesystem_class(link.partition("://")[0].lower())
        except ImportError as error:
            return f"a driver is missing: {error}; add it with pip install"
        except ValueError:  # no protocol, which uri_problem tells
            continue
    return None


def public_uri(uri: str) -> str:
    """The URI without user, password, query and fragment, which may hold secrets: for logs, messages and tables."""
    if not scheme_of(uri):
        return uri
    return "::".join(_public_link(link) for link in _LINKS.split(uri))  # such as simplecache::s3://bucket/a.svs


def public_text(text: str) -> str:
    """A text, such as an error's, with every URI in it as `public_uri` gives it."""
    return _URI_IN_TEXT.sub(lambda found: public_uri(found[0]), text)


def _public_link(uri: str) -> str:
    try:
        parts = urlsplit(uri)
    except ValueError:  # such as an unclosed '[' of an IPv6 host
        return uri.split("?")[0].split("#")[0].rpartition("@")[2]
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def slide_suffix(name: str) -> str:
    """The slide suffix a file name ends with, in lower case; '' where it has none."""
    lower = name.lower()
    return next((suffix for suffix in SLIDE_SUFFIXES if lower.endswith(suffix)), "")


def unread_format(name: str) -> str:
    """What a file of a known format that is not read is, and what to do, in words; "" for any other."""
    what, to_do = _UNREAD.get(PurePosixPath(name).suffix.lower(), ("", ""))
    return f"{what} ({PurePosixPath(name).name}), which is not read; {to_do.format(name=name)}" if what else ""


def uri_suffix(uri: str) -> str:
    """The slide suffix of what a URI names; GDC's slides are SVS, and their ids do not say so."""
    if scheme_of(uri) == "gdc":
        return ".svs"
    return slide_suffix(unquote(public_uri(uri)))


def slide_stem(name: str) -> str:
    """A file name without its folder and its slide suffix, or without its last suffix where that is no slide's."""
    last = PurePosixPath(name).name
    suffix = slide_suffix(last)
    return last[: -len(suffix)] if suffix else PurePosixPath(last).stem


def _host(uri: str) -> str | None:
    """The host of a URI; None where it has none, or one with a port that cannot be."""
    try:
        parts = urlsplit(uri)
        return parts.hostname if parts.port != 0 else None
    except ValueError:
        return None
