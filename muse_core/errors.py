"""Everything a caller may meet and handle.

    MuseError
    ├── ManifestError     the manifest or one of its rows
    ├── AcquireError      a slide file could not be had whole
    ├── SlideReadError    a slide file could not be opened or decoded
    ├── SlideChangedError a slide file is not the one any more that was opened
    ├── MppError          the slide's µm/px is missing or of no use
    ├── TissueError       the slide holds nothing to work on
    ├── DatasetError      a table or dataset is not what it should be
    ├── ConfigError       a setting or command-line value
    ├── TrainingError     a training run that collapsed, met NaN or crashed
    ├── WorkersLostError  the Dask cluster went away
    └── OutputError       the output folder: locked, read-only or full

Each instance carries `reason`, the short machine-readable word of the slides table, and a message of one line that says
what, which file, the value found, the value needed and what to do next. Catch `MuseError` for all of them.
"""


class MuseError(Exception):
    """Base of all errors raised on purpose; `reason` is a word for tables, the text is a line for people."""

    default_reason = "failed"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        # One line, and valid UTF-8 whatever bytes a file name holds.
        super().__init__(" ".join(message.split()).encode("utf-8", "backslashreplace").decode("utf-8"))
        self.reason = reason or self.default_reason
        self.facts: dict[str, object] = {}  # columns of the slides table that were known before it failed

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders (Dask); the keyword-only reason would be lost by the default.
        return (_rebuild, (type(self), str(self), self.reason, self.facts))


def _rebuild(kind: type[MuseError], message: str, reason: str, facts: dict[str, object]) -> MuseError:
    error = kind(message, reason=reason)
    error.facts = facts
    return error


class ManifestError(MuseError, ValueError):
    """A manifest that cannot be read, or a row of it that makes no sense."""

    default_reason = "manifest_invalid"


class AcquireError(MuseError, OSError):
    """A slide file could not be had whole.

    Reasons: not_found, access_refused, source_invalid, size_mismatch, checksum_mismatch, run_ended, and download_failed
    for what may pass.
    """

    default_reason = "download_failed"


class SlideReadError(MuseError, OSError):
    """A slide file that no reader opens, or a region of it that none decodes."""

    default_reason = "unreadable"


class SlideChangedError(MuseError, OSError):
    """A slide file that was written to, replaced or taken away while it was read: what was read of it is of no use.

    It is no SlideReadError, for that may cost a region only.
    """

    default_reason = "changed"


class MppError(MuseError, ValueError):
    """The slide's µm/px is missing (mpp_missing), told in two ways (mpp_conflict) or too coarse (mpp_too_coarse)."""

    default_reason = "mpp_missing"


class TissueError(MuseError, ValueError):
    """Nothing to work on: no_tissue; no_rois where the tissue has no room for one; no_regions where none was drawn."""

    default_reason = "no_tissue"


class DatasetError(MuseError, ValueError):
    """A table, a ROI image or a label file is not what its schema says."""

    default_reason = "dataset_invalid"


class ConfigError(MuseError, ValueError):
    """A setting is unknown, of the wrong type or out of range."""

    default_reason = "config_invalid"


class TrainingError(MuseError, RuntimeError):
    """A training run that cannot go on: collapsed, loss_not_finite, or crashed where its process died."""

    default_reason = "training_failed"


class WorkersLostError(MuseError, ConnectionError):
    """The Dask scheduler or all its workers went away."""

    default_reason = "workers_lost"


class OutputError(MuseError, OSError):
    """The output cannot be written: locked by another run, read-only, or the disk is full."""

    default_reason = "output_unwritable"


_PLAIN_BELOW = 1e9  # larger numbers are written as 1e+09
_MOST_DIGITS = 17  # tell any two floats apart


def figure(value: float, *limits: float, digits: int = 4, decimals: int | None = None) -> str:
    """A number in significant digits, as few as keep it on its side of every limit that the message names too.

    `figure(1.00003, 1.0)` is "1.00003", for "1 is too coarse, 1 or finer needed" helps nobody. Without limits the
    number is whole: the shortest text that reads back as it. Limits are written that way.

    Args:
        value: the number.
        limits: what it is compared with.
        digits: at least so many where there are limits.
        decimals: at least so many places behind the point instead, zeros among them.
    """
    number = float(value)
    if not limits:
        short = f"{number:g}"
        return short if float(short) == number or number != number else repr(number)
    for count in range(digits if decimals is None else decimals, _MOST_DIGITS):
        text = f"{number:.{count}{'g' if decimals is None else 'f'}}"
        text = f"{float(text):.0f}" if "e+" in text and abs(number) < _PLAIN_BELOW else text  # 100, not 1e+02
        if all(_side(float(text), limit) == _side(number, limit) for limit in limits):
            return text
    return repr(number)


def percent(share: float, *limits: float, digits: int = 2) -> str:
    """A share of 1 in percent, kept on its side of other shares as `figure` does.

    Args:
        share: 0..1.
        limits: shares that it is compared with.
        digits: at least so many where there are limits.
    """
    return f"{figure(round(100 * share, 12), *(round(100 * limit, 12) for limit in limits), digits=digits)}%"


def _side(value: float, limit: float) -> int:
    return (value > limit) - (value < limit)
