"""TCGA names: the slide barcode and the patient barcode in file names, slide ids and lists.

A diagnostic slide's file is `TCGA-A8-A099-01Z-00-DX1.<UUID>.svs`; the first three parts, `TCGA-A8-A099`, are the
patient.

Source: https://docs.gdc.cancer.gov/Encyclopedia/pages/TCGA_Barcode/
"""

import re
from collections import Counter
from collections.abc import Sequence

from muse_core.cohort.uris import slide_stem

_PATIENT = re.compile(r"(?<![A-Z0-9])TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}(?![A-Z0-9])", re.IGNORECASE)
_UUID_TAIL = re.compile(r"\.[0-9A-F]{8}(?:-[0-9A-F]{4}){3}-[0-9A-F]{12}$", re.IGNORECASE)


def patient_barcode(name: str) -> str | None:
    """The patient's barcode at the start of a slide id or file name, in capitals; None where there is none."""
    found = _PATIENT.match(name)
    return found[0].upper() if found else None


def patient_barcodes(text: str) -> frozenset[str]:
    """All patient barcodes anywhere in a text, in capitals."""
    return frozenset(found.upper() for found in _PATIENT.findall(text))


def slide_ids(file_names: Sequence[str]) -> list[str]:
    """One slide id a file: its stem, without the UUID that TCGA appends.

    Two files of one barcode keep their UUIDs, so that both can stay; `['TCGA-A8-A099-01Z-00-DX1.<UUID>.svs']` gives
    `['TCGA-A8-A099-01Z-00-DX1']`.
    """
    stems = [slide_stem(name) for name in file_names]
    short = [_UUID_TAIL.sub("", stem) if patient_barcode(stem) else stem for stem in stems]
    # Counted by file, not by row: a file listed twice is a doubled id, which the manifest must report.
    files_a_barcode = Counter(barcode for barcode, _ in set(zip(short, stems, strict=True)))
    return [barcode if files_a_barcode[barcode] == 1 else stem for barcode, stem in zip(short, stems, strict=True)]
