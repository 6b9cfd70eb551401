"""Running a network that `soloist export` wrote, by ONNX Runtime and NumPy, without torch.

    segmenter = soloist.inference.onnx.runtime.load("model.onnx")
    segmenter.predict("photo.jpg")[0].filter().save("masks.png")

Nothing this module imports may import torch, torchvision or timm.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, overload

import numpy as np
from numpy.typing import NDArray

from soloist.config import DEFAULT_READING, InferenceConfig, ModelConfig
from soloist.config.presets import override
from soloist.data.coco.types import CATEGORIES
from soloist.data.images import read_with_size, resized_size
from soloist.data.sources import ImageRef
from soloist.errors import CheckpointError, require
from soloist.inference.onnx.numpy_postprocess import (
    RawOutputs,
    cell_strides,
    select_objects,
)
from soloist.inference.onnx.numpy_resize import Floats, resize_pixels
from soloist.inference.results import Result
from soloist.inference.sources import ImageInMemory, Source, each_source
from soloist.runtime.files import one_line, shown
from soloist.structures import Instances

EXTRA = "onnx"
INPUT = "images"
"""(B, 3, H, W) uint8 RGB, H and W multiples of `SIDE_MULTIPLE`."""
OUTPUTS = ("scores", "kernels", "embeddings", "mask_features")
"""Fields of `RawOutputs` with B before them."""
RECORD = "soloist"
"""Key of the file's metadata that holds the model's record as JSON."""
SIDE_MULTIPLE = 32
"""The coarsest stride; images are filled at the bottom and right."""

_MESSAGE_CHARACTERS = 300

ArrayInstances = Instances[NDArray[Any], NDArray[np.bool_]]
ArrayResult = Result[NDArray[Any], NDArray[np.bool_]]
"""`soloist.Result` without torch: its fields are arrays."""


@dataclass(frozen=True)
class Record:
    """What an exported file says about itself.

    Attributes:
        inference: Options of the post-processing.
        model: Options of the network; its grids and strides are read.
        categories: Names of its classes by category id, in their order.
    """

    inference: InferenceConfig
    model: ModelConfig
    categories: Mapping[int, str]

    @classmethod
    def from_json(cls, text: str, *, where: str) -> Self:
        """Reads what `soloist export` wrote.

        Raises:
            CheckpointError: If it is damaged, or has options that are unknown or do not fit.
        """
        try:
            content = json.loads(text)
            named = {entry["id"]: entry["name"] for entry in content.get("categories", [])}
            return cls(
                override(InferenceConfig(), content["inference"], where=where),
                override(ModelConfig(), content["model"], where=where),
                named or CATEGORIES,
            )
        # What the options themselves refuse is a ValueError too.
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{where} has a damaged record ({one_line(error)}); export the model again"
            ) from error


class OnnxSegmenter:
    """An exported network for instance segmentation; the twin of `soloist.Segmenter`.

    Args:
        session: The network in ONNX Runtime.
        record: What its file says about it.
    """

    def __init__(self, session: Any, record: Record) -> None:
        self.session = session
        self.config = record.inference
        self.categories = record.categories
        self._strides = cell_strides(record.model.grids, record.model.level_strides)

    def __call__(self, pixels: NDArray[np.uint8], size: tuple[int, int]) -> ArrayInstances:
        """Objects of an image.

        Args:
            pixels: (H', W', 3) uint8 RGB, perhaps reduced.
            size: (height, width) of the masks, in pixels.
        """
        batch, resized = self.batch(pixels)
        return select_objects(
            self.raw_outputs(batch),
            self._strides,
            input_size=resized,
            original_size=size,
            config=self.config,
        )

    def batch(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """An image as the network takes it: resized, and filled to whole strides.

        Args:
            pixels: (H', W', 3) uint8 RGB.

        Returns:
            (1, 3, H, W) uint8 and the (height, width) that the image fills of it.
        """
        size = (pixels.shape[0], pixels.shape[1])
        height, width = resized_size(size, self.config.short_side, self.config.max_side)
        filled = [side + -side % SIDE_MULTIPLE for side in (height, width)]
        batch = np.zeros((1, 3, *filled), dtype=np.uint8)
        batch[0, :, :height, :width] = resize_pixels(pixels, (height, width)).transpose(2, 0, 1)
        return batch, (height, width)

    def raw_outputs(self, batch: NDArray[np.uint8]) -> RawOutputs:
        """Runs the network on one image, (1, 3, H, W) uint8."""
        try:
            outputs: list[Floats] = self.session.run(list(OUTPUTS), {INPUT: batch})
        except _complaints() as error:
            raise CheckpointError(
                f"ONNX Runtime cannot run the network on {batch.shape}: {_short(error)}; "
                "export the model again"
            ) from error
        return RawOutputs(*(output[0] for output in outputs))

    @overload
    def predict(self, source: Source, *, stream: Literal[False] = False) -> list[ArrayResult]: ...

    @overload
    def predict(self, source: Source, *, stream: Literal[True]) -> Iterator[ArrayResult]: ...

    def predict(
        self, source: Source, *, stream: bool = False
    ) -> list[ArrayResult] | Iterator[ArrayResult]:
        """Segments an image, or all images of a folder, glob, list or COCO file.

        Args:
            source: As for `Segmenter.predict`.
            stream: Yield one result at a time, so that memory stays flat.

        Returns:
            One result per image, in order.

        Raises:
            DataError: If a source or an image cannot be read.
        """
        results = self._results(source)
        return results if stream else list(results)

    def _results(self, source: Source) -> Iterator[ArrayResult]:
        for image in each_source(source, DEFAULT_READING):
            if isinstance(image, ImageInMemory):
                size = (image.pixels.shape[0], image.pixels.shape[1])
                found = self(image.pixels, size)
                yield self._result(found, name=image.name, pixels=image.pixels)
            else:
                yield self.predict_file(image)

    def predict_file(self, image: ImageRef) -> ArrayResult:
        """Segments one image file."""
        pixels, size = read_with_size(image.path, short_side=self.config.short_side)
        return self._result(self(pixels, size), name=image.name, path=image.path)

    def _result(self, objects: ArrayInstances, **image: Any) -> ArrayResult:
        return Result.of(
            objects,
            **image,
            categories=self.categories,
            recommended_score=self.config.recommended_score,
        )


def load(
    path: str | Path,
    *,
    threads: int = 0,
    providers: Sequence[str] = ("CPUExecutionProvider",),
) -> OnnxSegmenter:
    """Loads a network that `soloist export` wrote.

    Args:
        path: The `.onnx` file; it is complete, nothing lies beside it.
        threads: Of the network on the processor; 0 leaves the number to ONNX Runtime.
        providers: Of ONNX Runtime, in the order they are to be tried.

    Raises:
        CheckpointError: If there is no such file, or it was not written by `soloist export`.
        ConfigError: If ONNX Runtime is absent.
    """
    require("onnxruntime", extra=EXTRA, wanted="an exported network")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if not Path(path).is_file():
        raise CheckpointError(f"no exported network at {shown(path)}; check the path")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except _complaints() as error:
        raise CheckpointError(
            f"ONNX Runtime cannot run {shown(path)}: {_short(error)}; export the model again"
        ) from error
    text = session.get_modelmeta().custom_metadata_map.get(RECORD)
    if text is None:
        raise CheckpointError(
            f"wanted a file of `soloist export`, got {shown(path)} without its record"
        )
    return OnnxSegmenter(session, Record.from_json(text, where=shown(path)))


def _complaints() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises about a file or a run of it; they share no class of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf)
    return (*own, state.NotImplemented, state.RuntimeException, RuntimeError, ValueError)


def _short(error: Exception) -> str:
    return one_line(error)[:_MESSAGE_CHARACTERS]
