"""From a photo (or an LMDB's record) to a net's input, for evaluation, scoring and calibration alike.

Two presets are ILGNet's authors': `lmdb` warps to 256 x 256, subtracts the training set's mean image and crops the
centre, as training and testing do; `direct` warps to the net's input and subtracts one mean per channel. `nima` is that
of NIMA's published program: Pillow's nearest pixel, less 127.5."""

from dataclasses import dataclass, field

import numpy as np

from ilgnet.nets.variants import VARIANTS
from ilgnet.photos import decode
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import blobproto, npy
from torchcaffe.formats.files import PathLike

PRESETS = ("lmdb", "direct", "nima")
WARP = 256  # the side that `ilgnet prepare` (and the authors' convert_imageset) warps photos to
# The mean of ImageNet's channels (B, G, R) that GoogLeNet's weights were trained with: `direct` without a mean file.
GOOGLENET_MEAN = (104.0, 117.0, 123.0)


@dataclass(frozen=True)
class Preprocess:
    """Warp a photo to `warp` (height, width), subtract `mean` (C, H, W), crop the centre to `size`."""

    preset: str
    warp: tuple[int, int]
    size: tuple[int, int]
    mean: np.ndarray = field(repr=False, compare=False)

    def photo(self, bgr: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8, BGR -> (3, size) float32."""
        return self.warped(self.resized(bgr))

    def resized(self, bgr: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8, BGR -> (3, warp) uint8."""
        import cv2
        from PIL import Image

        if self.preset == "nima":  # OpenCV's INTER_NEAREST_EXACT takes other pixels than Pillow at some sizes
            bgr = np.asarray(Image.fromarray(bgr).resize(self.warp[::-1], Image.Resampling.NEAREST))
        elif bgr.shape[:2] != self.warp:
            bgr = cv2.resize(bgr, self.warp[::-1], interpolation=cv2.INTER_LINEAR)
        return bgr.transpose(2, 0, 1)

    def warped(self, chw: np.ndarray) -> np.ndarray:
        """(3, warp) -> (3, size) float32, as Caffe's data transformer does in the TEST phase: an LMDB's record."""
        if self.preset != "lmdb" and chw.shape[1:] != self.warp:
            return self.photo(np.ascontiguousarray(chw.transpose(1, 2, 0)))
        if chw.shape != (3, *self.warp):
            raise CaffeError(f"photo of shape {chw.shape}; preset {self.preset} takes {(3, *self.warp)}")
        return self.crop(chw, (self.warp[0] - self.size[0]) // 2, (self.warp[1] - self.size[1]) // 2)

    def crop(self, chw: np.ndarray, top: int, left: int) -> np.ndarray:
        """A crop of a warped photo, less the mean there."""
        cut = (slice(None), slice(top, top + self.size[0]), slice(left, left + self.size[1]))
        return chw[cut].astype(np.float32) - np.broadcast_to(self.mean, chw.shape)[cut]

    def describe(self) -> dict[str, object]:
        """For reports."""
        return {
            "preset": self.preset,
            "warp": list(self.warp),
            "crop": list(self.size),
            "channel_mean_bgr": self.mean.mean(axis=(1, 2), dtype=np.float64).tolist(),
        }


def read_mean(path: PathLike) -> np.ndarray:
    """A mean as (3, H, W) or (3, 1, 1) float32, from .binaryproto or .npy."""
    if str(path).endswith(".npy"):
        mean = npy.read_npy(path)
        if mean.dtype.kind not in "fiu":
            raise CaffeError(f"{path}: holds {mean.dtype}, not numbers")
    else:
        mean = blobproto.read_blobproto(path)
    mean = np.array(mean, dtype=np.float32)
    while mean.ndim > 3 and mean.shape[0] == 1:
        mean = mean[0]
    if mean.ndim == 1:
        mean = mean[:, None, None]
    if mean.ndim != 3 or mean.shape[0] != 3:
        raise CaffeError(f"{path}: a mean of shape {mean.shape}; expected 3 x H x W")
    return mean


def make(preset: str | None, mean: PathLike | None, size: tuple[int, int]) -> Preprocess:
    """The preset for a net whose input is `size` (height, width). Without a preset: lmdb if there is a mean file, else
    direct. CaffeError when lmdb lacks its mean file, or the mean is not as large as the warp."""
    preset = preset or ("lmdb" if mean is not None else "direct")
    if preset in ("direct", "nima"):
        usual = np.array(GOOGLENET_MEAN if preset == "direct" else VARIANTS["nima"].mean_values)
        per_channel = read_mean(mean).mean(axis=(1, 2)) if mean is not None else usual
        return Preprocess(preset, size, size, per_channel.reshape(3, 1, 1).astype(np.float32))
    if preset != "lmdb":
        raise CaffeError(f"preset '{preset}': choose one of {', '.join(PRESETS)}")
    if mean is None:
        raise CaffeError("preset lmdb subtracts the training set's mean: give its mean.binaryproto (--mean)")
    if max(size) > WARP:
        raise CaffeError(f"the net's input is {size[0]} x {size[1]}, larger than preset lmdb's {WARP} x {WARP}")
    array = read_mean(mean)
    if array.shape[1:] not in ((WARP, WARP), (1, 1)):
        raise CaffeError(f"{mean}: a mean of {array.shape[1]} x {array.shape[2]}; preset lmdb takes {WARP} x {WARP}")
    return Preprocess(preset, (WARP, WARP), size, array)


def read_photo(path: PathLike) -> np.ndarray:
    """A photo as (H, W, 3) uint8, BGR, turned as its EXIF tag says. CaffeError when it is missing or broken."""
    return decode.read(path).bgr
