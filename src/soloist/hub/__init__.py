"""The Hugging Face hub: references to files there, pinned public weights, checked downloads."""

from soloist.hub.download import fetch, fetch_model
from soloist.hub.published import PUBLISHED, Published, backbone_choice
from soloist.hub.reference import PREFIX, HubReference, model_reference

__all__ = [
    "PREFIX",
    "PUBLISHED",
    "HubReference",
    "Published",
    "backbone_choice",
    "fetch",
    "fetch_model",
    "model_reference",
]
