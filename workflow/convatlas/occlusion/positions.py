"""Where the occluder goes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Positions:
    """The positions of an occluder on an image.

    Attributes
    ----------
    row : (R,) top of the occluder: multiples of the stride from 0 up to the first
        window that reaches the far border; all of them begin on the image.
    column : (C,) left of the occluder, likewise.
    size : height and width of the occluder; windows at the far border are cut there.
    image : height and width of the image.
    """

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    size: tuple[int, int]
    image: tuple[int, int]

    @classmethod
    def covering(
        cls, image: tuple[int, int], size: tuple[int, int], stride: tuple[int, int]
    ) -> Positions:
        """Return the positions that cover a whole image."""
        rows, columns = (
            np.arange(0, min(max(length - window, 0) + step, length), step)
            for length, window, step in zip(image, size, stride, strict=True)
        )
        return cls(rows, columns, size, image)

    def __len__(self) -> int:
        return len(self.row) * len(self.column)

    def boxes(self) -> NDArray[np.int64]:
        """Return every window, (R*C,4) top, left, bottom, right, row by row."""
        top, left = (grid.ravel() for grid in np.meshgrid(self.row, self.column, indexing="ij"))
        bottom = np.minimum(top + self.size[0], self.image[0])
        right = np.minimum(left + self.size[1], self.image[1])
        return np.stack([top, left, bottom, right], axis=1)
