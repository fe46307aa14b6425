import json

from muse_core.pretrain.metrics import MetricsLog, draw_curves, read_metrics


def rows(*steps):
    return [{"step": step, "loss_image": 1.0 / step, "loss_nucleus": None, "note": "x"} for step in steps]


def write(tmp_path, step, steps):
    log = MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard", step=step)
    for row in rows(*steps):
        log.append(row)
    log.close()


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


def test_curves_are_a_picture(tmp_path):
    write(tmp_path, 0, (2, 4))
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
