"""Where a backbone's weights come from, and how they enter its network."""

from __future__ import annotations

import logging
import re
from importlib.resources import files
from pathlib import Path

from torch import nn

from soloist.checkpoints.download import fetch
from soloist.checkpoints.hub_reference import PREFIX, HubReference
from soloist.checkpoints.names import BACKBONE
from soloist.checkpoints.official import OfficialWeights, load_official
from soloist.checkpoints.published import PUBLISHED
from soloist.errors import CheckpointError, ConfigError, near_names

logger = logging.getLogger(__name__)

# What the bundled file holds; its recipe is next to it.
BUNDLED_NAME = "resnet18"
BUNDLED_FILE = "weights/resnet18-densecl.safetensors"


def check_architecture(name: str, weights: str) -> None:
    """Refuses, before anything is fetched, weights that are for another network.

    Raises:
        ConfigError: If the weights have a name here and are for another one.
    """
    if weights == "bundled" and name != BUNDLED_NAME:
        raise ConfigError(
            f"the bundled weights are for backbone {BUNDLED_NAME!r}, got {name!r}; "
            "use --backbone.weights none, timm or a file"
        )
    if weights in PUBLISHED and name.partition(".")[0] != PUBLISHED[weights].architecture:
        wanted = PUBLISHED[weights].architecture
        raise ConfigError(
            f"the weights {weights!r} are for backbone {wanted!r}, got {name!r}; use "
            f"--backbone.name {wanted}"
        )


def weights_file(weights: str) -> Path:
    """The file a value of `backbone.weights` stands for, fetched if it is on the hub.

    Raises:
        ConfigError: If a text begins with `hf:` but is no reference.
        CheckpointError: If there is no such file, or not the one that was wanted.
    """
    if weights == "bundled":
        return Path(str(files("soloist") / BUNDLED_FILE))
    if weights in PUBLISHED:
        # To be read before the first use: the download comes after it.
        logger.info(PUBLISHED[weights].notice())
        return fetch(PUBLISHED[weights].reference)
    if weights.startswith(PREFIX):
        reference = HubReference.parse(weights)
        pinned = "checksum given" if reference.sha256 else "no checksum given"
        logger.info("%s: licence: see its page on the hub; %s", reference, pinned)
        return fetch(reference)
    path = Path(weights)
    for folder in (path / "model", path):
        for name in ("backbone.safetensors", "model.safetensors"):
            if (folder / name).is_file():
                return folder / name
    if not path.exists() and re.fullmatch(r"[\w-]+", weights):
        names = near_names(weights, {"bundled", "none", "timm", *PUBLISHED})
        raise CheckpointError(f"no file of weights at {path}; check the path; as a name: {names}")
    return path


def load_weights(network: nn.Module, path: Path) -> OfficialWeights:
    """Loads a file of weights, of any kind that `load_official` knows, into a bare network.

    Returns:
        What was used of the file, and what was left over.

    Raises:
        CheckpointError: If a tensor of the network is missing in the file or differs in shape.
    """
    own = {f"{BACKBONE}{name}": value for name, value in network.state_dict().items()}
    weights = load_official(path).fitted(own)
    if weights.missing:
        raise CheckpointError(
            f"{path.name} lacks {len(weights.missing)} of the backbone's {len(own)} tensors, first "
            f"{weights.missing[0].removeprefix(BACKBONE)!r}; is it a file for another network?"
        )
    network.load_state_dict(
        {name.removeprefix(BACKBONE): tensor for name, tensor in weights.tensors.items()}
    )
    return weights
