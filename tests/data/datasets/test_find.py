from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from soloist.data.coco.rle import decode_mask
from soloist.data.datasets.dataset import Dataset
from soloist.data.datasets.find import FORMATS, find_dataset, find_format
from soloist.errors import ConfigError, DataError

BOXES = {"000012": [(6, 4, 10, 10), (30, 20, 15, 15)], "000034": [(0, 0, 20, 20)]}
"""Left, top, width and height of the objects of each image."""


def found_boxes(dataset: Dataset) -> dict[str, list[tuple[float, ...]]]:
    """Boxes by the six digits in the image's name; crowds left out."""
    return {
        next(name for name in BOXES if name in image.name): sorted(
            tuple(round(side, 3) for side in one.box_xywh)
            for one in dataset.objects(image)
            if not one.iscrowd
        )
        for image in dataset.images
    }


def test_the_same_objects_are_read_from_each_format(made: Any) -> None:
    assert find_format(made.path).name == made.format
    dataset = find_dataset(made.path, split=made.split)
    assert dataset.format == made.format
    assert found_boxes(dataset) == {name: sorted(boxes) for name, boxes in BOXES.items()}
    for image in dataset.images:
        assert image.path.is_file()
        assert image.true_size() == (40, 60)
        for one in dataset.objects(image):
            if one.iscrowd:
                continue
            left, top, width, height = (round(side) for side in one.box_xywh)
            square = np.zeros((40, 60), dtype=np.bool_)
            square[top : top + height, left : left + width] = True
            np.testing.assert_array_equal(decode_mask(one.rle), square)
            assert one.area == pytest.approx(width * height)


@pytest.mark.parametrize("whole", [True, False], ids=["folder", "contents"])
@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_a_packed_data_set_is_read_as_its_folder(
    made: Any, tmp_path_factory: pytest.TempPathFactory, suffix: str, whole: bool
) -> None:
    above, below = (made.path.parent, made.path.name) if whole else (made.path, ".")
    packed = tmp_path_factory.mktemp("packed") / "set"
    archive = Path(shutil.make_archive(str(packed), suffix, above, below))
    assert find_format(archive).name == made.format
    dataset = find_dataset(archive, split=made.split)
    assert found_boxes(dataset) == {name: sorted(boxes) for name, boxes in BOXES.items()}
    assert all(image.path.is_file() for image in dataset.images)


@pytest.mark.parametrize("with_images", [True, False])
def test_an_export_of_cvat_is_read_as_it_is(
    make: Callable[[str], Any], tmp_path: Path, with_images: bool
) -> None:
    path = make("coco").path
    images = path / "val2017"
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as export:
        file = path / "annotations" / "instances_val2017.json"
        export.write(file, "annotations/instances_default.json")
        for image in images.iterdir() if with_images else ():
            export.write(image, f"images/default/{image.name}")
    dataset = find_dataset(tmp_path / "e.zip", images=None if with_images else images)
    assert (dataset.format, dataset.split) == ("coco", "default")
    assert found_boxes(dataset) == {name: sorted(boxes) for name, boxes in BOXES.items()}
    assert all(image.path.is_file() for image in dataset.images)


def test_an_archive_is_named_as_it_was_given(make: Callable[[str], Any], tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "set"), "zip", make("voc").path)
    with pytest.raises(DataError, match=r"name of a split of .*set\.zip', which has all"):
        find_dataset(archive)
    with pytest.raises(DataError, match=r"format yolo .*, got .*set\.zip' without these"):
        find_dataset(archive, "yolo")


def test_classes_have_names_where_the_format_has_them(made: Any) -> None:
    dataset = find_dataset(made.path, split=made.split)
    used = {
        dataset.categories[one.category_id]
        for image in dataset.images
        for one in dataset.objects(image)
    }
    expected = {"cityscapes": {"person", "car"}, "uvo": {"object"}, "label-maps": {"object"}}
    assert used == expected.get(made.kind, {"cat", "dog"})


def test_a_data_set_becomes_a_coco_file(made: Any) -> None:
    coco = find_dataset(made.path, split=made.split).to_coco()
    assert len(coco.images) == 2
    assert coco.boxes_alone == 0
    indices = [one.index for image in coco.images for one in coco.annotations[image.id]]
    assert indices == list(range(len(coco)))
    assert sum(coco.masks(image).sum() for image in coco.images) >= 10**2 + 15**2 + 20**2


def test_a_group_of_cityscapes_is_a_crowd(make: Callable[[str], Any]) -> None:
    dataset = find_dataset(make("cityscapes").path)
    crowds = [one for one in dataset.objects(dataset.images[0]) if one.iscrowd]
    assert [one.area for one in crowds] == [5 * 10]


def test_splits_of_voc_are_its_lists(make: Callable[[str], Any]) -> None:
    path = make("voc").path
    assert FORMATS["voc"].splits(path) == ("all", "trainval", "val", "Segmentation/val")
    for split, names in (("val", ["000034.jpg"]), ("Segmentation/val", ["000012.jpg"])):
        dataset = find_dataset(path, split=split)
        assert [image.name for image in dataset.images] == names
    # Ids are those of COCO's own edition of VOC.
    assert [image.id for image in find_dataset(path, split="all").images] == [12, 34]


def test_voc_without_masks_has_boxes_alone(make: Callable[[str], Any]) -> None:
    path = make("voc").path
    shutil.rmtree(path / "VOCdevkit/VOC2012/SegmentationObject")
    dataset = find_dataset(path, split="all")
    assert found_boxes(dataset) == {name: sorted(boxes) for name, boxes in BOXES.items()}
    assert dataset.to_coco().boxes_alone == 3
    assert "1 of 3 objects are marked difficult" in dataset.remarks[0]


def test_voc_masks_without_xml_are_objects(make: Callable[[str], Any]) -> None:
    path = make("voc").path
    (path / "VOCdevkit/VOC2012/Annotations/000012.xml").unlink()
    dataset = find_dataset(path, split="Segmentation/val")
    assert found_boxes(dataset) == {"000012": sorted(BOXES["000012"])}


def test_yolo_boxes_have_no_mask(make: Callable[[str], Any]) -> None:
    path = make("yolo").path
    (path / "labels/val/000012.txt").write_text("1 0.5 0.5 0.5 0.25\n")
    dataset = find_dataset(path)
    (one,) = dataset.objects(dataset.images[0])
    assert one.segmentation is None
    assert one.box_xywh == pytest.approx((15, 15, 30, 10))
    assert one.category_id == 2


def test_yolo_without_a_yaml_is_found_by_its_folders(make: Callable[[str], Any]) -> None:
    path = make("yolo").path
    (path / "data.yaml").unlink()
    assert FORMATS["yolo"].splits(path) == ("val",)
    assert found_boxes(find_dataset(path)) == {name: sorted(boxes) for name, boxes in BOXES.items()}


def test_exports_with_a_coco_file_in_each_split(make: Callable[[str], Any]) -> None:
    path = make("coco").path
    content = (path / "annotations/instances_val2017.json").read_text()
    shutil.rmtree(path / "annotations")
    shutil.copytree(path / "val2017", path / "train")
    (path / "val2017").rename(path / "valid")
    for split in ("train", "valid"):
        (path / split / "_annotations.coco.json").write_text(content)
    assert FORMATS["coco"].splits(path) == ("train", "valid")
    dataset = find_dataset(path, split="valid")
    assert all(image.path.is_file() for image in dataset.images)


def test_other_json_files_in_a_folder_are_no_data_set(make: Callable[[str], Any]) -> None:
    path = make("coco").path
    shutil.rmtree(path / "annotations")
    (path / "package.json").write_text('{"name": "x"}')
    (path / "empty.json").write_text("")
    assert find_format(path).name == "folder"
    (path / "mine.json").write_text(json.dumps({"images": [], "annotations": []}))
    assert find_format(path).name == "coco"


def test_images_may_lie_elsewhere(make: Callable[[str], Any], tmp_path: Path) -> None:
    path = make("uvo").path
    (path / "video").rename(tmp_path / "frames")
    dataset = find_dataset(path, images=tmp_path / "frames")
    assert all(image.path.is_file() for image in dataset.images)


def test_a_plain_folder_has_images_and_no_object(make: Callable[[str], Any]) -> None:
    folder = make("coco").path / "val2017"
    dataset = find_dataset(folder)
    assert dataset.format == "folder"
    assert len(dataset.remarks) == 1
    (folder / "photo.xml").write_text("<a/>")
    assert "1 files that may be annotations" in find_dataset(folder).remarks[1]
    assert [dataset.objects(image) for image in dataset.images] == [[], []]


@pytest.mark.parametrize(
    ("kind", "file", "text", "message"),
    [
        pytest.param(
            "coco", "annotations/instances_val2017.json", "{", "it is not JSON", id="coco-json"
        ),
        pytest.param(
            "coco", "annotations/instances_val2017.json", "[]", "without `images`", id="coco-list"
        ),
        pytest.param(
            "voc", "VOCdevkit/VOC2012/Annotations/000012.xml", "<a", "is not XML", id="voc-xml"
        ),
        pytest.param(
            "voc",
            "VOCdevkit/VOC2012/Annotations/000012.xml",
            "<a><object><bndbox><xmin>one</xmin></bndbox></object></a>",
            "has 'one' under bndbox/xmin",
            id="voc-box",
        ),
        pytest.param(
            "cityscapes",
            "gtFine/val/bonn/bonn_000012_000019_gtFine_instanceIds.png",
            "no image",
            "masks that are damaged",
            id="cityscapes-png",
        ),
        pytest.param("yolo", "data.yaml", "names: [", "data.yaml", id="yolo-yaml"),
        pytest.param("yolo", "data.yaml", "names: [a]", "`train`, `val`", id="yolo-no-split"),
        pytest.param(
            "yolo", "data.yaml", "val: none", "none', which does not exist", id="yolo-no-folder"
        ),
        pytest.param("yolo", "labels/val/000012.txt", "0 0.1 0.2 0.3", "got 4", id="yolo-line"),
        pytest.param("yolo", "labels/val/000012.txt", "0 1 2 3 4 5 60", "1 to 60", id="yolo-pixel"),
        pytest.param("yolo", "labels/val/000012.txt", "cat 0 0 1 1", "not numbers", id="yolo-word"),
        pytest.param("label-maps", "masks/000012.png", "no image", "damaged", id="label-map"),
    ],
)
def test_a_broken_file_is_reported_in_one_line(
    make: Callable[[str], Any], kind: str, file: str, text: str, message: str
) -> None:
    made = make(kind)
    assert (made.path / file).is_file()
    (made.path / file).write_text(text)
    with pytest.raises(DataError) as caught:
        find_dataset(made.path, split=made.split).to_coco()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "folder"])
def test_what_is_not_of_a_format_is_reported(tmp_path: Path, format: str) -> None:
    with pytest.raises(DataError, match=f"wanted a data set of format {format} .*check the path"):
        find_dataset(tmp_path, format)


def test_a_label_map_with_colours_is_reported(make: Callable[[str], Any]) -> None:
    path = make("label-maps").path
    Image.new("RGB", (60, 40)).save(path / "masks" / "000012.png")
    with pytest.raises(DataError, match="with colours"):
        find_dataset(path).to_coco()


def test_what_cannot_be_chosen_is_reported(make: Callable[[str], Any], tmp_path: Path) -> None:
    path = make("voc").path
    with pytest.raises(DataError, match="has all, trainval, val, Segmentation/val; choose"):
        find_dataset(path)
    with pytest.raises(DataError, match="wanted the split 'tset'"):
        find_dataset(path, split="tset")
    with pytest.raises(ConfigError, match="did you mean voc"):
        find_dataset(path, "vocs")
    with pytest.raises(DataError, match="does not exist"):
        find_dataset(tmp_path / "none")
    with pytest.raises(DataError, match="got the file"):
        find_dataset(path / "VOCdevkit/VOC2012/JPEGImages/000012.jpg")
    (path / "data.yaml").write_text("val: VOCdevkit")
    with pytest.raises(DataError, match="looks like voc and yolo; choose with --format"):
        find_dataset(path)
    shutil.copytree(path / "VOCdevkit/VOC2012", path / "VOCdevkit/VOC2007")
    with pytest.raises(DataError, match="one year of PASCAL VOC"):
        find_dataset(path, "voc")


def test_label_maps_without_their_images_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.ones((8, 8), dtype=np.uint8)).save(tmp_path / "masks" / "a.png")
    with pytest.raises(DataError, match="wanted the images of the label maps"):
        find_dataset(tmp_path)
    # Photographs may lie in a folder of that name.
    Image.fromarray(np.ones((8, 8), dtype=np.uint8)).save(tmp_path / "masks" / "b.jpg")
    assert len(find_dataset(tmp_path).images) == 2
