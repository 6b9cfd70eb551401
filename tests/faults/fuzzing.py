"""Feeds one reader with bytes that Atheris derives from what they reach in the code.

    python -m tests.faults.fuzzing TARGET CORPUS [options of libFuzzer]

A crash ends it with a status that is not 0. What is refused in one line is no crash.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["soloist"]):
    from soloist.checkpoints import load_official
    from soloist.config import ReadingConfig
    from soloist.config.presets import load_config
    from soloist.data.coco.read import load_coco
    from soloist.data.coco.rle import decode_mask, to_rle
    from soloist.data.images import read_image
    from soloist.errors import SoloistError

FOLDER = Path(tempfile.mkdtemp())


def coco(content: bytes) -> None:
    path = FOLDER / "coco.json"
    path.write_bytes(content)
    file = load_coco(path)
    for image in file.images:
        if image.height * image.width < 1e5:
            file.instances(image)


def run_lengths(content: bytes) -> None:
    data = atheris.FuzzedDataProvider(content)
    size = [data.ConsumeIntInRange(-2, 300) for _ in range(2)]
    if data.ConsumeBool():
        counts: object = data.ConsumeUnicode(64)
    else:
        counts = data.ConsumeIntList(data.ConsumeIntInRange(0, 20), 8)
    rle = to_rle({"size": size, "counts": counts})
    assert decode_mask(rle).shape == tuple(size)


def options(content: bytes) -> None:
    path = FOLDER / "options.yaml"
    path.write_bytes(content)
    load_config("tiny", path)


def image(content: bytes) -> None:
    path = FOLDER / "image.png"
    path.write_bytes(content)
    read_image(path, reading=ReadingConfig(max_pixels=100_000))


def weights(content: bytes) -> None:
    path = FOLDER / "model.safetensors"
    path.write_bytes(content)
    load_official(path)


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "coco": coco,
    "run_lengths": run_lengths,
    "options": options,
    "image": image,
    "weights": weights,
}


def main() -> None:
    """Runs until libFuzzer's options say stop."""
    name, *arguments = sys.argv[1:]
    warnings.simplefilter("ignore")

    def once(content: bytes) -> None:
        try:
            TARGETS[name](content)
        except SoloistError as error:
            if "\n" in str(error):
                raise ValueError("it is refused in several lines") from error

    atheris.Setup([sys.argv[0], *arguments], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
