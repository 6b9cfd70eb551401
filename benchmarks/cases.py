"""What `bench.py` measures: each case prepares its inputs and gives one repetition to be timed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import soloist
from soloist.config import Config, FreeMaskConfig
from soloist.config.presets import load_config
from soloist.data.coco.read import load_coco
from soloist.data.coco.rle import encode_masks
from soloist.data.coco.types import CocoImage
from soloist.data.coco.write import instances_to_annotations, write_coco
from soloist.data.images import read_with_size
from soloist.data.scenes import make_scene, write_scenes
from soloist.data.sources import find_images
from soloist.free_mask import free_masks
from soloist.losses import FreeSOLOCriterion
from soloist.models.build import build_solo, normalize
from soloist.models.folding import for_prediction
from soloist.postprocess import Candidates, select_instances
from soloist.proposals.extract import FreeMaskExtractor
from soloist.runtime.device import Runtime, choose_runtime
from soloist.structures import Instances
from soloist.training.data.train_data import TrainBatch, TrainBatches, collate
from soloist.training.data.views import View
from soloist.training.pretrain import build_densecl
from soloist.training.schedule import make_optimizer
from soloist.training.train import AveragedWeights, batch_losses, set_training_mode

Ceiling = Literal["float32 products", "bfloat16 products", "memory copies", "backbone"]


class Stopwatch:
    """Seconds of the named parts of one repetition."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Adds the time of its body to a part."""
        start = time.perf_counter()
        yield
        self.parts[name] = self.parts.get(name, 0.0) + time.perf_counter() - start


Repetition = Callable[[Stopwatch], object]


@dataclass(frozen=True)
class Prepared:
    """A case with its inputs.

    Attributes:
        repeat: What is timed.
        work: Multiplications and additions, or bytes written, that it cannot do without.
        ceiling: What bounds them; `backbone` is the part of that name in each repetition.
        floor: What it cannot do without, to be timed by turns with it; None where `work` says it.
        elsewhere: Processes started for it do the work: this one's memory is none of its peak.
    """

    repeat: Repetition
    work: float = 0.0
    ceiling: Ceiling | None = None
    floor: Callable[[], object] | None = None
    elsewhere: bool = False


@dataclass(frozen=True)
class Case:
    """Something to measure.

    Attributes:
        name: In tables and files.
        says: What is measured, with sizes.
        prepare: Makes it.
        released: Names in the released code's timings whose sum is the same work.
        repeats: How often it is timed after the warm-up.
        warm_ups: How often it is done before.
    """

    name: str
    says: str
    prepare: Callable[[], Prepared]
    released: tuple[str, ...] = field(default=())
    repeats: int = 9
    warm_ups: int = 2


def free_mask_of_a_large_map() -> Prepared:
    """The released code's size: 2048 channels on 25 x 38 cells, queries at three scales."""
    features, config = _large_map(), FreeMaskConfig()

    def repeat(watch: Stopwatch) -> Instances:
        return free_masks(features, (421, 640), config)

    cells = features.shape[1] * features.shape[2]
    return Prepared(repeat, features.shape[0] * cells**2, "float32 products")


def _large_map() -> Tensor:
    """(2048, 25, 38): the bundled features of a scene, mixed into ResNet-50's 2048 channels."""
    size = {"short_side": 400, "max_side": 608, "margin": 0}
    extractor = FreeMaskExtractor(load_config("tiny", None, {"extract": size}), _runtime("fp32"))
    scene = torch.from_numpy(make_scene(0, seed=1, long_side=608).image).permute(2, 0, 1)
    resized = torch.nn.functional.interpolate(scene[None].float(), (400, 608))[0]
    features = extractor.features(resized.to(torch.uint8))
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(2048, len(features), generator=generator) / len(features) ** 0.5
    return torch.einsum("dc,chw->dhw", mixing, features).relu_()


def run_lengths() -> Prepared:
    """20 masks of 421 x 640 pixels as COCO's compressed run lengths."""
    found = free_masks(_large_map(), (421, 640), FreeMaskConfig(score_threshold=0.0))
    masks = found.masks[:20].numpy()

    def repeat(watch: Stopwatch) -> object:
        return encode_masks(masks)

    return Prepared(repeat, masks.nbytes, "memory copies")


def extraction() -> Prepared:
    """`soloist masks` without its output: decoding, backbone, Free Mask, run lengths."""
    folder = Path(tempfile.mkdtemp())
    write_scenes(folder, 4, seed=1)
    paths = [image.path for image in find_images(folder / "images")]
    return _extraction(load_config("tiny"), paths)


def extraction_of_the_paper() -> Prepared:
    """The same by the paper's configuration, for one image; the weights are random."""
    path = Path(tempfile.mkdtemp()) / "scene.jpg"
    scene = Image.fromarray(make_scene(0, seed=1, long_side=640).image)
    scene.resize((640, 427)).save(path, quality=90)
    return _extraction(load_config("paper-r50"), [path])


def _extraction(config: Config, paths: Sequence[Path]) -> Prepared:
    extractor = FreeMaskExtractor(config, _runtime("auto"))
    backbone = extractor.backbone
    forward = backbone.forward
    watches: list[Stopwatch] = []

    def timed(images: Tensor) -> list[Tensor]:
        with watches[-1].part("backbone"):
            return forward(images)

    backbone.forward = timed  # type: ignore[method-assign]

    def repeat(watch: Stopwatch) -> None:
        watches.append(watch)
        for path in paths:
            with watch.part("decoding"):
                pixels, size = read_with_size(path, short_side=config.extract.short_side)
            with watch.part("Free Mask"):
                found = extractor(pixels, size)
            with watch.part("run lengths"):
                encode_masks(found.masks.numpy())
        watch.parts["Free Mask"] -= watch.parts["backbone"]

    return Prepared(repeat, ceiling="backbone")


def training_step_of_the_paper() -> Prepared:
    """The released code's size: 2 images of 512 x 640 with 8 objects each, ResNet-50."""
    config = load_config("paper-r50")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 512, 640), generator=generator, dtype=torch.uint8)
    views = []
    for first, image in zip((0, 8), images, strict=True):
        masks = torch.zeros(8, 512, 640, dtype=torch.bool)
        for number, mask in enumerate(masks, start=first):
            top, left, side = (37 * number) % 300, (53 * number) % 400, 40 + 12 * (number % 8)
            mask[top : top + side, left : left + side] = True
        embeddings = torch.randn(8, 128, generator=generator)
        labels = torch.zeros(8, dtype=torch.int64)
        views.append(
            View(image, image, masks, embeddings, labels, labels > 0, torch.ones(len(masks)))
        )
    return _training_step(config, lambda step: collate(views, []))


def training_step_of_tiny() -> Prepared:
    """A step of the preset `tiny`: 8 images, 16 views of 256 pixels, made anew each time."""
    config = load_config("tiny")
    folder = Path(tempfile.mkdtemp())
    write_scenes(folder, 16, seed=1)
    truth = load_coco(folder / "annotations.json")
    batches = TrainBatches(find_images(folder / "images"), truth, config, 0)
    return _training_step(config, batches)


def _training_step(config: Config, batches: Callable[[int], TrainBatch]) -> Prepared:
    """Views, network, losses, backward pass, optimiser."""
    runtime = _runtime("auto")
    solo = build_solo(replace(config.backbone, weights="none"), config.model)
    set_training_mode(solo, config.train)
    options = config.train
    optimizer = make_optimizer(
        solo, kind=options.optimizer, rate=1e-4, weight_decay=options.weight_decay
    )
    average = AveragedWeights(solo, options.ema_decay)
    criterion = FreeSOLOCriterion(config.loss)
    steps = iter(range(10**9))

    def repeat(watch: Stopwatch) -> None:
        step = next(steps)
        with watch.part("views"):
            batch = batches(step)
        with watch.part("network"), runtime.autocast():
            outputs = solo(normalize(solo, batch.images))
        with watch.part("targets and losses"):
            losses = batch_losses(criterion, outputs, batch, config, step)
        with watch.part("backward"):
            torch.stack(list(losses.values())).sum().backward()
        with watch.part("optimiser"):
            torch.nn.utils.clip_grad_norm_(solo.parameters(), options.clip_norm)
            optimizer.step()
            average.update(solo, step)
            optimizer.zero_grad()

    images = batches(0).images
    # A backward pass costs two forward passes.
    work = 3 * _operations(lambda: solo(normalize(solo, images)))
    return Prepared(repeat, work, "bfloat16 products")


def prediction_of_the_paper() -> Prepared:
    """The released code's size: ResNet-50 on 800 x 1216, 116 candidates, masks of 421 x 640."""
    config = load_config("paper-r50")
    runtime = _runtime("auto")
    solo = build_solo(config.backbone, config.model).eval()
    ready = for_prediction(solo, runtime.dtype)
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, 3, 800, 1216), generator=generator, dtype=torch.uint8)
    candidates, features = _candidates(116, generator)

    @torch.inference_mode()
    def repeat(watch: Stopwatch) -> Instances:
        with watch.part("network"), runtime.autocast():
            ready(normalize(ready, image))
        with watch.part("candidates to masks"):
            return _selected(candidates, features, config)

    with torch.no_grad():
        work = _operations(lambda: solo(normalize(solo, image)))
    return Prepared(repeat, work, "bfloat16 products")


def many_candidates() -> Prepared:
    """500 candidates at stride 4 of 800 x 1216 to masks of 421 x 640."""
    config = load_config("paper-r50")
    candidates, features = _candidates(500, torch.Generator().manual_seed(0))

    def repeat(watch: Stopwatch) -> Instances:
        return _selected(candidates, features, config)

    channels, height, width = features.shape
    return Prepared(repeat, 2 * 500 * channels * height * width, "float32 products")


def _candidates(count: int, generator: torch.Generator) -> tuple[Candidates, Tensor]:
    """`count` kernels that cut discs out of (256, 200, 304) features, all of them candidates."""
    height, width = 200, 304
    features = 0.1 * torch.randn(256, height, width, generator=generator)
    rows = torch.arange(height)[:, None] / height
    columns = torch.arange(width) / width
    # Logits are 20 - 400 * squared distance from a centre.
    features[0], features[1] = rows.expand(height, width), columns.expand(height, width)
    features[2], features[3] = rows**2 + columns**2, torch.ones(height, width)
    centers = torch.rand(count, 2, generator=generator)
    kernels = torch.zeros(count, 256)
    kernels[:, :2], kernels[:, 2] = 800 * centers, -400
    kernels[:, 3] = 20 - 400 * centers.square().sum(dim=1)
    scores = 0.5 + 0.5 * torch.rand(count, 1, generator=generator)
    embeddings = torch.randn(count, 128, generator=generator)
    return Candidates(scores, kernels, embeddings, torch.full((count,), 8.0)), features


def _selected(candidates: Candidates, features: Tensor, config: Config) -> Instances:
    return select_instances(
        candidates,
        features,
        input_size=(800, 1216),
        original_size=(421, 640),
        config=config.inference,
    )


def prediction_of_the_bundled_model() -> Prepared:
    """`Segmenter.predict` of the bundled model on a scene of 320 pixels in memory."""
    segmenter = soloist.load()
    pixels = make_scene(0, seed=1).image

    def repeat(watch: Stopwatch) -> object:
        return segmenter.predict(pixels)

    return Prepared(repeat)


def pretraining_step() -> Prepared:
    """A step of DenseCL by the preset `tiny`, crops in memory."""
    config = load_config("tiny", None, {"backbone": {"weights": "none", "stages": 4}})
    options, runtime = config.pretrain, _runtime("auto")
    model, optimizer = build_densecl(config, runtime)
    model.train()
    shape = (options.batch_size, 3, options.crop_size, options.crop_size)
    query, key = torch.rand(shape), torch.rand(shape)
    order = torch.randperm(options.batch_size)

    def repeat(watch: Stopwatch) -> None:
        with watch.part("network and losses"), runtime.autocast():
            terms = model(query, key, order)
        with watch.part("backward"):
            (terms["loss_global"] + terms["loss_dense"]).backward()
        with watch.part("optimiser"):
            optimizer.step()
            model.update_key_encoder(0.999)
            optimizer.zero_grad()

    # The keys are encoded without a backward pass.
    work = 4 * _operations(lambda: model.query_encoder(query))
    return Prepared(repeat, work, "bfloat16 products")


def evaluation() -> Prepared:
    """100 images with 4 true objects and 40 predictions each, masks and boxes."""
    folder = Path(tempfile.mkdtemp())
    rng = np.random.default_rng(0)
    images = [CocoImage(number, f"{number}.jpg", 240, 320) for number in range(1, 101)]
    for name, each in (("truth.json", 4), ("found.json", 40)):
        records = []
        for image in images:
            found = _squares(each, rng)
            records += instances_to_annotations(found, image.id, len(records) + 1)
        write_coco(folder / name, images, records)

    def repeat(watch: Stopwatch) -> object:
        return soloist.evaluate(folder / "found.json", folder / "truth.json")

    return Prepared(repeat)


def writing_coco() -> Prepared:
    """A COCO file of 1,000 images with 10 masks each, run lengths included."""
    out = Path(tempfile.mkdtemp()) / "masks.json"
    rng = np.random.default_rng(0)
    images = [CocoImage(number, f"{number}.jpg", 240, 320) for number in range(1, 1001)]
    found = _squares(10, rng)

    def repeat(watch: Stopwatch) -> None:
        records: list[dict[str, object]] = []
        with watch.part("run lengths and records"):
            for image in images:
                records += instances_to_annotations(found, image.id, len(records) + 1)
        with watch.part("file"):
            write_coco(out, images, records)

    return Prepared(repeat)


def _squares(count: int, rng: np.random.Generator) -> Instances:
    masks = torch.zeros(count, 240, 320, dtype=torch.bool)
    boxes = torch.zeros(count, 4)
    for number in range(count):
        top, left, side = rng.integers(0, 180), rng.integers(0, 260), rng.integers(8, 60)
        masks[number, top : top + side, left : left + side] = True
        boxes[number] = torch.tensor([left, top, left + side, top + side])
    scores = torch.from_numpy(np.sort(rng.random(count))[::-1].copy()).float()
    return Instances((240, 320), masks, scores, boxes, torch.zeros(count, 128))


def _operations(run: Callable[[], object]) -> float:
    """Multiplications and additions of the matrix products and convolutions of a call."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def _runtime(precision: str) -> Runtime:
    threads = torch.get_num_threads()
    runtime = choose_runtime("cpu", precision)
    torch.set_num_threads(threads)
    return runtime


CASES: Mapping[str, Case] = {
    case.name: case
    for case in (
        Case(
            "free_mask",
            "Free Mask after the backbone, 2048 x 25 x 38",
            free_mask_of_a_large_map,
            released=("freemask_post",),
            repeats=21,
        ),
        Case(
            "run_lengths",
            "20 masks of 421 x 640 to run lengths",
            run_lengths,
            released=("freemask_rle",),
            repeats=21,
        ),
        Case("extraction", "`masks`, preset tiny, 4 images", extraction),
        Case(
            "extraction_paper",
            "`masks`, ResNet-50 (random weights), one image of 427 x 640 at 800 pixels",
            extraction_of_the_paper,
        ),
        Case(
            "training_step_paper",
            "training step, ResNet-50, 2 images of 512 x 640",
            training_step_of_the_paper,
            released=("train_step",),
            repeats=5,
        ),
        Case("training_step_tiny", "training step, preset tiny, 16 views", training_step_of_tiny),
        Case(
            "prediction_paper",
            "prediction, ResNet-50, 800 x 1216, 116 candidates",
            prediction_of_the_paper,
            released=("infer_total",),
            repeats=5,
        ),
        Case(
            "candidates",
            "500 candidates to masks",
            many_candidates,
            released=("infer_post_500cand",),
        ),
        Case("prediction_bundled", "bundled model, 320 pixels", prediction_of_the_bundled_model),
        Case("pretraining_step", "DenseCL, preset tiny", pretraining_step, repeats=5),
        Case("evaluation", "100 images, 4,000 predictions", evaluation),
        Case("coco_file", "COCO file of 10,000 masks", writing_coco),
    )
}
