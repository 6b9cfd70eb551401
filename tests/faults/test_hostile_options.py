"""Files of options that somebody made up to do harm, and the judge of all such tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from soloist.config import Config
from soloist.config.presets import load_config
from soloist.errors import ConfigError, DataError, SoloistError

Hostile = Callable[[str], Any]
pytestmark = pytest.mark.usefixtures("bounded_memory")

TOKENS = st.sampled_from(
    [
        "train:", "  steps:", " 3", " 1e400", " .nan", " .inf", " -0x_", "\n", "- ", "&a ", "*a ",
        "<<: ", "!!int ", "!!float ", "!!bool ", "!!timestamp ", "!!binary ", "!!set ", "!!null ",
        "!!python/object/apply:os.system ", "!!python/name:os.system ", "!!python/tuple ",
        "[", "]", "{", "}", ",", ": ", "? ", "| ", '"', "'", "#", "%YAML 1.1\n", "---\n",
        "seed: ", "1", "2001-99-99", "\t", "\x00", "model:\n", "  grids: ", "9" * 5000,
        "backbone: ",
    ]
)  # fmt: skip
# Each name stands for nine of the one before.
BOMB = (
    "[&a0 [x, x], "
    + ", ".join(f"&a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30))
    + "]"
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
)


@pytest.mark.slow
@given(text=st.lists(TOKENS | st.text(max_size=6), max_size=14).map("".join))
@example(text=f"seed: {BOMB}")
@example(text=f"train: {BOMB}")
@example(text=f"model: {{grids: {BOMB}}}")
@example(text=MERGES)
@example(text="seed: &a [*a]")
@example(text="&a {train: *a}")
@example(text="[" * 2000)
@example(text="seed: " + "9" * 400)
@example(text="train: {learning_rate: " + "9" * 400 + "}")
@example(text="backbone: " + "x" * 5000)
@example(text="x" * 100_000 + ": 1")
def test_options(tmp_path: Path, hostile: Hostile, text: str) -> None:
    path = tmp_path / "options.yaml"
    path.write_bytes(text.encode(errors="surrogatepass"))
    with hostile("YAML"):
        assert isinstance(load_config("tiny", path), Config)


@pytest.mark.parametrize(
    "tag", ["object/apply:os.system", "object/new:os.system", "name:os.system"]
)
def test_options_make_no_objects(tmp_path: Path, tag: str) -> None:
    path = tmp_path / "options.yaml"
    path.write_text(f"seed: !!python/{tag} [touch {tmp_path / 'sprung'}]\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config("tiny", path)
    assert not (tmp_path / "sprung").exists()


def test_plain_anchors_are_read(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_text(yaml.safe_dump({"seed": 3}) + "train: {steps: &n 7, warmup_steps: *n}\n")
    config = load_config("tiny", path)
    assert (config.seed, config.train.steps, config.train.warmup_steps) == (3, 7, 7)


def test_the_table_counts_what_goes_wrong(hostile: Hostile) -> None:
    """The judge itself: what is refused in one line is fine, anything else is not."""
    with hostile("(the judge itself)"):
        raise DataError("wanted this, got that")
    for error in (KeyError("x"), SoloistError("two\nlines"), SoloistError("")):
        with pytest.raises((KeyError, AssertionError)), hostile("(the judge itself, refusing)"):
            raise error
