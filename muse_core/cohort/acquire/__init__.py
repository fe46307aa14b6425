"""Slides from wherever they are to a verified local file: used in place, or fetched, resumed and, if wished, deleted.

`acquire` gets one slide; a `SlideStore` gets many, a bounded number at a time and on the disk.
"""

from muse_core.cohort.acquire.fetch import Acquired, acquire, local_path
from muse_core.cohort.acquire.settings import AcquireSettings
from muse_core.cohort.acquire.store import SlideStore

__all__ = ["AcquireSettings", "Acquired", "SlideStore", "acquire", "local_path"]
