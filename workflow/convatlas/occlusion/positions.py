"""Where the occluder goes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Ends = tuple[NDArray[np.int64], NDArray[np.int64]]  # first pixels, and ends (exclusive)


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

    def only(self, number: int) -> Positions:
        """Return one of the positions, counted row by row."""
        i, j = divmod(number, len(self.column))
        return replace(self, row=self.row[[i]], column=self.column[[j]])

    def edges(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> tuple[Ends, Ends]:
        """Return top and bottom of some rows of windows, left and right of some columns.

        Ends are exclusive and on the image.
        """
        top, left = self.row[rows], self.column[columns]
        bottom = np.minimum(top + self.size[0], self.image[0])
        right = np.minimum(left + self.size[1], self.image[1])
        return (top, bottom), (left, right)

    def boxes(self) -> NDArray[np.int64]:
        """Return every window, (R*C,4) top, left, bottom, right, row by row."""
        i, j = np.indices((len(self.row), len(self.column))).reshape(2, -1)
        (top, bottom), (left, right) = self.edges(i, j)
        return np.stack([top, left, bottom, right], axis=1)
