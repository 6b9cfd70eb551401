"""Images a second against the number of cores: stages of a photograph measured, queues simulated.

    python benchmarks/throughput.py [--photographs 16]

`predict` of a folder finds regions in helpers, and the network looks at each image in the process
that was started (`inference.reading_ahead`). Both stages are timed on one core, in processor time;
more threads serve the network by Amdahl's law, as the second one does. Passing on costs nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from cyclopts import run
from photograph_cases import SMALL, missing_photographs, photograph

from soloist import load
from soloist.data.images import read_with_size
from soloist.data.sources import find_images
from soloist.inference.reading_ahead import READ_AHEAD, each_labelled
from soloist.runtime.workers import MOST_HELPERS

CORES = (1, 2, 4, 8, 16, 32)
SIMULATED, ROUNDING = 400, 1e-12  # images; seconds that are none


class Stages(NamedTuple):
    """What a photograph costs, in seconds of one core.

    Attributes:
        helped: Reading it and finding its regions.
        main: What the network does.
        parallel: Share of the latter that threads divide, in [0, 1].
    """

    helped: float
    main: float
    parallel: float


def images_per_second(stages: Stages, cores: int, images: int = SIMULATED) -> float:
    """Of the two stages on N cores, which all that work share evenly."""
    if cores == 1:
        return 1 / (stages.helped + stages.main)
    helpers = min(cores, MOST_HELPERS)
    threads = max(1, cores - helpers)
    speed = 1 / (1 - stages.parallel + stages.parallel / threads)
    now, done, main, following = 0.0, 0, 0.0, list(range(helpers))
    left, ready = dict[int, float](), set[int]()
    while done < images:
        for helper, image in enumerate(following):
            if helper not in left and image < min(images, done + helpers * READ_AHEAD):
                left[helper] = stages.helped
        if main == 0 and done in ready:
            main = stages.main
        share = min(1.0, cores / (len(left) + (threads if main else 0)))
        step = min([*left.values(), *([main / speed] if main else [])]) / share
        now += step
        if main:
            main -= step * share * speed
            if main < ROUNDING:
                main, done = 0.0, done + 1
        left = {helper: seconds - step * share for helper, seconds in left.items()}
        for helper in [helper for helper, seconds in left.items() if seconds < ROUNDING]:
            del left[helper]
            ready.add(following[helper])
            following[helper] += helpers
    return images / now


def main(*, photographs: int = 16) -> None:
    """Prints the stages of some photographs and a table."""
    if (missing := missing_photographs()) is not None:
        raise SystemExit(missing)
    paths = [photograph(number, SMALL) for number in range(photographs)]
    images = find_images([str(path) for path in paths])
    segmenter = load(device="cpu")
    labeler, side = segmenter.labeler, segmenter.decoded_side
    torch.set_num_threads(1)
    pixels, size = read_with_size(paths[0], short_side=side)
    regions = labeler.prepare(pixels, size)

    def finish(clock: Callable[[], float] = time.perf_counter) -> float:
        return min(_seconds(lambda: labeler.finish(pixels, regions), clock) for _ in range(9))

    def helped(path: Path) -> float:
        read = partial(read_with_size, path, short_side=side)
        return _seconds(lambda: labeler.prepare(*read()), time.process_time)

    network, one = finish(time.process_time), finish()
    torch.set_num_threads(2)
    parallel = min(1.0, max(0.0, 2 * (1 - finish() / one)))
    torch.set_num_threads(1)
    stages = Stages(statistics.mean(map(helped, paths)), network, parallel)
    print(f"{1e3 * stages.helped:.0f} ms in helpers, {1e3 * network:.0f} ms in the network")
    print("| cores | images a second, simulated | measured |\n|---|---|---|")
    for cores in CORES:
        measured = "–"
        if cores <= 2:
            torch.set_num_threads(cores)
            work = partial(list, each_labelled(images, labeler, side))
            measured = f"{len(images) / _seconds(work):.1f}"
        print(f"| {cores} | {images_per_second(stages, cores):.1f} | {measured} |", flush=True)


def _seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    work()
    return clock() - start


if __name__ == "__main__":
    run(main)
