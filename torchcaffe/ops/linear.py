"""InnerProduct and Embed."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from torchcaffe.base.errors import CaffeError
from torchcaffe.core import private_torch
from torchcaffe.core.blob import Blobs, canonical_axis
from torchcaffe.core.layer import Layer, TorchLayer, layer
from torchcaffe.core.tensors import shaped
from torchcaffe.ops.common import check_positive, in_range, make_blobs, refuse_gradient, weight_and_bias
from torchcaffe.ops.conv import product_in_place, warn_of_product_in_place


def rounded(weight: Tensor, precision: str) -> tuple[Tensor, Tensor | None]:
    """A weight (outputs, inputs) in a precision of context.ROUNDED: at test time, reading the weights of large inner
    products takes most of the time.

    int8: scaled so that each row's greatest magnitude is 127; the scales come with it. Zeros fill the rows up to a
    multiple of 64, because torch's product reads whole vectors, even past the end."""
    if precision == "bf16":
        return weight.to(torch.bfloat16).contiguous(), None
    outputs, inputs = weight.shape
    result, scale = torch.zeros(outputs, inputs + -inputs % 64, dtype=torch.int8), weight.new_empty(outputs)
    for i, row in enumerate(weight):  # row by row, since the temporaries would be as large as the weights
        scale[i] = row.abs().max() / 127
        result[i, :inputs] = (row / scale[i]).nan_to_num_(0.0).round_()
    return result, scale


@layer(bottoms=1, tops=1)
class InnerProduct(Layer):
    """y = x W' + b, where x is everything from `axis` on as one vector; W is (outputs, inputs), or its transpose."""

    precision: str | None = None  # one of context.ROUNDED, to which forward rounds the weight; None: as it is
    _reduced: tuple[Tensor, Tensor | None]
    _reduced_of: tuple[str, tuple[int, int, int]] | None = None

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        p = self.p
        if bottom[0] is top[0]:
            warn_of_product_in_place(self)
        self.axis = canonical_axis(p.axis, len(bottom[0].shape))
        self.inputs = math.prod(bottom[0].shape[self.axis :])
        self.matrix = (self.inputs, p.num_output) if p.transpose else (p.num_output, self.inputs)
        make_blobs(self, *weight_and_bias(p, self.matrix))

    def round_weights(self, precision: str, least: int) -> bool:
        large = self.blobs[0].count >= least
        if large:
            self.precision = precision
        return large

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        outer, inputs = bottom[0].shape[: self.axis], math.prod(bottom[0].shape[self.axis :])
        if inputs != self.inputs:
            raise CaffeError(
                f"bottom 0: {inputs} values from axis {self.axis} on, {self.inputs} expected "
                f"(input size incompatible with the weights)"
            )
        self.check_in_place(bottom[0], top[0], (*outer, self.p.num_output))
        top[0].reshape(*outer, self.p.num_output)
        rows = math.prod(outer)
        self.x_shape, self.y_shape = (rows, inputs), (rows, self.p.num_output)
        # MKL reads the weights up to twice as fast if they are the left factor.
        self.weights_first = self.device == "cpu" and not self.p.transpose and rows > 2

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        bias = shaped(self.blobs[1].t, (self.p.num_output,)) if self.p.bias_term else None
        if bottom[0] is top[0]:
            product_in_place(top[0], bias)
            return
        x, w = shaped(bottom[0].t, self.x_shape), shaped(self.blobs[0].t, self.matrix)
        if self.precision is not None:
            y = self._rounded_product(x, w if self.p.transpose else w.t(), self.precision)
        elif self.weights_first:
            y = torch.mm(w, x.t()).t().contiguous()
        else:
            y = torch.mm(x, w if self.p.transpose else w.t())
        if bias is not None:
            y.add_(bias)
        top[0].t = shaped(y, top[0].shape)

    def _rounded_product(self, x: Tensor, w: Tensor, precision: str) -> Tensor:
        """x (N, inputs) times w (inputs, outputs), w rounded to the precision and x to bfloat16."""
        stamp = self.blobs[0].data_memory.stamp()
        made_of = None if stamp is None else (precision, stamp)
        if made_of is None or made_of != self._reduced_of:
            self._reduced, self._reduced_of = rounded(w.t(), precision), made_of
        reduced, scale = self._reduced
        if scale is None:
            return F.linear(x.bfloat16(), reduced).float()
        x = F.pad(x.bfloat16(), (0, reduced.shape[1] - self.inputs))
        return private_torch.int8_product(x, reduced).float().mul_(scale)  # the kernel would round the scales, too

    def backward(self, top: Blobs, propagate_down: list[bool], bottom: Blobs) -> None:
        g, weight = shaped(top[0].g, self.y_shape), self.blobs[0]
        if self.param_propagate_down[0]:
            x = shaped(bottom[0].t, self.x_shape)
            # Straight into the diff's memory, since these matrices hold most of a net's weights.
            left, right = (x, g) if self.p.transpose else (g, x)
            weight.accumulate_product(left.t(), right)
        if self.p.bias_term and self.param_propagate_down[1]:
            self.blobs[1].accumulate_rows(g)
        if propagate_down[0]:
            if bottom[0] is top[0]:
                bottom[0].g = torch.zeros_like(bottom[0].t)
                return
            w = shaped(weight.t, self.matrix)
            bottom[0].g = shaped(torch.mm(g, w.t() if self.p.transpose else w), bottom[0].shape)


@layer(bottoms=1, tops=1)
class Embed(TorchLayer):
    """Row x of a table (input_dim, num_output) for every index x of the bottom, plus a bias."""

    allows_in_place = False  # the top has an axis more

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        p = self.p
        check_positive(p, "input_dim")
        make_blobs(self, *weight_and_bias(p, (p.input_dim, p.num_output)))

    def compute(self, x: Tensor, table: Tensor, bias: Tensor | None = None) -> Tensor:
        rows = self.p.input_dim
        index = in_range(x.to(torch.int64), rows, "bottom 0: index", f"input_dim {rows}")
        y = F.embedding(index, table.reshape(rows, -1))  # an old file's table has four axes
        return y if bias is None else y + bias.reshape(-1)

    def backward(self, top: Blobs, propagate_down: list[bool], bottom: Blobs) -> None:
        refuse_gradient(propagate_down, 0)
        super().backward(top, propagate_down, bottom)
