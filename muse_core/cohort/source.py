"""What a slide must say of itself to be fetched; manifests say more."""

from typing import Protocol


class SlideSource(Protocol):
    """What is to be fetched: a manifest row, or anything like it."""

    @property
    def slide_id(self) -> str: ...  # noqa: D102
    @property
    def uri(self) -> str: ...  # noqa: D102
    @property
    def size(self) -> int | None: ...  # noqa: D102
    @property
    def md5(self) -> str | None: ...  # noqa: D102
