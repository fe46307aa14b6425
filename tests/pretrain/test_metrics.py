import json

import pytest

from muse_core.errors import OutputError
from muse_core.pretrain.metrics import MetricsLog, draw_curves, read_metrics
from tests.data.small_disk import largest_file


def rows(*steps):
    return [{"step": step, "loss_image": 1.0 / step, "loss_nucleus": None, "note": "x"} for step in steps]


def write(tmp_path, step, steps):
    log = MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard", step=step)
    for row in rows(*steps):
        log.append(row)


def test_a_resumed_run_measures_anew_what_came_after_its_checkpoint(tmp_path):
    write(tmp_path, 0, (2, 4, 6))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # cut short by a kill
    write(tmp_path, 4, (6, 8))
    assert read_metrics(tmp_path / "metrics.jsonl") == rows(2, 4, 6, 8)


def test_the_lines_are_json_and_tensorboard_has_the_same(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, 0, (2, 4))
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [2, 4]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss_image")] == [(2, 0.5), (4, 0.25)]


def test_tensorboard_forgets_what_came_after_the_checkpoint(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, 0, (2, 4, 6))
    write(tmp_path, 2, (4, 8))
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss_image")] == [2, 4, 8]


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"step": 2, "note": "x" * 9000}, "metrics.jsonl"),
        ({"step": 2, **{f"{number:0500}": 1 for number in range(10)}}, "events.out"),
    ],
    ids=["metrics", "events"],
)
def test_a_full_disk_is_an_output_error(tmp_path, row, name):
    log = MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard", step=0)
    size = len(json.dumps(row)) + 1  # what TensorBoard has of the second row is a little longer
    with largest_file(min(size, 8000)), pytest.raises(OutputError, match="no space left on the disk") as caught:
        log.append(row)
    assert caught.value.reason == "disk_full"
    assert name in str(caught.value)
    write(tmp_path, 0, (2, 4))
    assert read_metrics(tmp_path / "metrics.jsonl") == rows(2, 4), "the line that was cut short is gone"


def test_curves_are_a_picture(tmp_path):
    write(tmp_path, 0, (2, 4))
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
