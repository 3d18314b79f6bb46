"""LSTM, RNN and LSTMUnit.

BVLC unrolls a recurrent layer into a net with a copy of small layers for each time step. Here it is a loop over time
with the same order of the parameters and of their fillers' draws, and the same flow of gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchcaffe.base.errors import CaffeError
from torchcaffe.core.blob import Blobs
from torchcaffe.core.layer import Layer, Parameter, layer
from torchcaffe.ops.common import check_positive, check_shapes, refuse_gradient
from torchcaffe.proto import caffe_pb2
from torchcaffe.random import streams
from torchcaffe.random.filler import fill


@layer(bottoms=3, tops=2)
class LSTMUnit(Layer):
    """One LSTM step: c' = cont f c + i g and h' = o tanh(c').

    Bottoms: c (1, N, D), the gate inputs i, f, o, g (1, N, 4 D), and cont (1, N), 0 where a sequence starts."""

    no_force_backward = (2,)
    allows_in_place = False

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        count, size = (*bottom[0].shape, 0, 0, 0)[1:3]
        check_shapes(bottom, (1, count, size), (1, count, 4 * size), (1, count))
        for blob in top:
            blob.reshape(*bottom[0].shape)

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        self._step = LSTMStep(bottom[1].t[0], bottom[2].t[0], bottom[0].t[0])
        top[1].t, top[0].t = (state.unsqueeze(0) for state in self._step.states)

    def backward(self, top: Blobs, propagate_down: list[bool], bottom: Blobs) -> None:
        refuse_gradient(propagate_down, 2)
        if propagate_down[0] or propagate_down[1]:
            gates, c = self._step.backward(top[1].g[0], top[0].g[0])
            bottom[0].g, bottom[1].g = c.unsqueeze(0), gates.unsqueeze(0)


class LSTMStep:
    """The arithmetic of one LSTM step on (N, 4 D) gate inputs and (N, D) cells. states: h and c after it."""

    def __init__(self, gates: Tensor, cont: Tensor, before: Tensor):
        i, f, o, g = gates.chunk(4, 1)
        self.before = before
        self.i, self.o, self.g = torch.sigmoid(i), torch.sigmoid(o), torch.tanh(g)
        self.f = torch.sigmoid(f) * cont.unsqueeze(1)
        c = torch.addcmul(self.i * self.g, self.f, before)
        self.tanh_c = torch.tanh(c)
        self.states = [self.o * self.tanh_c, c]

    def backward(self, h_diff: Tensor, c_diff: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of the gate inputs and of the previous cells."""
        i, f, o, g = self.i, self.f, self.o, self.g
        c_diff = c_diff + h_diff * o * (1 - self.tanh_c * self.tanh_c)
        gates = [
            c_diff * g * i * (1 - i),
            c_diff * self.before * f * (1 - f),  # f includes cont, which makes no difference where cont is 0 or 1
            h_diff * self.tanh_c * o * (1 - o),
            c_diff * i * (1 - g * g),
        ]
        return torch.cat(gates, 1), c_diff * f


class RNNStep:
    """One RNN step on (N, D) gate inputs. states: h after it."""

    def __init__(self, gates: Tensor, cont: Tensor):
        self.states = [torch.tanh(gates)]

    def backward(self, h_diff: Tensor) -> tuple[Tensor]:
        """The gradient of the gate inputs."""
        (h,) = self.states
        return (h_diff * (1 - h * h),)


class Recurrent(Layer):
    """What LSTM and RNN share.

    Bottoms: x (T, N, ...); cont (T, N), 0 where a sequence starts; optionally a static input (N, ...); with
    expose_hidden the states before the first step, (1, N, D) each. Tops: the outputs (T, N, D); with expose_hidden the
    states after the last step.

    Without expose_hidden, each forward pass starts from the last one's states, where cont at step 0 is not 0. Gradients
    don't flow into states that come from outside the pass, exposed or carried."""

    allows_in_place = False
    recordable = False  # each pass carries other tensors over
    no_force_backward = (1,)
    states = 0  # how many blobs are carried from step to step
    gates = 0  # x is mapped to this many times num_output values
    step: Callable[..., Any]  # LSTMStep or RNNStep

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        p = self.p
        exposed = self.states if p.expose_hidden else 0
        if len(bottom) - exposed not in (2, 3) or len(top) != 1 + exposed:
            wanted = f"{2 + exposed} or {3 + exposed} bottoms and {1 + exposed} top(s)"
            raise CaffeError(f"{self.type} takes {wanted}, {len(bottom)} and {len(top)} given")
        if len(bottom[0].shape) < 3:
            raise CaffeError(f"bottom 0: shape {bottom[0].shape}: 3 axes expected (time steps, streams, inputs)")
        check_positive(p, "num_output")
        self.steps, self.size = bottom[0].shape[0], p.num_output
        self.static = len(bottom) > 2 + exposed
        self._check(bottom)
        rows = self.gates * self.size
        self.blobs.clear()  # BVLC ignores blobs in the prototxt: its parameters are the unrolled net's
        self.add_blob((rows, math.prod(bottom[0].shape[2:])), p.weight_filler)
        self.add_blob((rows,), p.bias_filler)
        if self.static:
            if len(bottom[2].shape) < 2:
                raise CaffeError(f"bottom 2: shape {bottom[2].shape}: no axis with the static inputs")
            self.add_blob((rows, math.prod(bottom[2].shape[1:])), p.weight_filler)
        hidden = self.hidden_blobs()
        self.first_hidden = len(self.blobs)
        for shape, filler in hidden:
            self.add_blob(shape, filler)
        # BVLC fills these for each step and keeps the first filling.
        for _ in range(1, self.steps):
            for shape, filler in hidden:
                fill(Parameter(*shape, device="cpu").data, filler, streams.rng())
        self._memory = [(blob.data_memory, blob.diff_memory) for blob in self.blobs]
        self._carried: list[Tensor] = []

    def hidden(self, number: int) -> tuple[Tensor, Tensor]:
        """One of hidden_blobs, as the first step uses it and as the later ones do.

        They differ if the blob has been given another layer's memory (shared by name). In TRAIN, BVLC's unrolled net
        then keeps the old memory in all steps but the first; in TEST it shares it again before every forward pass."""
        index = self.first_hidden + number
        blob, mine = self.blobs[index], self._memory[index][0]
        if self.phase == caffe_pb2.TEST or blob.data_memory is mine:
            return blob.t, blob.t
        return blob.t, mine.get(blob.shape, self.device)

    def learns_at(self, number: int) -> tuple[Parameter, slice]:
        """One of hidden_blobs and the steps whose gradients it gets: all, or where it is shared in TRAIN, the first."""
        index = self.first_hidden + number
        blob = self.blobs[index]
        whole = self.phase == caffe_pb2.TEST or blob.diff_memory is self._memory[index][1]
        return blob, slice(None) if whole else slice(1)

    def hidden_blobs(self) -> list[tuple[tuple[int, ...], caffe_pb2.FillerParameter]]:
        """Shapes and fillers of the parameters that every step uses; the first one maps h to the gates."""
        return [((self.gates * self.size, self.size), self.p.weight_filler)]

    def _check(self, bottom: Blobs) -> None:
        streams, *inputs = bottom[0].shape[1:]
        static = [(streams, *blob.shape[1:]) for blob in bottom[2 : 2 + self.static]]
        states = [(1, streams, self.size)] * self.states
        check_shapes(bottom, (self.steps, streams, *inputs), (self.steps, streams), *static, *states)

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        self._check(bottom)
        streams = bottom[0].shape[1]
        if math.prod(bottom[0].shape[2:]) != self.blobs[0].shape[1]:
            raise CaffeError(f"bottom 0: shape {bottom[0].shape}, {self.blobs[0].shape[1]} inputs expected")
        top[0].reshape(self.steps, streams, self.size)
        for blob in top[1:]:
            blob.reshape(1, streams, self.size)
        # As in BVLC, fewer streams leave the others' states alone; more than ever before start all of them again.
        if self._carried and len(self._carried[0]) < streams:
            self._carried = []

    def state(self) -> dict[str, np.ndarray]:
        carried = {str(i): state.detach().cpu().numpy() for i, state in enumerate(self._carried)}
        return {"count": np.array(len(carried)), **carried}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        self._carried = [torch.tensor(state[str(i)], device=self.device) for i in range(int(state["count"]))]

    def initial(self, bottom: Blobs) -> list[Tensor]:
        """The states before the first step, (N, D) each."""
        if self.p.expose_hidden:
            return [blob.t[0] for blob in bottom[-self.states :]]
        streams = bottom[0].shape[1]
        if not self._carried:
            device = bottom[0].t.device
            self._carried = [torch.zeros((streams, self.size), device=device) for _ in range(self.states)]
        return [state[:streams] for state in self._carried]

    def input_gates(self, bottom: Blobs) -> Tensor:
        """(T, N, rows): the part of the gates that comes from x, the bias and the static input."""
        x = bottom[0].t.reshape(-1, self.blobs[0].shape[1])
        gates = torch.addmm(self.blobs[1].t, x, self.blobs[0].t.t()).view(self.steps, -1, self.blobs[1].count)
        if self.static:
            static = bottom[2].t.reshape(-1, self.blobs[2].shape[1])
            gates = gates + static @ self.blobs[2].t.t()
        return gates

    def outputs(self, h: Tensor) -> Tensor:
        """Top 0 (T, N, D), from h after every step (T, N, D)."""
        return h

    def outputs_backward(self, g: Tensor) -> Tensor:
        """The gradient of every step's h from above, (T, N, D), from top 0's diff."""
        return g

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        gates, cont, weights = self.input_gates(bottom), bottom[1].t, self.hidden(0)
        states = self.initial(bottom)
        self._steps, self._before = [], []
        for t in range(self.steps):
            self._before.append(states[0] * cont[t].unsqueeze(1))
            inputs = torch.addmm(gates[t], self._before[-1], weights[t > 0].t())
            self._steps.append(self.step(inputs, cont[t], *states[1:]))
            states = self._steps[-1].states
        top[0].t = self.outputs(torch.stack([step.states[0] for step in self._steps]))
        if not self.p.expose_hidden:
            self._carried = [torch.cat([state, old[len(state) :]]) for state, old in zip(states, self._carried)]
        for blob, state in zip(top[1:], states):
            blob.t = state.unsqueeze(0).clone()

    def backward(self, top: Blobs, propagate_down: list[bool], bottom: Blobs) -> None:
        """Compute all gradients, needed or not, as BVLC does."""
        refuse_gradient(propagate_down, 1)
        g, cont, weights = self.outputs_backward(top[0].g), bottom[1].t, self.hidden(0)
        h_diff = torch.zeros_like(g[0])
        others = [h_diff] * (self.states - 1)
        steps = []
        for t in reversed(range(self.steps)):
            gate, *others = self._steps[t].backward(h_diff + g[t], *others)
            h_diff = (gate @ weights[t > 0]) * cont[t].unsqueeze(1)
            steps.append(gate)
        gates = torch.stack(steps[::-1])
        weight, learning = self.learns_at(0)
        weight.accumulate_product(gates[learning].flatten(0, 1).t(), torch.cat(self._before[learning]))
        flat = gates.view(-1, gates.shape[2])
        self.blobs[0].accumulate_product(flat.t(), bottom[0].t.reshape(len(flat), -1))
        self.blobs[1].accumulate_rows(flat)
        bottom[0].g = (flat @ self.blobs[0].t).view(bottom[0].shape)
        if self.static:
            total, static = gates.sum(0), bottom[2].t
            self.blobs[2].accumulate_product(total.t(), static.reshape(len(static), -1))
            bottom[2].g = (total @ self.blobs[2].t).view(bottom[2].shape)


@layer(bottoms=(2, None), tops=(1, None), param="recurrent_param")
class LSTM(Recurrent):
    """Long short-term memory; states h and c. Parameters: W_xc (4 D, inputs), b_c, [W_xc_static], W_hc (4 D, D)."""

    states = 2
    gates = 4
    step = LSTMStep


@layer(bottoms=(2, None), tops=(1, None), param="recurrent_param")
class RNN(Recurrent):
    """h' = tanh(W_hh (cont h) + W_xh x + b_h [+ W_xh_static s]), output tanh(W_ho h' + b_o); the state is h.

    Parameters: W_xh (D, inputs), b_h, [W_xh_static], W_hh (D, D), W_ho (D, D), b_o."""

    states = 1
    gates = 1
    step = RNNStep

    def hidden_blobs(self) -> list[tuple[tuple[int, ...], caffe_pb2.FillerParameter]]:
        return [*super().hidden_blobs() * 2, ((self.size,), self.p.bias_filler)]

    def outputs(self, h: Tensor) -> Tensor:
        (first, later), (first_bias, later_bias) = self.hidden(1), self.hidden(2)
        self._outputs = h.matmul(later.t()).add_(later_bias)
        if first is not later or first_bias is not later_bias:
            self._outputs[0] = torch.addmm(first_bias, h[0], first.t())
        self._states = h
        return self._outputs.tanh_().clone()

    def outputs_backward(self, g: Tensor) -> Tensor:
        g = g * (1 - self._outputs * self._outputs)
        weight, steps = self.learns_at(1)
        weight.accumulate_product(g[steps].flatten(0, 1).t(), self._states[steps].flatten(0, 1))
        bias, steps = self.learns_at(2)
        bias.accumulate(g[steps].sum((0, 1)))
        first, later = self.hidden(1)
        down = g @ later
        if first is not later:
            down[0] = g[0] @ first
        return down
