"""InnerProduct and Embed."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from torchcaffe.base.errors import CaffeError
from torchcaffe.core import private_torch
from torchcaffe.core.blob import Blob, canonical_axis
from torchcaffe.core.layer import Layer, TorchLayer, layer
from torchcaffe.ops.conv import product_in_place, warn_of_product_in_place


def _to_bfloat16(weight: torch.Tensor) -> tuple[torch.Tensor, None]:
    return weight.to(torch.bfloat16).contiguous(), None


def _to_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(outputs, inputs) as int8 with a scale a row: its greatest magnitude is 127. Zeros fill the rows up to a multiple
    of 64: torch's product reads whole vectors, also past the end."""
    outputs, inputs = weight.shape
    rounded, scale = torch.zeros(outputs, inputs + -inputs % 64, dtype=torch.int8), weight.new_empty(outputs)
    for i, row in enumerate(weight):  # row by row, as the temporaries would be as large as the weights
        scale[i] = row.abs().max() / 127
        rounded[i, :inputs] = (row / scale[i]).nan_to_num_(0.0).round_()
    return rounded, scale


# At test time reading the weights of large inner products takes the time. Keys: context.ROUNDED.
_ROUND: dict[str | None, Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]] = {
    "bf16": _to_bfloat16,
    "int8": _to_int8,
}


@layer(bottoms=1, tops=1)
class InnerProduct(Layer):
    """y = x W' + b on everything behind `axis` as one vector; W is (outputs, inputs), or its mirror (`transpose`)."""

    precision: str | None = None  # what forward keeps the weight in, one of context.ROUNDED; None: as it is
    _reduced: tuple[torch.Tensor, torch.Tensor | None] | None = None
    _reduced_of: tuple[str | None, tuple[int, int, int] | None] = None, None

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.p
        if p.num_output < 1:
            raise CaffeError(f"num_output: {p.num_output} must be 1 or more")
        if bottom[0] is top[0]:
            warn_of_product_in_place(self)
        self.axis = canonical_axis(p.axis, len(bottom[0].shape))
        self.inputs = math.prod(bottom[0].shape[self.axis :])
        self.matrix = (self.inputs, p.num_output) if p.transpose else (p.num_output, self.inputs)
        shapes = [self.matrix, *([(p.num_output,)] if p.bias_term else [])]
        if self.blobs:
            self.check_given_blobs(*shapes)
        else:
            for shape, filler in zip(shapes, (p.weight_filler, p.bias_filler)):
                self.add_blob(shape, filler)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape = bottom[0].shape
        if math.prod(shape[self.axis :]) != self.inputs:
            raise CaffeError(
                f"bottom 0: {math.prod(shape[self.axis :])} values behind axis {self.axis}, {self.inputs} expected "
                f"(input size incompatible with the weights)"
            )
        self.check_in_place(bottom[0], top[0], (*shape[: self.axis], self.p.num_output))
        top[0].reshape(*shape[: self.axis], self.p.num_output)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        if bottom[0] is top[0]:
            product_in_place(top[0], self.blobs[1].t.view(-1) if len(self.blobs) > 1 else None)
            return
        x, w = bottom[0].t.reshape(-1, self.inputs), self.blobs[0].t.view(self.matrix)
        w = w if self.p.transpose else w.t()
        if self.precision is not None:
            y = self._rounded_product(x, w)
        elif w.device.type == "cpu" and not self.p.transpose and len(x) > 2:
            y = (w.t() @ x.t()).t().contiguous()  # MKL reads the weights up to twice as fast this way round
        else:
            y = x @ w
        if len(self.blobs) > 1:
            y.add_(self.blobs[1].t.view(-1))
        top[0].t = y.view(top[0].shape)

    def _rounded_product(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """x (N, inputs) times w (inputs, outputs), w rounded to `precision` and x to bfloat16."""
        stamp = self.precision, self.blobs[0].data_memory.stamp()
        if stamp[1] is None or stamp != self._reduced_of:
            self._reduced, self._reduced_of = _ROUND[self.precision](w.t()), stamp
        rounded, scale = self._reduced
        if scale is None:
            return F.linear(x.bfloat16(), rounded).float()
        x = F.pad(x.bfloat16(), (0, rounded.shape[1] - self.inputs))
        return private_torch.int8_product(x, rounded).float().mul_(scale)  # the kernel would round the scales, too

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        g = top[0].g.reshape(-1, self.p.num_output)
        weight = self.blobs[0]
        if self.param_propagate_down[0]:
            x = bottom[0].t.reshape(-1, self.inputs)
            # Straight into the diff's memory: these matrices hold nearly all of a net's weights.
            if self.p.transpose:
                weight.accumulate_product(x.t(), g)
            else:
                weight.accumulate_product(g.t(), x)
        if len(self.blobs) > 1 and self.param_propagate_down[1]:
            self.blobs[1].accumulate(g.sum(0).view(self.blobs[1].shape))
        if propagate_down[0]:
            if bottom[0] is top[0]:
                bottom[0].g = torch.zeros_like(bottom[0].t)
                return
            w = weight.t.view(self.matrix)
            bottom[0].g = (g @ (w.t() if self.p.transpose else w)).view(bottom[0].shape)


@layer(bottoms=1, tops=1)
class Embed(TorchLayer):
    """Row x of a table for every index x of the bottom (input_dim rows of num_output), plus a bias."""

    allows_in_place = False  # the top has an axis more

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.p
        if p.num_output < 1:
            raise CaffeError(f"num_output: {p.num_output} must be 1 or more")
        if p.input_dim < 1:
            raise CaffeError(f"input_dim: {p.input_dim} must be 1 or more")
        shapes = [(p.input_dim, p.num_output), *([(p.num_output,)] if p.bias_term else [])]
        if self.blobs:
            self.check_given_blobs(*shapes)
        else:
            for shape, filler in zip(shapes, (p.weight_filler, p.bias_filler)):
                self.add_blob(shape, filler)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        top[0].reshape(*bottom[0].shape, self.p.num_output)

    def compute(self, x: torch.Tensor, table: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        index = x.to(torch.int64)
        if x.device.type != "cpu":
            # An index out of range would end the process there, and a look would cost a synchronisation.
            index = index.clamp(0, self.p.input_dim - 1)
        y = F.embedding(index, table.reshape(self.p.input_dim, -1))  # an old file's table has four axes
        return y if bias is None else y + bias.reshape(-1)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        x = bottom[0].t
        if x.device.type == "cpu" and x.numel():
            # BVLC's release build reads past its memory here.
            least, most = (int(value) for value in torch.aminmax(x.to(torch.int64)))
            if least < 0 or most >= self.p.input_dim:
                bad = least if least < 0 else most
                raise CaffeError(f"bottom 0: index {bad} is out of range for input_dim {self.p.input_dim}")
        super().forward(bottom, top)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if propagate_down[0]:
            raise CaffeError("propagate_down: bottom 0 holds indices, which have no gradient")
        super().backward(top, propagate_down, bottom)
