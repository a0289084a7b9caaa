import numpy as np
from numpy.typing import NDArray

def best_arms(
    standard: NDArray[np.float32],
    common: NDArray[np.float32],
    mean: NDArray[np.float32],
    spread: NDArray[np.float32],
    loading: NDArray[np.float32],
    optimistic: bool,
    shrunk: float,
    winners: NDArray[np.intp],
) -> None: ...
