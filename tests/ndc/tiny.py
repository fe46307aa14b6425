"""A recipe of seconds: the smallest network, small samples, few steps."""

import json
from pathlib import Path

from muse_core.ndc.settings import FinetuneLossSettings, FinetuneSettings, ModelSettings

TINY = FinetuneSettings(
    steps=12,
    batch_size=2,
    side_px=64,
    validate_every=4,
    average_steps=4,
    warmup_steps=2,
    learning_rate=1e-3,
    encoder_rate=0.5,
    threads=1,
    model=ModelSettings(hidden=8),
    loss=FinetuneLossSettings(cons_start=0, cons_ramp=0, nucleus_confidence=0.05, background_confidence=0.05),
)


def options(settings: FinetuneSettings, folder: Path) -> list[str]:
    """The same settings for the command line."""
    lines = []
    for name, value in settings.model_dump(mode="json").items():
        if value is None or isinstance(value, dict):
            continue
        lines.append(f"{name} = {str(value).lower()}")
    for part in ("model", "loss"):
        lines.append(f"[{part}]")
        values = getattr(settings, part).model_dump(mode="json")
        lines += [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    path = folder / "tiny.toml"
    path.write_text("\n".join(lines) + "\n")
    return ["--config", str(path)]
