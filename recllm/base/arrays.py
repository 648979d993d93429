"""The types of arrays that the rooms hand to each other."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Ints32 = NDArray[np.int32]
Mask = NDArray[np.bool_]
Rows = NDArray[np.integer]
"""Numbers of rows, of any width."""
Values = NDArray[np.float64]
