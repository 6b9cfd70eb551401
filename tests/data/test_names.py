"""One rule for names: tables of what is the same image, what is not, and what nobody can tell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soloist.data.names import match_classes, match_names
from soloist.errors import DataError


@pytest.mark.parametrize(
    ("wanted", "available"),
    [
        pytest.param("a.jpg", "a.jpg", id="equal"),
        pytest.param("images\\a.jpg", "images/a.jpg", id="windows-separators"),
        pytest.param("C:\\data\\images\\a.jpg", "images/a.jpg", id="drive"),
        pytest.param("/home/someone/images/a.jpg", "a.jpg", id="another-machine"),
        pytest.param("images/a.jpg", "a.jpg", id="folder-of-the-source"),
        pytest.param("a.jpg", "x/y/a.jpg", id="deeper"),
        pytest.param("images\\1/a.jpg", "1/a.jpg", id="both-separators"),
        pytest.param("..\\..\\upload\\4\\a.jpg", "a.jpg", id="upwards"),
        pytest.param("/data/local-files/?d=images/a.jpg", "images/a.jpg", id="label-studio"),
        pytest.param("https://host/b/images/a.jpg?sig=1", "a.jpg", id="address"),
        pytest.param("images/a%2Db.jpg", "images/a-b.jpg", id="percent"),
        pytest.param("a.JPG", "a.jpg", id="case"),
        pytest.param("cafe\u0301.jpg", "caf\u00e9.jpg", id="unicode-forms"),
    ],
)
def test_names_of_one_image(wanted: str, available: str) -> None:
    for one, other in ((wanted, available), (available, wanted)):
        matches = match_names([one], [other])
        assert matches.found == {0: 0}
        assert not matches.missing
        assert not matches.unused


@pytest.mark.parametrize(
    ("wanted", "available"),
    [
        pytest.param("train/0001.jpg", "valid/0001.jpg", id="folders-contradict"),
        pytest.param("1.jpg", "11.jpg", id="ending-within-a-part"),
        pytest.param("a.jpg", "a.png", id="suffix"),
    ],
)
def test_names_of_two_images(wanted: str, available: str) -> None:
    matches = match_names([wanted], [available])
    assert matches.found == {}
    assert (matches.missing, matches.unused) == ([wanted], [available])


def test_suffixes_may_differ_where_asked() -> None:
    assert match_names(["a.jpg"], ["x/a.png"], any_suffix=True).found == {0: 0}
    # A suffix is the last thing to be given up.
    assert match_names(["a.jpg"], ["a.png", "x/a.jpg"], any_suffix=True).found == {0: 1}


@pytest.mark.parametrize(
    ("wanted", "available"),
    [
        pytest.param(["1.jpg"], ["a/1.jpg", "b/1.jpg"], id="two-could-be-meant"),
        pytest.param(["a/1.jpg", "b/1.jpg"], ["1.jpg"], id="two-could-mean-it"),
        pytest.param(["A.jpg"], ["a.jpg", "x/a.JPG"], id="but-for-case"),
    ],
)
def test_what_nobody_can_tell_is_refused_with_both(wanted: list[str], available: list[str]) -> None:
    matches = match_names(wanted, available)
    assert len(matches.ambiguous) == len(wanted) or len(available) > 1
    if matches.ambiguous:
        assert matches.found == {}
        with pytest.raises(DataError, match=r"could be '.*' or '.*' in the folder"):
            matches.refuse_ambiguous("the folder")


@pytest.mark.parametrize(
    ("wanted", "available"),
    [
        pytest.param("upload/4/a.jpg", "images/a.jpg", id="folder-of-images"),
        pytest.param("images\\1/a.jpg", "Images/a.jpg", id="a-number-within"),
        pytest.param("images/train/a.jpg", "train/images/a.jpg", id="either-way-round"),
    ],
)
def test_folders_of_images_tell_nothing_of_files(wanted: str, available: str) -> None:
    assert match_names([wanted], [available], of_files=True).found == {0: 0}
    # Of two files of names nobody has said that they belong together.
    assert match_names([wanted], [available]).found == {}


@pytest.mark.parametrize(
    ("wanted", "available", "found"),
    [
        pytest.param("images/cb0618f6-a.jpg", "x/a.jpg", True, id="uploaded"),
        pytest.param("20240101-a.jpg", "a.jpg", False, id="date"),
        pytest.param("20240101-a.jpg", "20240102-a.jpg", False, id="two-dates"),
        pytest.param("cb0618f6-a.jpg", "ab0618f6-a.jpg", False, id="two-uploads"),
        pytest.param("a.jpg", "cb0618f6-a.jpg", False, id="the-other-way-round"),
    ],
)
def test_what_an_upload_puts_before_a_name(wanted: str, available: str, found: bool) -> None:
    assert bool(match_names([wanted], [available], of_files=True).found) == found


def test_other_folders_still_tell() -> None:
    matches = match_names(["train/a.jpg"], ["valid/a.jpg"], of_files=True)
    assert matches.missing == ["train/a.jpg"]
    matches = match_names(["1/a.jpg", "2/a.jpg"], ["images/a.jpg"], of_files=True)
    assert matches.found == {}
    assert len(matches.ambiguous) == 2


def test_the_longest_ending_counts() -> None:
    matches = match_names(["images/train/1.jpg"], ["1.jpg", "train/1.jpg"])
    assert matches.found == {0: 1}
    assert matches.unused == ["1.jpg"]


def test_the_account_says_all() -> None:
    matches = match_names(
        ["a.jpg", "x/b.jpg", "gone.jpg", "train/c.jpg"], ["a.jpg", "b.jpg", "val/c.jpg"]
    )
    assert matches.account("labels") == (
        "labels: 2 of 4 matched (1 not letter by letter, such as 'x/b.jpg' = 'b.jpg'), 2 missing "
        "(such as 'gone.jpg'), 0 ambiguous, 1 unused (such as 'val/c.jpg')"
    )
    assert "'train/c.jpg' is not taken for 'val/c.jpg'" in matches.hint()


NAMES = st.lists(
    st.lists(st.sampled_from("abAé1"), min_size=1, max_size=3).map("/".join), unique=True
)


@given(NAMES, NAMES)
def test_every_name_is_in_the_account_once(wanted: list[str], available: list[str]) -> None:
    matches = match_names(wanted, available)
    assert len(set(matches.found.values())) == len(matches.found)
    unclear = [name for name, _, _ in matches.ambiguous]
    found = [wanted[place] for place in matches.found]
    assert sorted([*found, *matches.missing, *unclear]) == sorted(wanted)
    for name in set(wanted) & set(available):
        assert available[matches.found[wanted.index(name)]] == name
    assert match_names(wanted, wanted).found == {place: place for place in range(len(wanted))}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        pytest.param({0: "cup", 1: "plate"}, {0: 1, 1: 2}, id="other-ids"),
        pytest.param({2: "cup", 1: "plate"}, {2: 1, 1: 2}, id="exchanged-ids"),
        pytest.param({0: "Cup", 1: " plate "}, {0: 1, 1: 2}, id="case-and-spaces"),
        pytest.param({0: "cup", 3: "fork"}, {0: 1}, id="one-more"),
    ],
)
def test_classes_are_matched_by_name(wanted: dict[int, str], found: dict[int, int]) -> None:
    assert match_classes(wanted, {1: "cup", 2: "plate"}) == found


def test_classes_of_one_name_are_matched_by_id() -> None:
    assert match_classes({1: "cup", 2: "cup"}, {1: "cup", 2: "cup"}) == {1: 1, 2: 2}
    assert match_classes({5: "cup"}, {1: "cup", 2: "cup"}) == {}
