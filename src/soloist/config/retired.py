"""Options of earlier versions that are constants now.

Models and runs of these versions name them: what has the constant's value is read, and passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from soloist.config import LossConfig, ModelConfig, PretrainConfig
from soloist.errors import ConfigError

RETIRED: Mapping[type[Any], Mapping[str, Any]] = {
    ModelConfig: {"center_sigma": 0.2},
    LossConfig: {"focal_alpha": 0.25, "focal_gamma": 2.0},
    PretrainConfig: {
        "projection_size": 128,
        "hidden_size": 512,
        "momentum": 0.99,
        "temperature": 0.2,
        "weight_decay": 1e-4,
    },
}
"""The constants, by the section and the name of the option."""


def is_retired(section: type[Any], name: str, value: object, *, where: str) -> bool:
    """Whether an option is a constant now.

    Args:
        section: The class of its section.
        name: The option.
        value: What is given for it.
        where: The source of the value and the option's full name, for the message.

    Raises:
        ConfigError: If it is, and the value is another than the constant.
    """
    constants = RETIRED.get(section, {})
    if name not in constants:
        return False
    if value != constants[name]:
        raise ConfigError(f"{where} is no option any more, it is always {constants[name]}")
    return True
