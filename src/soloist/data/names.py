"""Which name of one list means the same image, or class, as which name of another."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

from soloist.errors import DataError
from soloist.runtime.files import shown

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^/]*(/[^?#]*)")
_DRIVE = re.compile(r"[A-Za-z]:$")
# Label Studio's address of a file on its own machine.
_LOCAL_FILE = "?d="
_UPLOADED = re.compile(r"(?=[0-9]*[a-f])[0-9a-f]{8}-(?=.)")
"""What Label Studio puts before the names of files that are uploaded."""
_SAYING_NOTHING = {"images", "image", "imgs", "img", "jpegimages"}
"""Folders whose name says no more than that images are in them."""

Parts = tuple[str, ...]
Form = Callable[[str], Parts]


@dataclass(frozen=True)
class NameMatches:
    """The account of a comparison of names.

    Attributes:
        found: Place in the available names by the place in the wanted ones; each occurs once.
        missing: Wanted names that nothing available is meant by.
        ambiguous: A wanted name and two that could be meant, or two that could mean it.
        unused: Available names that no wanted one means.
        by_ending: Of the matches, those of two different spellings: wanted and available.
        elsewhere: A missing name and an unused one of the same last part in another folder.
    """

    found: Mapping[int, int]
    missing: Sequence[str]
    ambiguous: Sequence[tuple[str, str, str]]
    unused: Sequence[str]
    by_ending: Sequence[tuple[str, str]] = ()
    elsewhere: tuple[str, str] | None = None

    def account(self, what: str = "images") -> str:
        """All of it in one line."""
        total = len(self.found) + len(self.missing) + len(self.ambiguous)
        how = ""
        if self.by_ending:
            one, other = self.by_ending[0]
            how = (
                f" ({len(self.by_ending):,} not letter by letter, such as {shown(one)} = "
                f"{shown(other)})"
            )
        absent = f" (such as {shown(self.missing[0])})" if self.missing else ""
        spare = f" (such as {shown(self.unused[0])})" if self.unused else ""
        return (
            f"{what}: {len(self.found):,} of {total:,} matched{how}, {len(self.missing):,} missing"
            f"{absent}, {len(self.ambiguous):,} ambiguous, {len(self.unused):,} unused{spare}"
        )

    def refuse_ambiguous(self, where: str) -> None:
        """Ends where there is no telling what a name means.

        Args:
            where: What the names were looked for in.

        Raises:
            DataError: If there is an ambiguous name.
        """
        if self.ambiguous:
            name, one, other = self.ambiguous[0]
            raise DataError(
                f"wanted one image for each name, got {shown(name)}, which could be {shown(one)} "
                f"or {shown(other)} in {where} ({len(self.ambiguous)} such names); give names or "
                "--images with the folders that tell them apart"
            )

    def hint(self) -> str:
        """What a missing name may have meant, for the end of a message; empty if unknown."""
        if self.elsewhere is None:
            return ""
        name, other = self.elsewhere
        return f" ({shown(name)} is not taken for {shown(other)}, which is in another folder)"


def match_names(
    wanted: Sequence[str],
    available: Sequence[str],
    *,
    any_suffix: bool = False,
    of_files: bool = False,
) -> NameMatches:
    """Pairs names of images: equal ones, then those where one path ends with the other.

    Separators, drives, addresses, forms of Unicode and, last, case and percent escapes are no
    difference. Of several endings the longest counts; where two are as long, there is no telling,
    and nothing is guessed.

    Args:
        wanted: Names to be found.
        available: Names there are.
        any_suffix: Names may differ in their suffix too, such as `.jpg` and `.png`.
        of_files: The available names are those of files where somebody said that the images are,
            so that folders such as `images` tell nothing: what other names, without them, end alike
            is meant too.
    """
    rest = _Rest(dict(enumerate(wanted)), dict(enumerate(available)))
    rest.take_equal()
    forms: list[Form] = [name_parts, loose_parts]
    if any_suffix:
        forms.append(lambda name: _without_suffix(loose_parts(name)))
    if of_files:
        forms.append(_telling_parts)
    for form in forms:
        rest.take_endings(form, form)
    if of_files:
        rest.take_endings(_before_upload, loose_parts)
    by_ending = [
        (wanted[one], available[other])
        for one, other in rest.found.items()
        if wanted[one] != available[other]
    ]
    missing, unused = list(rest.wanted.values()), list(rest.available.values())
    return NameMatches(
        rest.found, missing, rest.ambiguous, unused, by_ending, _elsewhere(missing, unused)
    )


def match_classes(wanted: Mapping[int, str], available: Mapping[int, str]) -> dict[int, int]:
    """Ids of the available classes by those of the wanted ones with the same name.

    Equal names first, then those that differ in case, spaces or form of Unicode alone; a name
    that several classes have is matched by id, if one of them has it.
    """
    found: dict[int, int] = {}
    for form in (str, _class_form):
        holders: dict[str, list[int]] = defaultdict(list)
        for key, name in available.items():
            if key not in found.values():
                holders[form(name)].append(key)
        for key, name in wanted.items():
            candidates = holders.get(form(name), [])
            if key in found or not candidates:
                continue
            if len(candidates) == 1 or key in candidates:
                found[key] = key if key in candidates else candidates[0]
    return found


def name_parts(name: str) -> Parts:
    """Folders and file of a name, however these are separated, without drive or host."""
    if _LOCAL_FILE in name:
        name = unquote(name.split(_LOCAL_FILE, 1)[1])
    elif address := _ADDRESS.match(name):
        name = address[1]
    parts = unicodedata.normalize("NFC", name).replace("\\", "/").split("/")
    return tuple(
        part for part in parts if part not in ("", ".", "..") and not _DRIVE.fullmatch(part)
    )


def loose_parts(name: str) -> Parts:
    """`name_parts` without percent escapes and in one case."""
    return tuple(part.casefold() for part in name_parts(unquote(name)))


@dataclass
class _Rest:
    """What is not decided yet, by place, and what is."""

    wanted: dict[int, str]
    available: dict[int, str]
    found: dict[int, int] = field(default_factory=dict)
    ambiguous: list[tuple[str, str, str]] = field(default_factory=list)

    def take_equal(self) -> None:
        places: dict[str, int] = {}
        for place, name in self.available.items():
            places.setdefault(name, place)
        pairs = []
        for one, name in self.wanted.items():
            other = places.pop(name, None)
            if other is not None:
                pairs.append((one, other))
        self._take(pairs)

    def take_endings(self, of_wanted: Form, of_available: Form) -> None:
        """Pairs by the longest shared ending, and sets aside where there are two of them."""
        if not self.wanted or not self.available:
            return
        shared = _best_endings(self.wanted, self.available, of_wanted, of_available)
        claims: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for one, (length, others) in shared.items():
            for other in others:
                claims[other].append((length, one))
        pairs, unclear, lost = [], {}, set()
        for one, (_, others) in shared.items():
            if len(others) > 1:
                unclear[one] = (self.available[others[0]], self.available[others[1]])
                continue
            best = max(length for length, _ in claims[others[0]])
            rivals = [rival for length, rival in claims[others[0]] if length == best]
            if rivals == [one]:
                pairs.append((one, others[0]))
            elif one in rivals:
                second = next(rival for rival in rivals if rival != one)
                unclear[one] = (self.available[others[0]], f"that of {self.wanted[second]}")
                lost.add(others[0])
        self._take(pairs)
        for one, (first, other_meaning) in unclear.items():
            self.ambiguous.append((self.wanted.pop(one), first, other_meaning))
            lost.update(other for other in shared[one][1])
        for other in lost:
            self.available.pop(other, None)

    def _take(self, pairs: Iterable[tuple[int, int]]) -> None:
        for one, other in pairs:
            self.found[one] = other
            del self.wanted[one]
            del self.available[other]


def _best_endings(
    wanted: Mapping[int, str],
    available: Mapping[int, str],
    of_wanted: Form,
    of_available: Form,
) -> dict[int, tuple[int, list[int]]]:
    """The length of the longest ending that each wanted name shares, and with which it does."""
    whole: dict[Parts, list[int]] = defaultdict(list)
    endings: dict[Parts, list[int]] = defaultdict(list)
    for place, name in available.items():
        parts = of_available(name)
        whole[parts].append(place)
        for start in range(len(parts)):
            endings[parts[start:]].append(place)
    found = {}
    for place, name in wanted.items():
        parts = of_wanted(name)
        # Equal parts before longer names that end with them.
        others = whole.get(parts) or endings.get(parts)
        start = 0
        while not others and start + 1 < len(parts):
            start += 1
            others = whole.get(parts[start:])
        if parts and others:
            found[place] = (len(parts) - start, others)
    return found


def _elsewhere(missing: Sequence[str], unused: Sequence[str]) -> tuple[str, str] | None:
    last_parts = {name_parts(name)[-1:]: name for name in reversed(unused)}
    for name in missing:
        other = last_parts.get(name_parts(name)[-1:])
        if other is not None:
            return name, other
    return None


def _without_suffix(parts: Parts) -> Parts:
    return (*parts[:-1], os.path.splitext(parts[-1])[0]) if parts else parts


def _telling_parts(name: str) -> Parts:
    *folders, last = loose_parts(name) or ("",)
    return (*(folder for folder in folders if folder not in _SAYING_NOTHING), last)


def _before_upload(name: str) -> Parts:
    """What a file was called before it was uploaded; its folders tell nothing then.

    Empty if it was not.
    """
    last = "".join(loose_parts(name)[-1:])
    uploaded = _UPLOADED.match(last)
    return () if uploaded is None else (last[uploaded.end() :],)


def _class_form(name: str) -> str:
    return unicodedata.normalize("NFKC", " ".join(name.split())).casefold()
