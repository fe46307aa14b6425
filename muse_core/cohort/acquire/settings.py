"""How slides are fetched."""

from pydantic import Field

from muse_core.cohort.acquire.retry import RetrySettings
from muse_core.config import Settings


class AcquireSettings(Settings):
    """Servers, patience and bounds of fetching slides."""

    gdc_url: str = Field(
        default="https://api.gdc.cancer.gov", description="base of GDC's API; gdc://UUID is its /data/UUID"
    )
    connect_timeout_s: float = Field(default=15.0, gt=0)
    read_timeout_s: float = Field(
        default=60.0, gt=0, description="longest silence of a server before the connection is cut"
    )
    min_bytes_per_s: float = Field(
        default=10_000.0, ge=0, description="a connection slower than this over a window is cut"
    )
    speed_window_s: float = Field(default=30.0, gt=0)
    min_progress_bytes: int = Field(
        default=2**20,
        ge=1,
        description="an attempt that brought this much counts as progress, not as one more failure in a row",
    )
    max_bad_files: int = Field(default=3, ge=1, description="whole files of a wrong size or checksum before giving up")
    retry: RetrySettings = RetrySettings()
    max_downloads: int = Field(default=4, ge=1, description="connections at once")
    max_slides_on_disk: int = Field(
        default=8, ge=1, description="bound without kept slides, unfinished downloads included"
    )
