"""Pictures of the masks over their images."""

from __future__ import annotations

from collections.abc import Iterator

from soloist.data.drawing.overlays import OverlayWriter
from soloist.data.exports.target import Note, Picture, Target
from soloist.data.images import read_image
from soloist.data.sources import ImageRef
from soloist.errors import DataError


def write_pictures(target: Target, pictures: Iterator[Picture]) -> None:
    """Writes `NAME.overlay.jpg` for each image."""
    writer = OverlayWriter(target.folder)
    for picture in pictures:
        if picture.path is None:
            target.notes[Note.NO_IMAGE] += 1
            continue
        try:
            pixels = read_image(picture.path, reading=target.file.reading)
        except DataError as error:
            target.errors.add(picture.image.file_name, "overlays", error)
            continue
        image = ImageRef(picture.path, picture.image.file_name)
        writer(image, pixels, target.file.instances(picture.image))
