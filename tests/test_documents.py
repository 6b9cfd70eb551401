"""Every command, block of Python and link of the documents is tried, or set aside with a reason.

Two pages have tests of their own, since they need whole data sets: tests/test_reproduce_coco.py and
tests/data/datasets/test_page.py.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import tomllib
from collections.abc import Mapping
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from pycocotools.coco import COCO
from tests.data.test_georeference import PROJECTED, SCALE, TIE
from tests.data.test_georeference import write as write_tiff
from tests.documents import DOCS, PAGES, ROOT, blocks, shell_commands, soloist_arguments

from soloist.cli import app, run_command
from soloist.cli.runs import DONE, SOME_FAILED
from soloist.data.coco.read import load_coco
from soloist.data.images import read_image
from soloist.data.scenes import write_scenes
from soloist.inference.segmenter import MODEL_CARD
from soloist.inference.video.files import VideoWriter

pytestmark = pytest.mark.documents
OWN_TESTS = {"datasets.md", "reproduce-coco.md"}
TUTORIAL = "tutorial.md"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]

# Verbs that learn show their plan by --dry-run; here and there they learn a little.
DRY = {"bench", "finetune", "fit", "pretrain", "train"}
LEARNED = {(TUTORIAL, "finetune"), ("README.md", "pretrain"), ("README.md", "train")}
TINY = {"fit", "masks", "pretrain", "train"}

# Values that suit a few small images, and a network that knows nothing.
INSTEAD = {("fit", "--budget"): "5s"}
ADDED = {"cluster": ["--groups", "2", "--min-score", "0"]}
# What is not run at all, by page and beginning. A command of Soloist's is parsed all the same.
SET_ASIDE = {
    ("photographs.md", "soloist finetune train.json"): "needs the photographs",
    ("photographs.md", "soloist finetune fold0"): "needs the photographs",
    ("photographs.md", "soloist predict fold0"): "needs the photographs",
    ("photographs.md", "soloist predict pool.txt"): "needs the photographs",
    ("photographs.md", "soloist fit pool300.txt"): "needs the photographs",
    ("photographs.md", "soloist finetune composites"): "needs the photographs",
    ("photographs.md", "soloist predict ../shared"): "needs the photographs",
    ("photographs.md", "soloist eval coco.json"): "needs the photographs",
    ("photographs.md", "git clone"): "needs the network",
    ("README.md", "soloist studio"): "a server; tests/cli/studio starts it",
    ("README.md", "soloist finetune labels.json"): "tests/cli/test_finetuning.py",
    (TUTORIAL, "soloist studio"): "a server; tests/cli/studio starts it",
    ("studio.md", "soloist studio"): "a server; tests/cli/studio starts it",
    ("studio.md", "soloist finetune"): "tests/cli/studio/test_labels.py",
    ("studio.md", "pytest -m documents tests"): "needs the photographs",
    ("cvat.md", "cvat-cli"): "tests/integrations/test_cvat.py",
    ("beyond-the-paper.md", "soloist masks"): "40 scenes; tests/proposals/test_propose.py",
    ("beyond-the-paper.md", "soloist predict ../shared"): "needs the stamps benchmark",
    ("beyond-the-paper.md", "soloist eval"): "40 scenes; tests/evaluation/test_evaluate.py",
    (
        "beyond-the-paper.md",
        "soloist fit runs/train-scenes",
    ): "minutes; tests/training/test_self_training.py",
    ("beyond-the-paper.md", "soloist pretrain ../shared"): "needs the stamps benchmark",
    ("beyond-the-paper.md", "python -c"): "40 scenes; tests/data/test_scenes.py",
    ("choosing-a-backbone.md", "soloist backbones"): "minutes; tests/models/test_backbone_list.py",
    ("choosing-a-backbone.md", "soloist fit"): "downloads weights",
    ("finetune.md", "soloist bench finetune"): "36 trainings; tests/training/experiments",
    ("finetune.md", "soloist finetune labels.json"): "tests/cli/test_finetuning.py",
    ("fit.md", "soloist fit photos/ --out runs/paper"): "minutes; tests/training",
    ("fit.md", "soloist fit photos/ --out runs/network"): "an hour; tests/training",
    ("quality.md", "soloist studio"): "a server; tests/cli/studio starts it",
    ("quality.md", "soloist finetune"): "tests/training/test_finetuning.py",
    ("onnx.md", "soloist export"): "a minute; tests/inference/onnx/test_export.py",
    ("MODEL_CARD.md", "soloist"): "needs the stamps benchmark",
    ("report.md", "soloist report runs/mine"): "tests/cli/test_cli.py",
    ("report.md", "soloist report shards"): "tests/report/test_predictions.py",
    ("report.md", "ls "): "500 images",
    ("report.md", "soloist masks list.txt"): "500 images",
    ("report.md", "soloist report free.json"): "500 images",
    ("results.md", "soloist"): "hours, on the stamps benchmark",
    ("results.md", "python -c"): "40 scenes; tests/data/test_scenes.py",
    ("results.md", "/usr/bin/time"): "an hour, on the stamps benchmark",
    ("scale.md", "head="): "needs SLURM",
    (
        "scale.md",
        "soloist predict /shared/photos --model /shared/runs",
    ): "tests/inference/test_on_ray.py",
    ("semantics.md", "soloist cluster runs/"): "needs a whole run; tests/evaluation/explore",
    ("weights.md", "soloist"): "needs released files; tests/cli, tests/checkpoints",
}
# What stands for something else, and has no value of its own.
PLACEHOLDERS = {
    "OPTIONS": "",
    "WEIGHT": "0.5",
    "ROUND": "0",
    "K": "4",
    "STEPS": "5",
    "MASKS": "network",
}
# Blocks of Python that are only read, by page and beginning.
PYTHON_SET_ASIDE = {
    ("libraries.md", "import fiftyone"): "tests/integrations/test_fiftyone.py",
    ("cvat.md", "import cvat_sdk"): "needs a CVAT server; tests/integrations/test_cvat.py",
    ("weights.md", "segmenter = soloist.load"): "publishes on the hub; tests/checkpoints",
    ("weights.md", "import soloist"): "needs released files; tests/checkpoints",
    ("weights.md", "state = soloist.load"): "tests/models/test_backbones.py",
}

WITH_COMMANDS = sorted(
    name for name, path in PAGES.items() if name not in OWN_TESTS and shell_commands(path)
)


def reason(table: Mapping[tuple[str, str], str], page: str, text: str) -> str | None:
    """Why something of a page is not run; None if it is."""
    reasons = (
        why for (name, start), why in table.items() if name == page and text.startswith(start)
    )
    return next(reasons, None)


@pytest.fixture(scope="module")
def furniture(
    tmp_path_factory: pytest.TempPathFactory,
    scenes: Path,
    model_folder: Path,
    tiny_defaults: Mapping[str, Any],
) -> Path:
    """Images, masks, labels and runs under the names that the pages give them."""
    root = tmp_path_factory.mktemp("furniture")
    for folder in ("photos", "shared/photos"):
        shutil.copytree(scenes / "images", root / folder)
    shutil.copytree(root / "photos", root / "tiles")
    shutil.copy(root / "photos" / "000001.jpg", root / "photo.jpg")
    pixels = read_image(root / "photo.jpg")
    for name in ("aerial.tif", "scene.tif"):
        write_tiff(root / name, SCALE, TIE, PROJECTED)
    with VideoWriter(root / "clip.mp4", Fraction(10)) as writer:
        for shift in range(3):
            writer.add(np.roll(pixels, shift, axis=1))
    for run in ("runs/mine", "runs/photos", "runs/classes", "shared/runs/photos"):
        shutil.copytree(model_folder, root / run / "model")
    truth = json.loads((scenes / "annotations.json").read_text(encoding="utf-8"))
    found = {**truth, "annotations": [{**one, "score": 0.9} for one in truth["annotations"]]}
    for name, content in {
        **dict.fromkeys(("truth", "labels", "val"), truth),
        **dict.fromkeys(("masks", "val_predictions"), found),
    }.items():
        (root / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    (root / "tiny.yaml").write_text(yaml.safe_dump(dict(tiny_defaults)), encoding="utf-8")
    return root


@pytest.fixture
def furnished(furniture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own to work in."""
    shutil.copytree(furniture, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shortened(page: str, arguments: list[str]) -> list[str]:
    """What is run instead of a command of Soloist's: the same, in seconds."""
    # The disk of a cluster is a folder here.
    verb, *rest = [
        word.removeprefix("/") if word.startswith("/shared/") else word for word in arguments
    ]
    if verb in DRY and (page, verb) not in LEARNED:
        return [verb, *rest, "--dry-run"]
    if page == "video.md" and "runs/mine" in rest:
        # The stand-in learned for a few steps, and no score of its masks is high.
        rest += ["--track-score", "0"]
    if verb in TINY:
        rest += ["--config", "tiny.yaml", "--device", "cpu", "--precision", "fp32"]
    if "--like" in rest:
        there = next(iter(load_coco(rest[0]).annotations.values()))[0]
        rest[rest.index("--like") + 1] = str(there.id)
    else:
        rest += ADDED.get(verb, [])
    for option, value in list(pairwise(rest)):
        if (verb, option) in INSTEAD:
            rest[rest.index(option) + 1] = INSTEAD[verb, option]
        if option == "--out" and Path(value).exists():
            rest.append("--overwrite")
    return [verb, *rest]


def parse(arguments: list[str]) -> None:
    """Raises if the command line does not know the verb, an option, or a value of it."""
    text = "\0".join(arguments)
    for word, value in PLACEHOLDERS.items():
        text = re.sub(rf"\b{word}\b", value, text)
    given = [word for word in text.split("\0") if word]
    app.parse_args(given, exit_on_error=False, print_error=False)


def check_other(command: list[str]) -> None:
    """What a command that is not Soloist's names is there."""
    program, *rest = command
    if program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = {word for word in rest if "=" not in word}
        assert targets <= set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
        variables = {word.partition("=")[0] for word in rest if "=" in word}
        assert variables <= set(re.findall(r"\$\(([A-Z]+)\)", makefile))
    elif program == "python":
        assert (ROOT / rest[0]).is_file()
    elif program == "pip":
        extras = PROJECT["optional-dependencies"]
        known = map(Requirement, [*PROJECT["dependencies"], *chain.from_iterable(extras.values())])
        names = {"soloist", *(one.name for one in known)}
        # An extra of the checkout: `.[app]`.
        wanted = [re.sub(r"^\.\[", "soloist[", word) for word in rest[1:]]
        assert not [word for word in rest[1:] if word.startswith("soloist")], "not on the index"
        for one in map(Requirement, {*wanted} - {".", "--no-deps"}):
            assert one.name in names
            assert one.extras <= set(extras)
    else:
        pytest.fail(f"nothing tries `{' '.join(command)}`, nor is it set aside")


def try_command(page: str, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = soloist_arguments(command)
    if reason(SET_ASIDE, page, " ".join(command)) is not None:
        if arguments is not None:
            parse(arguments)
        return
    if arguments is None:
        check_other(command)
        return
    status = run_command(shortened(page, arguments))
    printed = capsys.readouterr()
    # `doctor` may find something wrong with this machine; a few steps teach `fit` nothing.
    fine = (DONE, SOME_FAILED) if arguments[0] in ("doctor", "fit") else (DONE,)
    assert status in fine, f"{' '.join(command)}\n{printed.out}{printed.err}"


@pytest.mark.usefixtures("furnished")
@pytest.mark.parametrize("page", [page for page in WITH_COMMANDS if page != TUTORIAL])
def test_the_commands_of_a_page_work(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in shell_commands(PAGES[page]):
        try_command(page, command, capsys)


@pytest.mark.usefixtures("furnished")
def test_the_tutorial_leads_from_images_to_labels(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("photos")
    shutil.rmtree("runs")
    write_scenes(Path("scenes"), 3, seed=201, split="val", long_side=224)
    Path("scenes/images").rename("photos")
    commands = shell_commands(PAGES[TUTORIAL])
    assert [command[1] for command in commands if command[0] == "soloist"] == [
        *("doctor", "predict", "studio", "finetune", "predict", "convert", "convert")
    ]
    # As if all images had been finished in the studio.
    labels = json.loads(Path("scenes/annotations.json").read_text(encoding="utf-8"))
    Path("runs/studio/photos").mkdir(parents=True)
    Path("runs/studio/photos/labels.json").write_text(
        json.dumps({**labels, "info": {"images": ["photos"]}}), encoding="utf-8"
    )
    for command in commands:
        try_command(TUTORIAL, command, capsys)
        if command[1] == "finetune":
            assert Path("runs/mine/report.html").is_file()
    for folder in ("first", "overlays"):
        assert len(list(Path(folder).glob("*.overlay.jpg"))) == 3
    predicted = load_coco("masks.json")
    least = predicted.recommended_score
    good = [one for few in predicted.annotations.values() for one in few if one.score >= least]
    coco = COCO("cvat/annotations/instances_default.json")
    assert [one["name"] for one in coco.dataset["categories"]] == ["object"]
    assert {one["file_name"] for one in coco.imgs.values()} == {
        path.name for path in Path("photos").iterdir()
    }
    read = coco.loadAnns(coco.getAnnIds())
    assert 0 < len(read) == len(good) < len(predicted)
    assert min(one["attributes"]["score"] for one in read) >= least
    for one, mask in zip(read, good, strict=True):
        assert isinstance(one["segmentation"], list)
        assert coco.annToMask(one).sum() == pytest.approx(mask.area, rel=0.1, abs=10)
    supervision = pytest.importorskip("supervision")
    sets = supervision.DetectionDataset
    for others in (
        sets.from_coco("photos", "cvat/annotations/instances_default.json", force_masks=True),
        sets.from_yolo("yolo/images", "yolo/labels", "yolo/data.yaml", force_masks=True),
    ):
        assert len(others) == 3
        assert sum(map(len, others.annotations.values())) == len(read)


@pytest.mark.usefixtures("furnished")
def test_datumaro_reads_what_the_tutorial_writes() -> None:
    datumaro = pytest.importorskip("datumaro")
    convert = next(
        command for command in shell_commands(PAGES[TUTORIAL]) if command[-1:] == ["cvat"]
    )
    assert run_command([*convert[1:], "--images", "photos", "--with-images", "copy"]) == DONE
    read = datumaro.Dataset.import_from("cvat", "coco_instances", merge_instance_polygons=True)
    masks = [one for item in read for one in item.annotations if isinstance(one, datumaro.Mask)]
    assert len(masks) == len(load_coco("masks.json"))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_recommends_no_score_of_its_own(page: str) -> None:
    """Each model records the score that it recommends."""
    code_blocks = [
        block for language in ("sh", "python") for block in blocks(PAGES[page], language)
    ]
    for code in code_blocks:
        if "stamps" in code:  # A figure of results, as it was measured.
            continue
        assert not re.search(r"scores >=? |--min-score 0\.\d|filter\(0\.\d+\)\.", code), code


@pytest.mark.parametrize("page", [*PAGES, "quickstart.ipynb", "card of a published model"])
def test_nothing_is_installed_from_the_index(page: str) -> None:
    """The package is not there but after a release: pages say `pip install .`, in its folder."""
    paths = {**PAGES, "quickstart.ipynb": DOCS / "quickstart.ipynb"}
    text = paths[page].read_text(encoding="utf-8") if page in paths else MODEL_CARD
    assert re.findall(r"pip install (?:-\S+ )*[\"'\\]*soloist\b(?!==)", text) == []


def test_what_is_set_aside_is_on_its_page() -> None:
    """A reason for nothing is a mistake, or hides the next one."""
    for (page, start), why in SET_ASIDE.items():
        assert any(" ".join(command).startswith(start) for command in shell_commands(PAGES[page]))
        assert why
    for page, start in PYTHON_SET_ASIDE:
        assert any(block.startswith(start) for block in blocks(PAGES[page], "python"))


@pytest.mark.usefixtures("furnished")
@pytest.mark.parametrize("page", [name for name, path in PAGES.items() if blocks(path, "python")])
def test_the_python_of_a_page_works(page: str, request: pytest.FixtureRequest) -> None:
    for block in blocks(PAGES[page], "python"):
        if "model.onnx" in block:
            shutil.copy(request.getfixturevalue("exported_file"), "model.onnx")
        if reason(PYTHON_SET_ASIDE, page, block) is None:
            exec(compile(block, page, "exec"), {})
        else:
            ast.parse(block)


# Links


def anchors(path: Path) -> set[str]:
    """Where a link may lead within a page: its headings, as GitHub and the site name them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, "quickstart.ipynb"])
def test_links_lead_somewhere(page: str) -> None:
    path = PAGES.get(page, DOCS / page)
    links = re.findall(
        r"\]\((?!https?://)([^)#]*)(?:#([^)]*))?\)", path.read_text(encoding="utf-8")
    )
    for target, anchor in links:
        place = path.parent / target if target else path
        assert place.is_file(), f"{page}: {target}"
        assert not anchor or anchor in anchors(place), f"{page}: {target}#{anchor}"
