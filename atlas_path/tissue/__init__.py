"""Where tissue is: found on a small picture, measured per window, edited by people as GeoJSON."""

from __future__ import annotations

from atlas_path.tissue.find import find_tissue
from atlas_path.tissue.geojson import mask_from_geojson, tissue_geojson
from atlas_path.tissue.mask import TissueMask, TissueParams, window_fractions

__all__ = [
    "TissueMask",
    "TissueParams",
    "find_tissue",
    "mask_from_geojson",
    "tissue_geojson",
    "window_fractions",
]
