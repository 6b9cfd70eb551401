"""Downloads from the hub, checked before anything reads them, with errors of one line."""

from __future__ import annotations

import hashlib
import logging
import ssl
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib import request
from urllib.error import HTTPError

from soloist.checkpoints.hub_reference import HubReference
from soloist.errors import CheckpointError

logger = logging.getLogger(__name__)

MODEL_FILE = "model.safetensors"
"""What most repositories, timm's and ours, call their weights."""
PATIENCE = 10.0
"""Seconds that the hub may take to answer at all."""
CONFIG_FILE = "config.json"
"""What tells the network of a trained model of ours."""


def fetch(
    reference: HubReference,
    file: str | None = None,
    *,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """A file of the hub on this machine, downloaded if it is not in the hub's cache.

    The hub's own settings hold: HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN.

    Args:
        reference: Where from; its checksum is of `reference.file`, or of the weights.
        file: Another file of the same repository and revision, which has no checksum.
        cache_dir: The hub's cache; None for its own choice.
        force_download: Fetch again what the cache has.
        local_files_only: Use the cache alone.
        token: For private repositories; None for the one of `hf auth login`.

    Raises:
        CheckpointError: If the file cannot be had, or is not the one that was wanted.
    """
    # The hub's library takes a third of a second to import.
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = file or reference.file or MODEL_FILE
    where = f"{constants.ENDPOINT}/{reference.repo}"
    try:
        cached = try_to_load_from_cache(
            reference.repo, name, cache_dir=cache_dir, revision=reference.revision
        )
        if not (isinstance(cached, str) or local_files_only or constants.HF_HUB_OFFLINE):
            _check_reachable(constants.ENDPOINT, reference, f"{name} of {where}")
        path = Path(
            hf_hub_download(
                reference.repo,
                name,
                revision=reference.revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        )
    except GatedRepoError as error:
        raise CheckpointError(
            f"{where} is gated: accept its terms on its page, then log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"no repository at {where}, or a private one; check the name, or log in with "
            "`hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(
            f"{where} has no revision {reference.revision!r}; check the text after @"
        ) from error
    except LocalEntryNotFoundError as error:
        remedy = "unset HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else "check the network"
        raise CheckpointError(
            f"{name} of {where} is not in the hub's cache and cannot be fetched now; {remedy}, or "
            "fetch the file elsewhere and give its path"
        ) from error
    except EntryNotFoundError as error:
        raise CheckpointError(
            f"{where} has no file {name!r} at {reference.revision or 'main'}; check the reference"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{name} of {where} could not be fetched ({reason})") from error
    if file is None and reference.sha256 is not None:
        check_sha256(path, reference.sha256)
    return path


def _check_reachable(hub: str, reference: HubReference, wanted: str) -> None:
    """Asks the hub once: its library asks five times, with pauses, before it gives up.

    Raises:
        CheckpointError: If nothing answers.
    """
    asked = request.Request(hub, method="HEAD", headers={"User-Agent": "soloist"})
    try:
        request.urlopen(asked, timeout=PATIENCE).close()
    except HTTPError:
        return  # Something is there.
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        # The library brings its own certificates.
        if isinstance(reason, ssl.SSLError):
            return
        raise CheckpointError(
            f"no folder or file {reference.repo} here, and {wanted} is not in the hub's cache and "
            f"cannot be fetched now ({reason}); check the network, or fetch the file elsewhere and "
            "give its path"
        ) from error


def fetch_model(
    reference: HubReference,
    *,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """A trained model of the hub: the folder of its files, or its file if the reference has one.

    Raises:
        CheckpointError: If a file cannot be had, or is not the one that was wanted.
    """
    how: dict[str, Any] = {
        "cache_dir": cache_dir,
        "force_download": force_download,
        "local_files_only": local_files_only,
        "token": token,
    }
    logger.info("%s: licence: see its page on the hub", reference)
    weights = fetch(reference, **how)
    if reference.file is not None:
        return weights
    # The cache has a folder for each commit; both files shall be of one.
    fetch(replace(reference, revision=weights.parent.name), CONFIG_FILE, **how)
    return weights.parent


def check_sha256(path: Path, wanted: str) -> None:
    """Refuses a file that is not the one a checksum is of.

    Raises:
        CheckpointError: If it is another.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted:
        raise CheckpointError(
            f"{path} must have the sha256 {wanted}, got {found}; it is not used: delete it and "
            "fetch it again, or correct the checksum if you trust the file"
        )
