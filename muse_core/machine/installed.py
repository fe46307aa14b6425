"""Which versions of packages are installed."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache  # a search through the folders of packages; they do not change under a running process
def installed_version(package: str) -> str | None:
    """The version of an installed package; None where it is not, or runs from its sources without installation."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
