"""atlas-path: gigapixel medical imaging, end to end on pixels. For research use only."""

__version__ = "0.1.0"

RESEARCH_USE_ONLY = "Research use only. Not for clinical diagnosis."
