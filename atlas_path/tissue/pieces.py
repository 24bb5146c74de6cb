"""Connected pieces of a mask, of all sizes at once: which are large, which touch something.

OpenCV labels a picture in no time; counting and choosing by label takes longer, so both go band by band.
"""

from __future__ import annotations

import cv2
import numpy as np

from atlas_path.tissue.bands import in_bands


class Pieces:
    """The connected pieces of a mask; number 0 is what lies outside it.

    Args:
        mask: (h, w) bool.
        connectivity: 4, or 8 where corners connect.
    """

    def __init__(self, mask: np.ndarray, connectivity: int) -> None:
        self.n, self.labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=connectivity)

    def areas_px(self) -> np.ndarray:
        """(n,) pixels of every piece."""
        counts: list[np.ndarray] = []

        def count(own: slice, _seen: slice, _inner: slice) -> None:
            counts.append(np.bincount(self.labels[own].ravel(), minlength=self.n))

        in_bands(len(self.labels), 0, count)
        total: np.ndarray = np.sum(counts, axis=0)
        return total

    def touching(self, mask: np.ndarray) -> np.ndarray:
        """(n,) bool: the pieces that share a pixel with `mask`."""
        touched = np.zeros(self.n, bool)

        def touch(own: slice, _seen: slice, _inner: slice) -> None:
            touched[self.labels[own][mask[own]]] = True

        in_bands(len(self.labels), 0, touch)
        return touched

    def mask_of(self, chosen: np.ndarray) -> np.ndarray:
        """(h, w) bool: the pixels of the chosen (n,) pieces."""
        mask = np.empty(self.labels.shape, bool)

        def take(own: slice, _seen: slice, _inner: slice) -> None:
            np.take(chosen, self.labels[own], out=mask[own], mode="clip")

        in_bands(len(mask), 0, take)
        return mask


def without_small(mask: np.ndarray, least_px: float) -> np.ndarray:
    """The pieces of a mask, connected at corners too, that have at least so many pixels."""
    pieces = Pieces(mask, 8)
    kept = pieces.areas_px() >= least_px
    kept[0] = False
    return pieces.mask_of(kept)
