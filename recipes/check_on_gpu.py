"""What a CUDA machine does: whether results are those of a processor, and how fast it predicts.

    python recipes/check_on_gpu.py OUT       # on a GPU, under 8 minutes
    python recipes/check_on_gpu.py OUT --device cpu --side 128 --batches 1 2 --images 2 --seconds 1

Writes OUT/check.json and OUT/check.md: the checks with what was measured and what was wanted, and
images a second. Images are generated scenes, the segmenter is the bundled one; nothing is fetched.
"""

from __future__ import annotations

import logging
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from cyclopts import App, Parameter
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import soloist
from soloist.config.presets import load_config
from soloist.data.coco.read import load_coco
from soloist.data.scenes import make_scene, write_scenes
from soloist.data.sources import find_images
from soloist.errors import SoloistError
from soloist.inference.segmenter import Segmenter
from soloist.losses import FreeSOLOCriterion
from soloist.models.build import build_solo, normalize
from soloist.postprocess import postprocess
from soloist.runtime.device import Runtime, check_compiler, choose_runtime
from soloist.runtime.files import write_json, write_text
from soloist.structures import Instances, SOLOOutputs
from soloist.training.data.train_data import TrainBatch, TrainBatches
from soloist.training.schedule import make_optimizer
from soloist.training.train import batch_losses, batch_to, set_training_mode

STEPS = 2
STEP_TOLERANCE = 0.01
"""Relative difference of losses and gradients' norms between the devices, in float32."""
BATCH_TOLERANCE = 1e-3
"""Difference of raw outputs between a batch and its images one by one, of their largest value."""
BF16_TOLERANCE = 0.02
"""Norm of the difference of raw outputs between bfloat16 and float32, of that of the latter."""
COMPILE_TOLERANCE = 0.01
"""Relative difference of losses between the compiled network and the plain one."""
MASKS_EQUAL = 0.99
"""IoU of a mask of a batch with that of its image alone."""

Several = Parameter(consume_multiple=True, negative="")
logger = logging.getLogger(__name__)
app = App(help=__doc__, result_action="return_value")


@dataclass(frozen=True)
class Check:
    """One question with its answer.

    Attributes:
        name: What is asked.
        passed: Whether it is as wanted; None if it was not asked on this device.
        measured: What was found.
        wanted: What was to be found.
    """

    name: str
    passed: bool | None
    measured: str
    wanted: str


@dataclass(frozen=True)
class Rate:
    """How fast something is.

    Attributes:
        what: What was done.
        batch: Images at a time.
        images_per_second: By the median of the repetitions.
        peak_mb: Peak memory of the GPU in MB; None on a processor.
    """

    what: str
    batch: int
    images_per_second: float
    peak_mb: float | None


@app.default
def main(
    out: Path,
    *,
    device: str = "cuda",
    batches: Annotated[tuple[int, ...], Several] = (1, 4, 16, 64),
    side: int = 640,
    images: int = 16,
    seconds: float = 10.0,
    compile: bool | None = None,
) -> int:
    """Checks, measures and writes; 1 if a check failed, 2 for a mistake.

    Args:
        out: Folder for both files.
        device: `cuda`, `cuda:N` or `cpu`.
        batches: Numbers of images that the network gets at a time.
        side: Long side of the images in pixels.
        images: Images of whole predictions.
        seconds: How long each batch size is measured.
        compile: Check torch.compile, which takes some minutes on a processor; by default on CUDA.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        runtime = choose_runtime(device)
        if compile is None:
            compile = runtime.device.type == "cuda"
        if compile:
            check_compiler()
        segmenter = soloist.load(device=device)
        scenes = [_scene(number, side) for number in range(images)]
    except SoloistError as error:
        print(error, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        batch = _training_batch(Path(folder))
    asked: list[tuple[str, Callable[[], Check]]] = [
        ("device", lambda: used_device(segmenter, scenes[0])),
        ("bfloat16", lambda: bfloat16(segmenter, scenes[0], runtime)),
        ("batched prediction", lambda: batched(segmenter, scenes[:2])),
        ("training steps", lambda: training_steps(batch, runtime.device)),
    ]
    if compile:
        asked.append(("torch.compile", lambda: compiled(batch, runtime.device)))
    checks = []
    for name, check in asked:
        logger.info("check: %s", name)
        try:
            checks.append(check())
        except RuntimeError as error:
            # What else the machine can do is worth knowing.
            first = str(error).partition("\n")[0]
            checks.append(Check(name, False, f"{type(error).__name__}: {first}", "no error"))
    if not compile:
        checks.append(Check("torch.compile", None, "not asked", "losses of the plain network"))
    rates = list(_rates(segmenter, scenes, batches, seconds))
    out.mkdir(parents=True, exist_ok=True)
    machine = _machine(runtime)
    content = {"machine": machine, "checks": list(map(asdict, checks))}
    write_json(out / "check.json", {**content, "rates": list(map(asdict, rates))}, indent=1)
    write_text(out / "check.md", markdown(machine, checks, rates))
    print(f"{out / 'check.md'}")
    return 1 if any(check.passed is False for check in checks) else 0


def used_device(segmenter: Segmenter, scene: NDArray[np.uint8]) -> Check:
    """Whether a prediction runs where it was asked to."""
    device = segmenter.runtime.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    found = segmenter(scene, (scene.shape[0], scene.shape[1]))
    places = {str(one.device) for one in segmenter.network.parameters()}
    measured, passed = f"weights on {', '.join(places)}, {len(found)} masks", len(places) == 1
    passed &= all(place.startswith(device.type) for place in places)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / 2**20
        measured, passed = f"{measured}, peak {peak:.0f} MB", passed and peak > 0
    return Check("device", passed and len(found) > 0, measured, f"weights on {device}, a mask")


def bfloat16(segmenter: Segmenter, scene: NDArray[np.uint8], runtime: Runtime) -> Check:
    """Whether bfloat16 is chosen, and gives nearly what float32 gives."""
    images = _images([scene])
    half, whole = (_tensors(_outputs(segmenter, images, name)) for name in ("bf16", "fp32"))
    error = max(
        float((some.float() - others).norm() / others.norm())
        for some, others in zip(half, whole, strict=True)
    )
    # A processor may be too old for it.
    chosen = runtime.precision == "bf16" or runtime.device.type == "cpu"
    return Check(
        "bfloat16",
        chosen and error <= BF16_TOLERANCE,
        f"{runtime.precision} is chosen; outputs differ by {error:.2%} from float32",
        f"bf16 is chosen; at most {BF16_TOLERANCE:.0%}",
    )


def batched(segmenter: Segmenter, scenes: Sequence[NDArray[np.uint8]]) -> Check:
    """Whether images in one batch give what each gives by itself, in float32."""
    images = _images(scenes)
    with _exact_products():
        together = _outputs(segmenter, images, "fp32")
        alone = [_outputs(segmenter, image[None], "fp32") for image in images]
    error = max(
        _difference(level[place], one[0])
        for place, single in enumerate(alone)
        for level, one in zip(_tensors(together), _tensors(single), strict=True)
    )
    size = (images.shape[-2], images.shape[-1])
    in_batch = _masks(segmenter, together, size)
    singly = [_masks(segmenter, single, size)[0] for single in alone]
    least = min(map(_least_overlap, in_batch, singly))
    counts = [len(found) for found in in_batch]
    return Check(
        "batched prediction",
        error <= BATCH_TOLERANCE and least >= MASKS_EQUAL,
        f"outputs differ by {error:.1e}; of {' and '.join(map(str, counts))} masks the least equal "
        f"has IoU {least:.3f}",
        f"at most {BATCH_TOLERANCE:g}; {MASKS_EQUAL}",
    )


def training_steps(batch: TrainBatch, device: torch.device) -> Check:
    """Whether steps give the losses and gradients' norms that they give on a processor."""
    with _exact_products():
        here, there = _steps(batch, device), _steps(batch, torch.device("cpu"))
    error = _relative(here, there)
    return Check(
        f"{STEPS} training steps",
        error <= STEP_TOLERANCE,
        f"losses and gradients' norms differ by {error:.1e} from those of the processor",
        f"at most {STEP_TOLERANCE:g}, in float32",
    )


def compiled(batch: TrainBatch, device: torch.device) -> Check:
    """Whether the compiled network, as of `--train.compile`, gives the same losses."""
    start = time.perf_counter()
    with _exact_products():
        plain, fast = _steps(batch, device), _steps(batch, device, compile=True)
    error = _relative(fast, plain)
    return Check(
        "torch.compile",
        error <= COMPILE_TOLERANCE,
        f"losses differ by {error:.1e}; {time.perf_counter() - start:.0f} s with compiling",
        f"at most {COMPILE_TOLERANCE:g}",
    )


def markdown(machine: str, checks: Sequence[Check], rates: Sequence[Rate]) -> str:
    """Both tables, for docs/performance.md."""
    says = {True: "yes", False: "**no**", None: "–"}
    lines = [machine, "", "| check | passed | measured | wanted |", "|---|---|---|---|"]
    lines += [f"| {c.name} | {says[c.passed]} | {c.measured} | {c.wanted} |" for c in checks]
    lines += ["", "| what | images at a time | images a second | peak MB of the GPU |"]
    lines += ["|---|---|---|---|"]
    for rate in rates:
        peak = "–" if rate.peak_mb is None else f"{rate.peak_mb:.0f}"
        lines.append(f"| {rate.what} | {rate.batch} | {rate.images_per_second:.1f} | {peak} |")
    return "\n".join(lines) + "\n"


def _scene(number: int, side: int) -> NDArray[np.uint8]:
    """(3 / 4 side, side, 3) uint8 RGB, of one size for all numbers."""
    scene = Image.fromarray(make_scene(number, seed=1, long_side=side).image)
    return np.array(scene.resize((side, 3 * side // 4)))


def _training_batch(folder: Path) -> TrainBatch:
    """Views of two scenes with their true masks."""
    write_scenes(folder, 2, seed=1)
    config = load_config("tiny", None, {"train": {"batch_size": 2}})
    truth = load_coco(folder / "annotations.json")
    return TrainBatches(find_images(folder / "images"), truth, config, 0)(0)


def _steps(batch: TrainBatch, device: torch.device, *, compile: bool = False) -> Tensor:
    """(STEPS, L + 1) losses and norm of the gradient of each step, from the same weights."""
    config = load_config("tiny", None, {"backbone": {"weights": "none"}})
    torch.manual_seed(0)
    solo = build_solo(config.backbone, config.model)
    solo.to(device)
    set_training_mode(solo, config.train)
    if compile:
        solo.compile(dynamic=False)
    optimizer = make_optimizer(solo, kind="sgd", rate=1e-3, weight_decay=0.0)
    criterion, moved = FreeSOLOCriterion(config.loss), batch_to(batch, device)
    rows = []
    for step in range(STEPS):
        optimizer.zero_grad()
        outputs = solo(normalize(solo, moved.images))
        losses = torch.stack(list(batch_losses(criterion, outputs, moved, config, step).values()))
        losses.sum().backward()  # type: ignore[no-untyped-call]  # untyped in torch
        norm = torch.nn.utils.clip_grad_norm_(solo.parameters(), config.train.clip_norm)
        optimizer.step()
        rows.append(torch.cat([losses.detach(), norm.view(1)]).cpu())
    return torch.stack(rows)


@contextmanager
def _exact_products() -> Iterator[None]:
    """Float32 products and convolutions without TensorFloat-32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def _images(scenes: Sequence[NDArray[np.uint8]]) -> Tensor:
    """(B, 3, H, W) uint8, sides cut to multiples of 32."""
    batch = torch.from_numpy(np.stack(scenes)).permute(0, 3, 1, 2)
    return batch[:, :, : batch.shape[2] // 32 * 32, : batch.shape[3] // 32 * 32]


@torch.inference_mode()
def _outputs(segmenter: Segmenter, images: Tensor, precision: str) -> SOLOOutputs:
    """What the network makes of (B, 3, H, W) uint8 images."""
    network, device = segmenter.network, segmenter.runtime.device
    with Runtime(device, precision).autocast():
        outputs: SOLOOutputs = network(normalize(network, images.to(device)))
    return outputs


def _tensors(outputs: SOLOOutputs) -> tuple[Tensor, ...]:
    levels = outputs.category_logits + outputs.kernels + outputs.semantic_embeddings
    return (*levels, outputs.mask_features)


def _masks(segmenter: Segmenter, outputs: SOLOOutputs, size: tuple[int, int]) -> list[Instances]:
    """The network's own masks of each image of a batch."""
    sizes = [size] * len(outputs.mask_features)
    return postprocess(
        outputs,
        input_sizes=sizes,
        original_sizes=sizes,
        config=replace(segmenter.config.inference, masks="network"),
        strides=segmenter.network.level_strides,
    )


def _least_overlap(some: Instances, others: Instances) -> float:
    """The least IoU of a mask with the best of the others; 0 if there are more or fewer of them."""
    if len(some) != len(others):
        return 0.0
    ones, twos = (found.masks.flatten(1).float() for found in (some, others))
    both = ones @ twos.T
    iou = both / (ones.sum(1)[:, None] + twos.sum(1) - both).clamp(min=1)
    return float(iou.amax(dim=1).amin()) if len(some) else 1.0


def _difference(some: Tensor, others: Tensor) -> float:
    return float((some - others).abs().max() / others.abs().max().clamp(min=1e-6))


def _relative(some: Tensor, others: Tensor) -> float:
    return float(((some - others).abs() / others.abs().clamp(min=1e-3)).max())


def _rates(
    segmenter: Segmenter,
    scenes: Sequence[NDArray[np.uint8]],
    batches: Sequence[int],
    seconds: float,
) -> Iterator[Rate]:
    """The network on batches, and whole predictions image by image."""
    device = segmenter.runtime.device
    for count in batches:
        batch = _images([scenes[number % len(scenes)] for number in range(count)]).to(device)

        def forward(batch: Tensor = batch) -> object:
            return _outputs(segmenter, batch, segmenter.runtime.precision)

        logger.info("network: %d images at a time", count)
        try:
            yield _rate("network, images on the device", count, forward, device, seconds)
        except torch.cuda.OutOfMemoryError:
            logger.warning("%d images at a time do not fit into the GPU's memory", count)
            break
    logger.info("whole predictions: %d images", len(scenes))

    def whole() -> object:
        return segmenter.predict(list(scenes))

    once = _rate("`Segmenter.predict`, arrays to masks", 1, whole, device, seconds)
    yield replace(once, images_per_second=once.images_per_second * len(scenes))


def _rate(
    what: str, batch: int, work: Callable[[], object], device: torch.device, seconds: float
) -> Rate:
    """Repeats some work for a while; the first time does not count."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    work()
    times: list[float] = []
    while not times or sum(times) < seconds:
        if cuda:
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if cuda else None
    return Rate(what, batch, batch / statistics.median(times), peak)


def _machine(runtime: Runtime) -> str:
    device = runtime.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{name or 'unknown'}, {runtime}, {versions}, {time.strftime('%Y-%m-%d')}"


if __name__ == "__main__":
    sys.exit(app())
