"""Pooling and SPP."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from torchcaffe.base.errors import CaffeError
from torchcaffe.core.blob import Blob
from torchcaffe.core.layer import Layer, layer
from torchcaffe.proto import caffe_pb2
from torchcaffe.random import streams

FLT_MAX = torch.finfo(torch.float32).max
MAX, AVE, STOCHASTIC = (getattr(caffe_pb2.PoolingParameter, m) for m in ("MAX", "AVE", "STOCHASTIC"))


@layer(bottoms=1, tops=(1, 2))
class Pooling(Layer):
    """MAX, AVE or STOCHASTIC pooling of (N, C, H, W). The output size rounds up (round_mode FLOOR: down).

    AVE divides by the window clipped to the padded image; MAX's second top is the index of each maximum in its
    plane. STOCHASTIC is defined by BVLC's GPU code: in TRAIN a value drawn with a probability in proportion to the
    value, in TEST the mean weighted by the values.

    A maximum is sought from -FLT_MAX up, as in BVLC: NaN and -infinity never win, and a window of nothing else gives
    -FLT_MAX and the index -1. It gets no gradient (BVLC adds it outside of the plane)."""

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.p
        if len(bottom[0].shape) != 4:
            raise CaffeError(f"bottom 0: has {len(bottom[0].shape)} axes, 4 expected (num, channels, height, width)")
        self.global_pooling = p.global_pooling
        if p.global_pooling:
            if p.HasField("kernel_size") or p.HasField("kernel_h") or p.HasField("kernel_w"):
                raise CaffeError("kernel_size: cannot be given with global_pooling")
            self.kernel = None
        else:
            self.kernel = _pair(p, "kernel", "kernel_size", None)
            if min(self.kernel) < 1:
                raise CaffeError(f"kernel_size: {self.kernel} must be 1 or more")
        self.pad = _pair(p, "pad", "pad", 0)
        self.stride = _pair(p, "stride", "stride", 1)
        if min(self.stride) < 1:
            raise CaffeError(f"stride: {self.stride} must be 1 or more")
        if p.global_pooling and (self.pad != (0, 0) or self.stride != (1, 1)):
            raise CaffeError("pad and stride must be 0 and 1 with global_pooling")
        if self.pad != (0, 0):
            if p.pool == STOCHASTIC:
                raise CaffeError("pad: not for STOCHASTIC pooling")
            if any(pad >= kernel for pad, kernel in zip(self.pad, self.kernel)):
                raise CaffeError(f"pad: {self.pad} must be smaller than the kernel {self.kernel}")
        if len(top) > 1 and p.pool != MAX:
            raise CaffeError("top 1: only MAX pooling has a mask")
        self.recordable = p.pool != STOCHASTIC or self.phase != caffe_pb2.TRAIN

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        if len(bottom[0].shape) != 4:
            raise CaffeError(f"bottom 0: has {len(bottom[0].shape)} axes, 4 expected (num, channels, height, width)")
        sizes = bottom[0].shape[2:]
        if self.global_pooling:
            self.kernel = sizes
        divide = math.floor if self.p.round_mode == caffe_pb2.PoolingParameter.FLOOR else math.ceil
        out = []
        for i, size in enumerate(sizes):
            count = int(divide((size + 2 * self.pad[i] - self.kernel[i]) / self.stride[i])) + 1
            # Only with padding does BVLC drop a last window that starts in the far padding; it tests either axis' pad.
            if any(self.pad) and (count - 1) * self.stride[i] >= size + self.pad[i]:
                count -= 1
            out.append(count)
        if min(out) < 1:
            raise CaffeError(f"bottom 0: {bottom[0].shape} is smaller than the kernel {self.kernel}")
        self.out = tuple(out)
        self.check_in_place(bottom[0], top[0], (*bottom[0].shape[:2], *out))
        for blob in top:
            blob.reshape(*bottom[0].shape[:2], *out)
        # torch's ceil mode makes the same windows, unless one lies outside the image or the padding is wide.
        self.native = all(
            self.pad[i] <= self.kernel[i] // 2
            and (out[i] - 1) * self.stride[i] < sizes[i] + self.pad[i]
            and out[i] == _torch_size(sizes[i], self.kernel[i], self.stride[i], self.pad[i])
            for i in range(2)
        )

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        """The definition, by windows cut out of the explicitly padded image."""
        windows, inside, area = self._windows(x)
        if self.p.pool == MAX:
            return _from_the_lowest(windows.masked_fill(~inside, -FLT_MAX)).amax(-1)
        if self.p.pool == AVE:
            return windows.sum(-1) / area
        if self.phase == caffe_pb2.TRAIN:
            return windows.gather(-1, self._chosen).squeeze(-1)
        total = windows.sum(-1)
        return torch.where(total > 0, (windows * windows).sum(-1) / total.clamp_min(1e-38), torch.zeros_like(total))

    def _windows(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(N, C, out h, out w, kernel h * kernel w) values, which of them lie in the image, and AVE's divisors."""
        need = [(self.out[i] - 1) * self.stride[i] + self.kernel[i] for i in range(2)]
        far = [max(0, need[i] - x.shape[2 + i] - self.pad[i]) for i in range(2)]
        padding = (self.pad[1], far[1], self.pad[0], far[0])

        def cut(image: torch.Tensor) -> torch.Tensor:
            padded = F.pad(image, padding)
            rows = padded.unfold(2, self.kernel[0], self.stride[0])[:, :, : self.out[0]]
            return rows.unfold(3, self.kernel[1], self.stride[1])[:, :, :, : self.out[1]].flatten(-2)

        inside = cut(torch.ones_like(x[:1, :1])) > 0
        lengths = []
        for i in range(2):
            start = torch.arange(self.out[i], device=x.device) * self.stride[i] - self.pad[i]
            lengths.append((start + self.kernel[i]).clamp(max=x.shape[2 + i] + self.pad[i]) - start)
        return cut(x), inside, (lengths[0][:, None] * lengths[1]).to(x.dtype)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        x = bottom[0].t
        if bottom[0] is top[0] and self.p.pool != STOCHASTIC:
            # BVLC clears the top before it looks at the bottom, which is the same memory.
            for blob, value in zip(top, (-FLT_MAX if self.p.pool == MAX else 0.0, -1.0)):
                blob.t = torch.full_like(x, value)
            return
        if self.p.pool == STOCHASTIC and self.phase == caffe_pb2.TRAIN:
            self._draw(x)
        if self.native and self.p.pool == MAX:
            top[0].t = self._native_max(x)
            if len(top) > 1:
                index = self._indices if self._nothing is None else self._indices.masked_fill(self._nothing, -1)
                top[1].t = index.to(x.dtype)
        elif self.native and self.p.pool == AVE:
            top[0].t = torch.ops.aten.avg_pool2d(x, self.kernel, self.stride, self.pad, True, True, None)
        else:
            top[0].t = self.compute(x)
            if len(top) > 1:
                top[1].t = self._mask(x)

    def _native_max(self, x: torch.Tensor) -> torch.Tensor:
        def pool(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.ops.aten.max_pool2d_with_indices(x, self.kernel, self.stride, self.pad, (1, 1), True)

        self._nothing = None  # which windows have no maximum
        if x.device.type == "cpu":
            y, self._indices = pool(x)
            # torch lets NaN and -infinity through, so that the output tells of them.
            if not y.numel() or y.amin() > -FLT_MAX:
                return y
        y, self._indices = pool(_from_the_lowest(x))
        self._nothing = y == -FLT_MAX
        return y

    def _draw(self, x: torch.Tensor) -> None:
        windows, _, _ = self._windows(x)
        uniform = torch.from_numpy(streams.rng().uniform(windows[..., 0].numel(), 0.0, 1.0)).to(x.device)
        cumulated = windows.cumsum(-1)
        threshold = uniform.view(windows.shape[:-1]) * cumulated[..., -1]
        reached = cumulated >= threshold.unsqueeze(-1)
        self._chosen = reached.int().argmax(-1, keepdim=True)

    def _mask(self, x: torch.Tensor) -> torch.Tensor:
        index = torch.arange(x.shape[2] * x.shape[3], device=x.device, dtype=x.dtype).view(1, 1, *x.shape[2:])
        windows, inside, _ = self._windows(x)
        values = _from_the_lowest(windows.masked_fill(~inside, -FLT_MAX))
        best = values.argmax(-1, keepdim=True)
        places = self._windows(index)[0].expand_as(windows).gather(-1, best).squeeze(-1)
        return places.masked_fill(values.amax(-1) == -FLT_MAX, -1)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if not propagate_down[0]:
            return
        x, g = bottom[0].t, top[0].g
        if bottom[0] is top[0] and self.p.pool != STOCHASTIC:
            bottom[0].g = torch.zeros_like(x)
            return
        if self.native and self.p.pool == MAX:
            if self._indices is None:
                self._native_max(x)
            g = g if self._nothing is None else g.masked_fill(self._nothing, 0)
            bottom[0].g = torch.ops.aten.max_pool2d_with_indices_backward(
                g, x, self.kernel, self.stride, self.pad, (1, 1), True, self._indices
            )
            if not self.recorded:
                self._indices = None  # they are large, and seldom asked for twice
        elif self.native and self.p.pool == AVE:
            bottom[0].g = torch.ops.aten.avg_pool2d_backward(g, x, self.kernel, self.stride, self.pad, True, True, None)
        else:
            bottom[0].g = self._backward_by_windows(x, g)

    def _backward_by_windows(self, x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            windows, inside, area = self._windows(x)
            if self.p.pool == MAX:
                # The first maximum gets it all (amax would share it among equals).
                values = _from_the_lowest(windows.detach().masked_fill(~inside, -FLT_MAX))
                y = windows.gather(-1, values.argmax(-1, keepdim=True)).squeeze(-1)
                g = g.masked_fill(values.amax(-1) == -FLT_MAX, 0)
            elif self.p.pool == AVE:
                y = windows.sum(-1) / area
            else:
                y = self.compute(x)
            return torch.autograd.grad(y, x, g)[0]


@layer(bottoms=1, tops=1)
class SPP(Layer):
    """Spatial pyramid pooling: the image pooled into 1 x 1, 2 x 2, 4 x 4, ... bins (pyramid_height levels), each level
    flattened, one after the other: (N, C, H, W) -> (N, C * bins of all levels), whatever H and W are."""

    allows_in_place = False

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        if self.p.pyramid_height < 1:
            raise CaffeError(f"pyramid_height: {self.p.pyramid_height} must be 1 or more")

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        if len(bottom[0].shape) != 4:
            raise CaffeError(f"bottom 0: has {len(bottom[0].shape)} axes, 4 expected (num, channels, height, width)")
        self._levels: list[tuple[Pooling, Blob]] = []
        for level in range(self.p.pyramid_height):
            param = caffe_pb2.LayerParameter(type="Pooling", phase=self.phase)
            pooling, bins = param.pooling_param, 2**level
            pooling.pool = self.p.pool
            kernels = [math.ceil(size / bins) for size in bottom[0].shape[2:]]
            # Bins reach past the image by less than one a bin, half of it on the near side, rounded up.
            pads = [(kernel * bins - size + 1) // 2 for kernel, size in zip(kernels, bottom[0].shape[2:])]
            pooling.kernel_h, pooling.kernel_w = pooling.stride_h, pooling.stride_w = kernels
            pooling.pad_h, pooling.pad_w = pads
            pool, pooled = Pooling(param, self.device), Blob(device=self.device)
            pool.setup(bottom, [pooled])
            pool.reshape(bottom, [pooled])
            self._levels.append((pool, pooled))
        self._sizes = [blob.count // blob.shape[0] for _, blob in self._levels]
        # BVLC does not flatten a single level: (N, C, 1, 1).
        single = len(self._levels) == 1
        top[0].reshape(*(self._levels[0][1].shape if single else (bottom[0].shape[0], sum(self._sizes))))

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        for pool, pooled in self._levels:
            pool.forward(bottom, [pooled])
        top[0].t = torch.cat([pooled.t.flatten(1) for _, pooled in self._levels], 1).view(top[0].shape)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if not propagate_down[0]:
            return
        image = Blob(*bottom[0].shape, device=self.device)  # takes a level's gradient at a time
        image.share_data(bottom[0])
        gradients = []
        for (pool, pooled), part in zip(self._levels, top[0].g.flatten(1).split(self._sizes, 1)):
            pooled.g = part.reshape(pooled.shape)
            pool.backward([pooled], [True], [image])
            gradients.append(image.g)
        bottom[0].g = sum(gradients[1:], start=gradients[0])


def _from_the_lowest(x: torch.Tensor) -> torch.Tensor:
    """x with NaN and -infinity at -FLT_MAX, from where BVLC seeks a maximum."""
    return x.nan_to_num(nan=-FLT_MAX, posinf=math.inf, neginf=-FLT_MAX)


def _pair(p: caffe_pb2.PoolingParameter, short: str, field: str, default: int | None) -> tuple[int, int]:
    """height and width of a size: FIELD for both, or SHORT_h and SHORT_w."""
    given = p.HasField(f"{short}_h"), p.HasField(f"{short}_w")
    if field == "kernel_size" and p.HasField(field) and not all(given):
        return (p.kernel_size,) * 2  # a lone kernel_h or kernel_w is overlooked
    if p.HasField(field) and any(given):
        raise CaffeError(f"{field}: give either {field} or {short}_h and {short}_w, not both")
    if any(given):
        if not all(given):
            raise CaffeError(f"{short}_h and {short}_w: give both")
        return getattr(p, f"{short}_h"), getattr(p, f"{short}_w")
    if not p.HasField(field) and default is None:
        raise CaffeError(f"{field}: missing")
    return (getattr(p, field),) * 2


def _torch_size(size: int, kernel: int, stride: int, pad: int) -> int:
    """torch's own output size in ceil mode."""
    count = -((size + 2 * pad - kernel) // -stride) + 1
    return count - 1 if (count - 1) * stride >= size + pad else count
