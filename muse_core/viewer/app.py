"""The viewer's routes: the page, pictures, points and counts of slides, and what people mark.

Every path is fixed and below the token; slides are named in the query and looked up among those there are, so that no
request names a file. Only marks write, and only through `Lab`.
"""

import gzip
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
import numpy as np
from pydantic import Field, TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from muse_core.config import Settings
from muse_core.errors import ConfigError, DatasetError, MuseError
from muse_core.nuclei_dataset import bounds_origin
from muse_core.report.notes import notes_on
from muse_core.report.scan import SlideScan
from muse_core.viewer.areas import area_statistics
from muse_core.viewer.asking import alike, nucleus_at, reach_um, to_ask
from muse_core.viewer.digest import BINS, Cut, Digest
from muse_core.viewer.guard import Guard
from muse_core.viewer.job import TeachJob
from muse_core.viewer.lab import Lab, SlideFrame
from muse_core.viewer.marks import NucleusMark, Rings, SentMark
from muse_core.viewer.points import TILE_PX as POINT_TILE_PX
from muse_core.viewer.points import points_in_tile
from muse_core.viewer.run import SlideShown, ViewedRun, need_nuclei, no_nuclei
from muse_core.viewer.tiles import TILE_PX, ByteCache, OpenSlides, crop_jpeg, thumbnail_jpeg, tile_jpeg, top_zoom

logger = logging.getLogger(__name__)

_PAGE = Path(__file__).parent / "page"
_MOST_BODY = 16 << 20  # bytes of one request
_THREADS = 6
_THUMBNAIL_PX, _CROP_PX, _CROP_UM = 480, 256, 48.0
_NOT_FOUND = {"not_found"}


class _Marks(Settings):
    """What a page sends."""

    who: str = Field(min_length=1, max_length=100)
    marks: list[SentMark] = Field(max_length=5000)


class _Area(Settings):
    """An outline to count in."""

    slide_id: str
    rings: Rings


class _Teach(Settings):
    """What to train and to look at again."""

    steps: int | None = None
    slide_ids: list[str] = Field(max_length=20)


class Viewer:
    """What the routes share."""

    def __init__(self, run: ViewedRun, job: TeachJob, *, who: str) -> None:
        self.run, self.job, self.who = run, job, who
        self.slides, self.cache = OpenSlides(), ByteCache()
        self.lab = Lab(run.lab, self._frame)

    def _frame(self, slide_id: str) -> SlideFrame:
        shown = self.run.slide(slide_id)
        path, largest = shown.path, shown.scene is None
        size = shown.size_level0 if shown.row.get("width_level0") else None
        if shown.dataset is None:
            return SlideFrame(path, *self._ground(shown), size_level0=size, is_largest_picture=largest)
        part = shown.dataset.part(slide_id)
        given = part.provenance.get("mpp_source") == "override"
        return SlideFrame(
            path,
            part.slide_mpp,
            bounds_origin(part.provenance),
            mpp_given=given,
            size_level0=size,
            is_largest_picture=largest,
        )

    def _ground(self, shown: SlideShown) -> tuple[tuple[float, float], tuple[float, float]]:
        """µm/px and QuPath's corner of a slide without nuclei: tissue that was not found can still be drawn."""
        mpp_x, mpp_y = shown.row.get("mpp_x"), shown.row.get("mpp_y")
        if shown.path is None or mpp_x is None or mpp_y is None:
            raise no_nuclei(shown)
        with self.slides.slide(_file(shown), shown.scene) as slide:
            bounds = slide.info.bounds_level0
        return (float(mpp_x), float(mpp_y)), (bounds.x, bounds.y) if bounds else (0.0, 0.0)

    def labelled(self, slide_id: str) -> list[tuple[float, float]]:
        """Where nuclei of a slide were labelled."""
        marks = (entry.mark for entry in self.lab.of_slide(slide_id))
        return [(mark.x, mark.y) for mark in marks if isinstance(mark, NucleusMark)]

    def with_reach(self, sent: SentMark) -> SentMark:
        """A nucleus's mark with the ground around it that is no other's."""
        mark = sent.mark
        if not isinstance(mark, NucleusMark):
            return sent
        reach = reach_um(self.run.slide(mark.slide_id), (mark.x, mark.y))
        return sent.model_copy(update={"mark": mark.model_copy(update={"reach_um": reach})})


def make_app(run: ViewedRun, job: TeachJob, *, token: str, who: str) -> Guard:
    """The application.

    Args:
        run: what is looked at.
        job: how teaching is begun.
        token: the first of every path.
        who: whose marks they are where a page does not say.
    """
    viewer = Viewer(run, job, who=who)
    routes = [
        Route("/", _index),
        Route("/api/run", _answering(viewer, _run)),
        Route("/api/slide", _answering(viewer, _slide)),
        Route("/api/summary", _answering(viewer, _summary)),
        Route("/api/tile/{zoom:int}/{column:int}/{row:int}", _answering(viewer, _tile)),
        Route("/api/points/{column:int}/{row:int}", _answering(viewer, _points)),
        Route("/api/counts/{level:int}", _answering(viewer, _counts)),
        Route("/api/nucleus", _answering(viewer, _nucleus)),
        Route("/api/crop", _answering(viewer, _crop)),
        Route("/api/thumbnail", _answering(viewer, _thumbnail)),
        Route("/api/ask", _answering(viewer, _ask)),
        Route("/api/alike", _answering(viewer, _alike)),
        Route("/api/changes", _answering(viewer, _changes)),
        Route("/api/area", _taking(viewer, _area, _Area), methods=["POST"]),
        Route("/api/marks", _taking(viewer, _mark, _Marks), methods=["POST"]),
        Route("/api/teach", _taking(viewer, _teach, _Teach), methods=["POST"]),
        Mount("/page", StaticFiles(directory=_PAGE)),
    ]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
        try:
            await anyio.to_thread.run_sync(lambda: viewer.lab.write_all(run.slide_ids))
        except MuseError as error:  # labels can be looked at all the same
            logger.warning("%s", error)
        yield
        await anyio.to_thread.run_sync(job.stop)
        viewer.slides.close()

    return Guard(Starlette(routes=routes, lifespan=lifespan), token)


def _answering(viewer: Viewer, answer: Callable[[Viewer, Request], Response]) -> Callable[[Request], Any]:
    """A route that answers in a thread; a MuseError is one line for the page."""

    def route(request: Request) -> Response:
        return _told(lambda: answer(viewer, request))

    return route


def _taking(viewer: Viewer, answer: Callable[[Viewer, Any], Response], kind: Any) -> Callable[[Request], Any]:  # noqa: ANN401 (a type)
    """A route that takes a JSON body of a kind."""
    adapter = TypeAdapter(kind)

    async def route(request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MOST_BODY:
                return JSONResponse({"error": "too much for one request", "reason": "too_large"}, 413)
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return JSONResponse({"error": "JSON needed", "reason": "config_invalid"}, 415)
        try:
            value = adapter.validate_json(body)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            return JSONResponse({"error": f"{where}: {first['msg']}", "reason": "config_invalid"}, 422)
        return await anyio.to_thread.run_sync(_told, lambda: answer(viewer, value))

    return route


def _told(answer: Callable[[], Response]) -> Response:
    try:
        return answer()
    except MuseError as error:
        status = 404 if error.reason in _NOT_FOUND else 400 if isinstance(error, ConfigError) else 500
        return JSONResponse({"error": str(error), "reason": error.reason}, status)


async def _index(_: Request) -> Response:
    return Response((_PAGE / "index.html").read_bytes(), media_type="text/html", headers={"cache-control": "no-cache"})


def _run(viewer: Viewer, _: Request) -> Response:
    run = viewer.run
    labels = viewer.lab.counts()
    return JSONResponse(
        {
            "name": Path(str(run.source)).name,
            "source": str(run.source),
            "lab": str(run.lab),
            "who": viewer.who,
            "is_being_written": run.is_being_written,
            "classes": [{"name": name, "colour": colour} for name, colour in run.colours.items()],
            "spare_colours": run.spare_colours,
            "slides": [_card(run.slide(slide_id), labels.get(slide_id, {})) for slide_id in run.slide_ids],
        }
    )


def _card(shown: SlideShown, labels: dict[str, int]) -> dict[str, Any]:
    row, dataset = shown.row, shown.dataset
    count = None if dataset is None else sum(part.n_nuclei for part in dataset.parts(shown.slide_id))
    return {
        "slide_id": shown.slide_id,
        **{name: row.get(name) for name in ("case_id", "project", "status", "reason", "message", "tissue_mm2")},
        "n_nuclei": count,
        "unlike": row.get("doubt"),  # of the slide, to the tissue that its model learned from
        "has_nuclei": dataset is not None,
        "no_pixels": shown.no_pixels,
        "version": shown.version,
        "n_labels": sum(labels.values()),
    }


def _slide(viewer: Viewer, request: Request) -> Response:
    shown = _shown(viewer, request)
    width, height = shown.size_level0
    mpp = shown.row.get("mpp_x"), shown.row.get("mpp_y")
    provenance: dict[str, Any] = {}
    class_names: tuple[str, ...] = ()
    if shown.dataset is not None:
        part = shown.dataset.part(shown.slide_id)
        mpp, provenance, class_names = part.slide_mpp, part.provenance, part.class_names
    colours = viewer.run.colours
    return JSONResponse(
        {
            **_card(shown, viewer.lab.counts().get(shown.slide_id, {})),
            "width": width,
            "height": height,
            "mpp": None if None in mpp else mpp,
            "tile_px": TILE_PX,
            "top_zoom": top_zoom(int(width), int(height)),
            "point_tile_px": POINT_TILE_PX,
            "classes": [{"name": name, "colour": colours[name]} for name in class_names],
            "tissue": viewer.run.tissue(shown.slide_id),
            "origin": bounds_origin(provenance),
            "has_overview": viewer.run.overview(shown.slide_id) is not None,
            "model": {name: provenance.get(name) for name in ("model_id", "checkpoint", "model_mpp")},
            "has_embeddings": shown.dataset is not None and "embedding" in shown.dataset.part(shown.slide_id).columns,
        }
    )


def _summary(viewer: Viewer, request: Request) -> Response:
    shown = _shown(viewer, request)
    digest = viewer.run.digest(shown)
    total = max(1, int(digest.counts.sum()))
    unsure = float(digest.chances[:, : BINS // 2].sum()) / total
    provenance = need_nuclei(shown).part(shown.slide_id).provenance
    return JSONResponse(
        {
            "counts": dict(zip(digest.class_names, digest.counts.tolist(), strict=True)),
            "in_tissue": dict(zip(digest.class_names, digest.in_tissue.tolist(), strict=True)),
            "scores": digest.scores.tolist(),
            "chances": digest.chances.tolist(),
            "doubt": unsure if len(digest.class_names) > 1 else None,
            "mean_score": float(digest.score_sums.sum()) / total,
            "cell_px": digest.cell_px,
            "levels": [{"rows": level.shape[1], "columns": level.shape[2]} for level in digest.levels],
            "notes": [vars(note) for note in notes_on(shown.row, _as_scan(digest), provenance)],
        }
    )


def _as_scan(digest: Digest) -> SlideScan:
    """What the report's notes are made from."""
    nothing = np.zeros((len(digest.class_names), 1, 1), np.float32)
    return SlideScan(digest.counts, digest.in_tissue, digest.score_sums, digest.scores, digest.chances, nothing)


def _tile(viewer: Viewer, request: Request) -> Response:
    shown = _shown(viewer, request)
    path, scene = _file(shown), shown.scene
    place = tuple(request.path_params[name] for name in ("zoom", "column", "row"))

    def make() -> bytes:
        with viewer.slides.slide(path, scene) as slide:
            return tile_jpeg(slide, *place)

    return _picture(viewer.cache.get(("tile", path, scene, *place), make))


def _points(viewer: Viewer, request: Request) -> Response:
    shown = _shown(viewer, request)
    place = request.path_params["column"], request.path_params["row"]
    key = ("points", shown.slide_id, shown.version, *place)
    found = viewer.cache.get(key, lambda: points_in_tile(need_nuclei(shown), shown.slide_id, *place))
    return Response(found, media_type="application/octet-stream", headers=_cached(request))


def _counts(viewer: Viewer, request: Request) -> Response:
    """uint16 (C, rows, columns) of one level, gzipped."""
    shown = _shown(viewer, request)
    cut = Cut(_number(request, "score", 0.0), _number(request, "chance", 0.0))
    level = request.path_params["level"]
    key = ("counts", shown.slide_id, shown.version, cut, level)

    def make() -> bytes:
        levels = viewer.run.levels(shown, cut)
        if level >= len(levels):
            raise DatasetError(f"slide {shown.slide_id}: no level {level} of counts", reason="not_found")
        return gzip.compress(np.minimum(levels[level], 0xFFFF).astype("<u2").tobytes(), 1)

    headers = {**_cached(request), "content-encoding": "gzip"}
    return Response(viewer.cache.get(key, make), media_type="application/octet-stream", headers=headers)


def _nucleus(viewer: Viewer, request: Request) -> Response:
    return JSONResponse(nucleus_at(_shown(viewer, request), _place(request)))


def _crop(viewer: Viewer, request: Request) -> Response:
    shown = _shown(viewer, request)
    path, place, um = _file(shown), _place(request), _number(request, "um", _CROP_UM)
    side = min(max(um, 4.0), 1000.0) / need_nuclei(shown).part(shown.slide_id).slide_mpp[0]

    def make() -> bytes:
        with viewer.slides.slide(path, shown.scene) as slide:
            return crop_jpeg(slide, place, side, _CROP_PX)

    return _picture(viewer.cache.get(("crop", path, shown.scene, place, side), make))


def _thumbnail(viewer: Viewer, request: Request) -> Response:
    shown = _shown(viewer, request)
    kept = viewer.run.overview(shown.slide_id)
    if shown.path is None and kept is not None:
        return _picture(kept.read_bytes())
    path = _file(shown)

    def make() -> bytes:
        with viewer.slides.slide(path, shown.scene) as slide:
            return thumbnail_jpeg(slide, _THUMBNAIL_PX)

    return _picture(viewer.cache.get(("thumbnail", path, shown.scene), make))


def _ask(viewer: Viewer, request: Request) -> Response:
    kind = request.query_params.get("kind", "doubtful")
    if kind not in ("doubtful", "typical"):
        raise ConfigError(f"kind {kind!r}: doubtful or typical needed")
    found = to_ask(
        viewer.run,
        viewer.labelled,
        kind=kind,  # type: ignore[arg-type]
        class_name=request.query_params.get("class"),
        slide_id=request.query_params.get("slide"),
        count=min(500, int(_number(request, "n", 50))),
    )
    return JSONResponse(found)


def _alike(viewer: Viewer, request: Request) -> Response:
    shown, count = _shown(viewer, request), min(100, int(_number(request, "n", 24)))
    return JSONResponse(alike(shown, viewer.labelled(shown.slide_id), _place(request), count))


def _changes(viewer: Viewer, request: Request) -> Response:
    """What has come since a page last asked: marks of all pages, the teaching, and versions of the slide it shows."""
    entries = viewer.lab.journal.entries(after=max(0, int(_number(request, "after", 0))))
    slide_id = request.query_params.get("slide")
    version = viewer.run.slide(slide_id).version if slide_id else ""
    answer = {"entries": [entry.model_dump(mode="json") for entry in entries], "job": viewer.job.state()}
    run = {"is_being_written": viewer.run.is_being_written, "n_slides": len(viewer.run.slide_ids)}
    return JSONResponse({**answer, **run, "version": version})


def _area(viewer: Viewer, wanted: _Area) -> Response:
    return JSONResponse(area_statistics(need_nuclei(viewer.run.slide(wanted.slide_id)), wanted.slide_id, wanted.rings))


def _mark(viewer: Viewer, sent: _Marks) -> Response:
    kept = viewer.lab.append([viewer.with_reach(one) for one in sent.marks], sent.who)
    return JSONResponse([entry.model_dump(mode="json") for entry in kept])


def _teach(viewer: Viewer, wanted: _Teach) -> Response:
    for slide_id in wanted.slide_ids:
        viewer.run.slide(slide_id)
    viewer.job.start(wanted.steps, wanted.slide_ids)
    return JSONResponse(viewer.job.state())


def _shown(viewer: Viewer, request: Request) -> SlideShown:
    return viewer.run.slide(request.query_params.get("slide", ""))


def _file(shown: SlideShown) -> Path:
    if shown.path is None:
        raise DatasetError(f"slide {shown.slide_id}: {shown.no_pixels}", reason="not_found")
    return shown.path


def _place(request: Request) -> tuple[float, float]:
    return _number(request, "x", None), _number(request, "y", None)


def _number(request: Request, name: str, default: float | None) -> float:
    text = request.query_params.get(name)
    if text is None and default is not None:
        return default
    try:
        value = float(text or "")
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise ConfigError(f"{name}={text}: a number needed")
    return value


def _picture(jpeg: bytes) -> Response:
    return Response(jpeg, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})


def _cached(request: Request) -> dict[str, str]:
    """An address that names the nuclei's version stays true for ever."""
    lasting = "v" in request.query_params
    return {"cache-control": "private, max-age=86400, immutable" if lasting else "no-cache"}
