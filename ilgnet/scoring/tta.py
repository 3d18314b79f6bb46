"""Test-time augmentation: the mean probability over several views of each photo."""

import numpy as np

from ilgnet.photos.preprocess import Preprocess
from torchcaffe.base.errors import CaffeError

KINDS = {"mirror": 2, "crops": 5, "both": 10}  # --tta: how many views a photo


class Views:
    """A Preprocess that gives all views of a photo, (views, 3, h, w): the centre, then the corners (as AlexNet's
    authors tested), then all of them mirrored. As in Caffe's transformer, mirroring leaves the mean in place.

    CaffeError for crops with a preset that warps to the net's input."""

    def __init__(self, spec: Preprocess, kind: str):
        if kind not in KINDS:
            raise CaffeError(f"--tta {kind}: choose one of {', '.join(KINDS)}")
        self.spec, self.kind = spec, kind
        height, width = (w - s for w, s in zip(spec.warp, spec.size))
        if kind != "mirror" and not (height or width):
            raise CaffeError(
                f"--tta {kind}: preset {spec.preset} warps to the net's input {spec.size[0]} x "
                f"{spec.size[1]}: nothing is left to crop; take --tta mirror"
            )
        self._offsets = [(height // 2, width // 2)]
        if kind != "mirror":
            self._offsets += [(0, 0), (0, width), (height, 0), (height, width)]

    def warped(self, chw: np.ndarray) -> np.ndarray:
        """The views of an LMDB's record, (3, warp)."""
        if chw.shape == (3, *self.spec.warp):
            views = [self.spec.crop(chw, *offset) for offset in self._offsets]
        else:
            views = [self.spec.warped(chw)]  # raises, or warps (preset direct)
        if self.kind != "crops":
            views += [view[:, :, ::-1] for view in views]
        return np.stack(views)

    def photo(self, bgr: np.ndarray) -> np.ndarray:
        """The views of a photo, (H, W, 3) uint8 BGR."""
        return self.warped(self.spec.resized(bgr))
