"""What a report shows, and how finely."""

from typing import Annotated

from pydantic import Field

from muse_core.config import Settings


class ReportSettings(Settings):
    """Sizes and limits of a report; with the defaults a slide takes about half a megabyte.

    Attributes:
        slides_shown: slides with a section of their own, those with the most nuclei first; the others are in the table.
        rows_shown: rows of the cohort's table.
        map_cell_um: side of a cell of the density maps.
        max_map_cells: cells along a map's longer side; larger slides get larger cells.
        map_smoothing_um: sigma of the Gaussian that smooths the maps; 0 for none.
        thumbnail_px: longer side of the slide's picture.
        typical: pictures of typical nuclei of each class.
        doubtful: pictures of doubtful nuclei.
        crop_um: side of these pictures: a nucleus and its neighbours.
        crop_px: the same in px.
    """

    slides_shown: Annotated[int, Field(ge=0)] = 12
    rows_shown: Annotated[int, Field(ge=1)] = 500
    map_cell_um: Annotated[float, Field(gt=0)] = 25.0
    max_map_cells: Annotated[int, Field(ge=8)] = 240
    map_smoothing_um: Annotated[float, Field(ge=0)] = 50.0
    thumbnail_px: Annotated[int, Field(ge=64)] = 900
    typical: Annotated[int, Field(ge=0)] = 8
    doubtful: Annotated[int, Field(ge=0)] = 16
    crop_um: Annotated[float, Field(gt=0)] = 32.0
    crop_px: Annotated[int, Field(ge=16)] = 128
