"""Photos and drawings as small pictures, by OpenCV. All are (H, W, 3) uint8 BGR."""

import numpy as np


def png(bgr: np.ndarray) -> bytes:
    import cv2

    return cv2.imencode(".png", bgr)[1].tobytes()


def small_jpeg(bgr: np.ndarray, side: int) -> bytes:
    """A photo as a JPEG of at most `side` pixels."""
    import cv2

    if max(bgr.shape[:2]) > side:
        bgr = scaled(bgr, side)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()


def scaled(bgr: np.ndarray, side: int) -> np.ndarray:
    """A picture scaled so that its longer side has `side` pixels."""
    import cv2

    scale = side / max(bgr.shape[:2])
    size = tuple(max(1, round(n * scale)) for n in bgr.shape[1::-1])
    return cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)


def write_text(bgr: np.ndarray, text: str, x: int, y: int) -> None:
    """Draw dark text with its lower left corner at (x, y)."""
    import cv2

    cv2.putText(bgr, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 35, 31), 1, cv2.LINE_AA)
