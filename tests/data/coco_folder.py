"""A small folder in COCO's format, with every kind of annotation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZES = [(48, 64), (64, 48), (40, 96), (48, 64), (36, 50), (64, 64), (80, 40), (48, 60)]  # height, width


def categories() -> list[dict[str, Any]]:
    """With gaps in the numbers, and not in their order."""
    return [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}]


def rectangle(x: float, y: float, w: float, h: float) -> list[float]:
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def annotation(number: int, image: int, category: int, box: list[float], **more: Any) -> dict[str, Any]:
    x, y, w, h = box
    found = {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": w * h, "iscrowd": 0}
    return found | {"segmentation": [rectangle(x, y, w, h)]} | more


def annotated(first: int, count: int) -> dict[str, Any]:
    """Images from number `first` on; the last one has no object."""
    images, annotations = [], []
    for i in range(count):
        height, width = SIZES[i % len(SIZES)]
        images.append({"id": first + i, "file_name": f"{first + i:06d}.jpg", "height": height, "width": width})
        if i < count - 1:
            category = (1, 18, 90)[i % 3]
            annotations.append(annotation(10 * (first + i), first + i, category, [4.0, 6.0, 20.0, 16.0]))
            annotations.append(annotation(10 * (first + i) + 1, first + i, 1, [10.5, 12.5, 12.0, 10.0]))
    return {"images": images, "annotations": annotations, "categories": categories()}


def write(root: Path, train: dict[str, Any] | None = None, val: dict[str, Any] | None = None) -> Path:
    """The folder, with images whose objects are brighter than the rest."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for name, content in (("train", train or annotated(1, 9)), ("val", val or annotated(101, 4))):
        (root / f"{name}2017").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{name}2017.json").write_text(json.dumps(content))
        for image in content["images"]:
            rng = np.random.default_rng(image["id"])
            pixels = rng.integers(0, 80, (image["height"], image["width"], 3), np.uint8)
            for each in content["annotations"]:
                if each["image_id"] == image["id"]:
                    x, y, w, h = (int(value) for value in each["bbox"])
                    pixels[max(y, 0) : y + h, max(x, 0) : x + w, each["category_id"] % 3] += 120
            file = root / f"{name}2017" / image["file_name"]
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file, quality=95)
    return root
