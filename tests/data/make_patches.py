"""Drawn labelled patches in BRCA-M2C's layout: dark round nuclei of three sizes on pink."""

from pathlib import Path

import cv2
import numpy as np

from muse_core.labels import BRCA_DOT_OFFSET_PX, LabelledPatch

CLASS_NAMES = ("lymphocyte", "tumour_epithelial", "stromal")
_COLOURS = ((60, 30, 110), (120, 80, 160), (100, 60, 130))
_RADII_PX = (6, 9, 7)


def draw_patch(side_px: int, n_nuclei: int, seed: int, name: str = "drawn") -> LabelledPatch:
    """A patch at 0.5 µm/px with nuclei at whole px, none nearer than 22 px to another or 12 px to the rim."""
    rng = np.random.default_rng(seed)
    spots: list[tuple[int, int]] = []
    while len(spots) < n_nuclei:
        spot = tuple(rng.integers(12, side_px - 12, 2).tolist())
        if all(np.hypot(spot[0] - x, spot[1] - y) > 22 for x, y in spots):
            spots.append(spot)
    class_ids = rng.integers(0, 3, n_nuclei)
    # Drawn four times as large, so that a nucleus' centre is where it is said to be.
    image = np.full((side_px * 4, side_px * 4, 3), (235, 190, 215), np.uint8)
    for (x, y), class_id in zip(spots, class_ids, strict=True):
        cv2.circle(image, (x * 4, y * 4), _RADII_PX[class_id] * 4, _COLOURS[class_id], -1, cv2.LINE_AA)
    image = cv2.GaussianBlur(cv2.resize(image, (side_px, side_px), interpolation=cv2.INTER_AREA), (0, 0), 0.7)
    image = np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
    xy = np.array(spots, np.float32).reshape(-1, 2) + 0.125  # cv2 draws around the middle of a quarter px
    return LabelledPatch(name, image, xy, class_ids.astype(np.int64), CLASS_NAMES, 0.5)


def write_brca(root: Path, *, train: int = 2, val: int = 1, side_px: int = 160, n_nuclei: int = 12) -> None:
    """A dataset folder of drawn patches."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    names = {"train": [f"t{i}" for i in range(train)], "val": [f"v{i}" for i in range(val)]}
    for seed, name in enumerate(names["train"] + names["val"]):
        patch = draw_patch(side_px, n_nuclei, seed, name)
        cv2.imwrite(str(root / "images" / f"{name}.png"), patch.image[:, :, ::-1])
        dots = np.round(patch.xy - BRCA_DOT_OFFSET_PX).astype(int)
        lines = [f"{y} {x} {c + 1}" for (x, y), c in zip(dots, patch.class_ids, strict=True)]
        (root / "labels" / f"{name}_gt_class_coords.txt").write_text("\n".join(lines))
    for split, members in names.items():
        (root / f"brca_ds_{split}.txt").write_text("".join(f"{name}.png\n" for name in members))
