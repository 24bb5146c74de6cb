"""Atlas: multi-scale attention on whole gigapixel images, end to end on pixels."""

from atlas.attention import Runtime
from atlas.batch import AtlasOutput, WindowBatch
from atlas.config import AtlasConfig, preset
from atlas.files import load_model, save_model
from atlas.model import Atlas
from atlas.reference import load_reference

__all__ = [
    "Atlas", "AtlasConfig", "AtlasOutput", "Runtime", "WindowBatch", "load_model", "load_reference", "preset",
    "save_model",
]  # fmt: skip
