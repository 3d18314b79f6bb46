"""Pooling and SPP."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torchcaffe.base.errors import CaffeError
from torchcaffe.core.blob import Blob, Blobs
from torchcaffe.core.layer import layer
from torchcaffe.ops.common import FLT_MAX, FirstLearns, check_image, check_positive
from torchcaffe.ops.conv import windows
from torchcaffe.proto import caffe_pb2
from torchcaffe.proto.geometry import Window, pyramid_window, read_window
from torchcaffe.random import streams

MAX, AVE, STOCHASTIC = (getattr(caffe_pb2.PoolingParameter, m) for m in ("MAX", "AVE", "STOCHASTIC"))


@layer(bottoms=1, tops=(1, 2))
class Pooling(FirstLearns):
    """MAX, AVE or STOCHASTIC pooling of (N, C, H, W). The output size rounds up (round_mode FLOOR: down).

    AVE divides by the window clipped to the padded image. MAX's second top is the index of each maximum in its plane.
    STOCHASTIC is defined by BVLC's GPU code: in TRAIN it draws a value with a probability in proportion to the value,
    in TEST it gives the mean weighted by the values.

    As in BVLC, MAX starts from -FLT_MAX: NaN and -infinity never win, and a window of nothing else gives -FLT_MAX and
    the index -1. Such a window gets no gradient (BVLC writes it outside of the plane)."""

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        p = self.p
        check_image(bottom[0])
        self.kernel, self.stride, self.pad, _ = read_window(p)
        self.global_pooling = p.global_pooling
        if p.global_pooling and (self.pad != (0, 0) or self.stride != (1, 1)):
            raise CaffeError("pad and stride must be 0 and 1 with global_pooling")
        if any(self.pad):
            if p.pool == STOCHASTIC:
                raise CaffeError("pad: not for STOCHASTIC pooling")
            if any(pad >= kernel for pad, kernel in zip(self.pad, self.kernel)):
                raise CaffeError(f"pad: {self.pad} must be smaller than the kernel {self.kernel}")
        if len(top) > 1 and p.pool != MAX:
            raise CaffeError("top 1: only MAX pooling has a mask")
        self.recordable = p.pool != STOCHASTIC or self.phase != caffe_pb2.TRAIN

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        check_image(bottom[0])
        sizes = bottom[0].shape[2:]
        if self.global_pooling:
            self.kernel = sizes
        divide = math.floor if self.p.round_mode == caffe_pb2.PoolingParameter.FLOOR else math.ceil
        out = []
        for i, size in enumerate(sizes):
            count = int(divide((size + 2 * self.pad[i] - self.kernel[i]) / self.stride[i])) + 1
            # BVLC drops a last window that starts in the far padding, but only if either axis is padded.
            if any(self.pad) and (count - 1) * self.stride[i] >= size + self.pad[i]:
                count -= 1
            out.append(count)
        if min(out) < 1:
            raise CaffeError(f"bottom 0: {bottom[0].shape} is smaller than the kernel {self.kernel}")
        self.out = tuple(out)
        shape = (*bottom[0].shape[:2], *out)
        self.check_in_place(bottom[0], top[0], shape)
        for blob in top:
            blob.reshape(*shape)
        # torch's ceil mode has the same windows unless one lies outside the image or the padding is wide.
        self.native = all(
            self.pad[i] <= self.kernel[i] // 2
            and (out[i] - 1) * self.stride[i] < sizes[i] + self.pad[i]
            and out[i] == _torch_size(sizes[i], self.kernel[i], self.stride[i], self.pad[i])
            for i in range(2)
        )

    def compute(self, x: Tensor) -> Tensor:
        """The definition: by windows cut out of the padded image."""
        if self.p.pool == MAX:
            return self._search(x)[0].squeeze(-1)
        values = self._windows(x)
        if self.p.pool == AVE:
            lengths = []
            for i in range(2):
                start = torch.arange(self.out[i], device=x.device) * self.stride[i] - self.pad[i]
                lengths.append((start + self.kernel[i]).clamp(max=x.shape[2 + i] + self.pad[i]) - start)
            return values.sum(-1) / (lengths[0][:, None] * lengths[1]).to(x.dtype)
        if self.phase == caffe_pb2.TRAIN:
            return values.gather(-1, self._chosen).squeeze(-1)
        total = values.sum(-1)
        return torch.where(total > 0, (values * values).sum(-1) / total.clamp_min(1e-38), torch.zeros_like(total))

    def _windows(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, out h, out w, kernel h * kernel w): the values of each window, 0 outside the image."""
        return windows(x, Window(self.kernel, self.stride, self.pad, (1, 1)), self.out).flatten(-2)

    def _search(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """MAX by windows: the greatest value of each, and the first one's place in it, both (..., 1)."""
        inside = self._windows(torch.ones_like(x[:1, :1])) > 0
        candidates = self._windows(x.detach()).masked_fill(~inside, -FLT_MAX)
        return _from_the_lowest(candidates).max(-1, keepdim=True)

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        x = bottom[0].t
        if bottom[0] is top[0] and self.p.pool != STOCHASTIC:
            # BVLC clears the top before it reads the bottom, which is the same memory.
            for blob, value in zip(top, (-FLT_MAX if self.p.pool == MAX else 0.0, -1.0)):
                blob.t = torch.full_like(x, value)
            return
        if self.p.pool == STOCHASTIC and self.phase == caffe_pb2.TRAIN:
            self._draw(x)
        if self.native and self.p.pool == MAX:
            top[0].t = self._native_max(x)
            if len(top) > 1:
                index = self._indices if self._empty is None else self._indices.masked_fill(self._empty, -1)
                top[1].t = index.to(x.dtype)
        elif self.native and self.p.pool == AVE:
            top[0].t = F.avg_pool2d(x, self.kernel, self.stride, self.pad, True)
        else:
            top[0].t = self.compute(x)
            if len(top) > 1:
                top[1].t = self._mask(x)

    def _native_max(self, x: Tensor) -> Tensor:
        def pool(x: Tensor) -> tuple[Tensor, Tensor]:
            return torch.ops.aten.max_pool2d_with_indices(x, self.kernel, self.stride, self.pad, (1, 1), True)

        self._empty: Any = None  # which windows have no maximum
        if x.device.type == "cpu":
            y, self._indices = pool(x)
            # torch lets NaN and -infinity through, so the output shows whether there are any.
            if not y.numel() or y.amin() > -FLT_MAX:
                return y
        y, self._indices = pool(_from_the_lowest(x))
        self._empty = y == -FLT_MAX
        return y

    def _draw(self, x: Tensor) -> None:
        cumulated = self._windows(x).cumsum(-1)
        total = cumulated[..., -1]
        threshold = torch.from_numpy(streams.rng().uniform(total.numel(), 0.0, 1.0)).to(x.device).view_as(total) * total
        reached = cumulated >= threshold.unsqueeze(-1)
        self._chosen = reached.int().argmax(-1, keepdim=True)

    def _mask(self, x: Tensor) -> Tensor:
        index = torch.arange(x.shape[2] * x.shape[3], device=x.device, dtype=x.dtype).view(1, 1, *x.shape[2:])
        greatest, best = self._search(x)
        places = self._windows(index).expand(*best.shape[:-1], -1).gather(-1, best)
        return places.masked_fill(greatest == -FLT_MAX, -1).squeeze(-1)

    def gradient(self, top: Blobs, bottom: Blobs) -> Tensor:
        x, g = bottom[0].t, top[0].g
        if bottom[0] is top[0] and self.p.pool != STOCHASTIC:
            return torch.zeros_like(x)
        if self.native and self.p.pool == MAX:
            if self._indices is None:
                self._native_max(x)
            g = g if self._empty is None else g.masked_fill(self._empty, 0)
            down = torch.ops.aten.max_pool2d_with_indices_backward(
                g, x, self.kernel, self.stride, self.pad, (1, 1), True, self._indices
            )
            if not self.recorded:
                self._indices = None  # they are large, and rarely needed twice
            return down
        if self.native and self.p.pool == AVE:
            return torch.ops.aten.avg_pool2d_backward(g, x, self.kernel, self.stride, self.pad, True, True, None)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            if self.p.pool == MAX:
                # The first maximum gets it all (amax would share it among equals).
                greatest, best = self._search(x)
                y = self._windows(x).gather(-1, best)
                g = g.unsqueeze(-1).masked_fill(greatest == -FLT_MAX, 0)
            else:
                y = self.compute(x)
            return torch.autograd.grad(y, x, g)[0]


@layer(bottoms=1, tops=1)
class SPP(FirstLearns):
    """Spatial pyramid pooling: (N, C, H, W) -> (N, C * bins of all levels), whatever H and W are.

    pyramid_height levels pool the image into 1 x 1, 2 x 2, 4 x 4, ... bins; they are flattened and concatenated."""

    allows_in_place = False

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        check_positive(self.p, "pyramid_height")

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        check_image(bottom[0])
        self._levels: list[tuple[Pooling, Blob]] = []
        for level in range(self.p.pyramid_height):
            param = caffe_pb2.LayerParameter(type="Pooling", phase=self.phase)
            pooling, window = param.pooling_param, pyramid_window(bottom[0].shape[2:], 2**level)
            pooling.pool = self.p.pool
            pooling.kernel_h, pooling.kernel_w = pooling.stride_h, pooling.stride_w = window.kernel
            pooling.pad_h, pooling.pad_w = window.pad
            pool, pooled = Pooling(param, self.device), Blob(device=self.device)
            pool.setup(bottom, [pooled])
            pool.reshape(bottom, [pooled])
            self._levels.append((pool, pooled))
        self._sizes = [blob.count // blob.shape[0] for _, blob in self._levels]
        # BVLC does not flatten a single level: (N, C, 1, 1).
        single = len(self._levels) == 1
        top[0].reshape(*(self._levels[0][1].shape if single else (bottom[0].shape[0], sum(self._sizes))))

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        for pool, pooled in self._levels:
            pool.forward(bottom, [pooled])
        top[0].t = torch.cat([pooled.t.flatten(1) for _, pooled in self._levels], 1).view(top[0].shape)

    def gradient(self, top: Blobs, bottom: Blobs) -> Tensor:
        image = Blob(*bottom[0].shape, device=self.device)  # holds one level's gradient at a time
        image.share_data(bottom[0])
        gradients = []
        for (pool, pooled), part in zip(self._levels, top[0].g.flatten(1).split(self._sizes, 1)):
            pooled.g = part.reshape(pooled.shape)
            pool.backward([pooled], [True], [image])
            gradients.append(image.g)
        return sum(gradients[1:], start=gradients[0])


def _from_the_lowest(x: Tensor) -> Tensor:
    """x with -FLT_MAX, where BVLC's search for a maximum starts, in place of NaN and -infinity."""
    return x.nan_to_num(nan=-FLT_MAX, posinf=math.inf, neginf=-FLT_MAX)


def _torch_size(size: int, kernel: int, stride: int, pad: int) -> int:
    """torch's own output size in ceil mode."""
    count = -((size + 2 * pad - kernel) // -stride) + 1
    return count - 1 if (count - 1) * stride >= size + pad else count
