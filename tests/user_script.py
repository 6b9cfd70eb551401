"""What a user's type checker sees; mypy reads it with the tests, nothing runs it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, assert_type

from torch import Tensor

import soloist


def use(segmenter: soloist.Segmenter) -> None:
    assert_type(soloist.load(), soloist.Segmenter)
    assert_type(segmenter.predict("photo.jpg"), list[soloist.Result])
    assert_type(segmenter.predict("photos/", stream=True), Iterator[soloist.Result])
    result = segmenter.predict("photo.jpg")[0]
    assert_type(result.masks, Tensor)
    assert_type(result.image_size, tuple[int, int])
    assert_type(len(result), int)
    assert_type(result[0], soloist.Result)
    assert_type(result[2:5], soloist.Result)
    assert_type(result[result.scores > 0.5], soloist.Result)
    assert_type(result.filter(result.scores > 0.5).top_k(3), soloist.Result)
    assert_type([one.scores for one in result], list[Tensor])
    assert_type(result.to_dict(), dict[str, Any])
    assert_type(soloist.fit("photos/", "runs/mine"), soloist.Segmenter)
