"""The HTML report of a slide or a cohort, and the pictures it needs of slides that will not be kept."""

from muse_core.report.digest import REPORT_NAME, digest_text, refresh_report
from muse_core.report.page import Written, write_report
from muse_core.report.pictures import drop_pictures, keep_pictures
from muse_core.report.settings import ReportSettings

__all__ = [
    "REPORT_NAME",
    "ReportSettings",
    "Written",
    "digest_text",
    "drop_pictures",
    "keep_pictures",
    "refresh_report",
    "write_report",
]
