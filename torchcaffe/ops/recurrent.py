"""LSTM, RNN and LSTMUnit.

BVLC unrolls a recurrent layer into a net of small layers, one copy a time step. Here it is a loop over time; what the
unrolled net shows outside is kept: the order of the parameters, of their fillers' draws, and which gradients flow."""

from __future__ import annotations

import math

import numpy as np
import torch

from torchcaffe.base.errors import CaffeError
from torchcaffe.core.blob import Blob
from torchcaffe.core.layer import Layer, Parameter, layer
from torchcaffe.proto import caffe_pb2
from torchcaffe.random import streams
from torchcaffe.random.filler import fill


@layer(bottoms=3, tops=2)
class LSTMUnit(Layer):
    """One step: bottoms c (1, N, D), gate inputs (1, N, 4 D) in the order i, f, o, g, and cont (1, N), 0 where a
    sequence starts; tops c' = cont f c + i g and h' = o tanh(c')."""

    no_force_backward = (2,)
    allows_in_place = False

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        count = bottom[0].shape[1] if len(bottom[0].shape) > 1 else 0
        for index, (blob, axes) in enumerate(zip(bottom, (3, 3, 2))):
            if len(blob.shape) != axes or blob.shape[0] != 1 or blob.shape[1] != count:
                raise CaffeError(f"bottom {index}: shape {blob.shape}, {axes} axes expected: 1, {count}, ...")
        if bottom[1].shape[2] != 4 * bottom[0].shape[2]:
            raise CaffeError(f"bottom 1: shape {bottom[1].shape}, 4 x {bottom[0].shape[2]} gate inputs expected")
        for blob in top:
            blob.reshape(*bottom[0].shape)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        self._step = _Step(bottom[1].t[0], bottom[0].t[0], bottom[2].t[0])
        top[0].t, top[1].t = self._step.c.unsqueeze(0), self._step.h.unsqueeze(0)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if propagate_down[2]:
            raise CaffeError("propagate_down: bottom 2 says where sequences start, and has no gradient")
        if propagate_down[0] or propagate_down[1]:
            gates, c = self._step.backward(top[0].g[0], top[1].g[0])
            bottom[0].g, bottom[1].g = c.unsqueeze(0), gates.unsqueeze(0)


class _Step:
    """The arithmetic of one LSTM step on (N, 4 D) gate inputs and (N, D) cells."""

    def __init__(self, gates: torch.Tensor, before: torch.Tensor, cont: torch.Tensor):
        i, f, o, g = gates.chunk(4, 1)
        self.before = before
        self.i, self.o, self.g = torch.sigmoid(i), torch.sigmoid(o), torch.tanh(g)
        self.f = torch.sigmoid(f) * cont.unsqueeze(1)
        self.c = torch.addcmul(self.i * self.g, self.f, before)
        self.tanh_c = torch.tanh(self.c)
        self.h = self.o * self.tanh_c

    def backward(self, c_diff: torch.Tensor, h_diff: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of the gate inputs and of the cells before."""
        i, f, o, g = self.i, self.f, self.o, self.g
        c_diff = c_diff + h_diff * o * (1 - self.tanh_c * self.tanh_c)
        gates = [
            c_diff * g * i * (1 - i),
            c_diff * self.before * f * (1 - f),  # f with cont in it: the same for the cont of 0 or 1
            h_diff * self.tanh_c * o * (1 - o),
            c_diff * i * (1 - g * g),
        ]
        return torch.cat(gates, 1), c_diff * f


class Recurrent(Layer):
    """What LSTM and RNN share. Bottoms: x (T, N, ...); cont (T, N), 0 where a sequence starts; optionally a static
    input (N, ...); with expose_hidden the states before the first step, (1, N, D) each. Tops: the outputs (T, N, D);
    with expose_hidden the states after the last step.

    Without expose_hidden the states go on from one forward pass to the next (cont at step 0 says whether they count).
    Gradients don't flow through the states of other passes, exposed or not."""

    allows_in_place = False
    recordable = False  # the carried states are other tensors in each pass
    no_force_backward = (1,)
    states = 0  # how many blobs are carried from step to step
    gates = 0  # how many times num_output values x is mapped to

    @classmethod
    def counts(cls, param) -> tuple[tuple[int, int], int]:
        """(least, most) bottoms and the number of tops."""
        exposed = cls.states if param.expose_hidden else 0
        return (2 + exposed, 3 + exposed), 1 + exposed

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.p
        (least, most), tops = self.counts(p)
        if not least <= len(bottom) <= most:
            raise CaffeError(f"{self.type} takes {least} to {most} bottom blob(s), {len(bottom)} given")
        if len(top) != tops:
            raise CaffeError(f"{self.type} takes {tops} top blob(s), {len(top)} given")
        if len(bottom[0].shape) < 2:
            raise CaffeError(f"bottom 0: shape {bottom[0].shape}: at least 2 axes expected (time steps, streams, ...)")
        if p.num_output < 1:
            raise CaffeError(f"num_output: {p.num_output} must be 1 or more")
        self.steps, self.size = bottom[0].shape[0], p.num_output
        self.static = len(bottom) > least
        self._check(bottom)
        inputs = math.prod(bottom[0].shape[2:])
        if len(bottom[0].shape) < 3:
            raise CaffeError(f"bottom 0: shape {bottom[0].shape}: no axis with the inputs")
        rows = self.gates * self.size
        self.blobs.clear()  # blobs in the prototxt count for nothing: BVLC's parameters are the unrolled net's
        self.add_blob((rows, inputs), p.weight_filler)
        self.add_blob((rows,), p.bias_filler)
        if self.static:
            if len(bottom[2].shape) < 2:
                raise CaffeError(f"bottom 2: shape {bottom[2].shape}: no axis with the static inputs")
            self.add_blob((rows, math.prod(bottom[2].shape[1:])), p.weight_filler)
        hidden = self.hidden_blobs()
        for shape, filler in hidden:
            self.add_blob(shape, filler)
        # BVLC fills these once a step, and keeps the first filling.
        for _ in range(1, self.steps):
            for shape, filler in hidden:
                fill(Parameter(*shape, device="cpu").data, filler, streams.rng())
        self._memory = [(blob.data_memory, blob.diff_memory) for blob in self.blobs]
        self._carried: list[torch.Tensor] | None = None

    def hidden(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A parameter of the steps as the first step has it, and as the later ones have it: the same, unless the blob
        was given another layer's memory (shared by name). In TRAIN BVLC's unrolled net goes on with the old one in all
        steps but the first; in TEST it shares it anew before every forward pass."""
        blob, mine = self.own_blobs[index], self._memory[index][0]
        if self.phase == caffe_pb2.TEST or blob.data_memory is mine:
            return blob.t, blob.t
        return blob.t, mine.get(blob.shape, self.device)

    def learns_at(self, index: int) -> slice:
        """The steps whose gradients such a parameter's diff gets: all, or where it is shared in TRAIN, the first."""
        whole = self.phase == caffe_pb2.TEST or self.own_blobs[index].diff_memory is self._memory[index][1]
        return slice(None) if whole else slice(1)

    def hidden_blobs(self) -> list[tuple[tuple[int, ...], object]]:
        """Shapes and fillers of the parameters that every step uses."""
        raise CaffeError(f"layer type {self.type} has no hidden_blobs")

    def _check(self, bottom: list[Blob]) -> None:
        steps, streams = bottom[0].shape[:2]
        if steps != self.steps:
            raise CaffeError(f"bottom 0: {steps} time steps, {self.steps} at set-up: the number is fixed")
        if len(bottom[1].shape) != 2 or bottom[1].shape != (steps, streams):
            raise CaffeError(f"bottom 1: shape {bottom[1].shape}, {(steps, streams)} expected (time steps, streams)")
        if self.static and bottom[2].shape[:1] != (streams,):
            raise CaffeError(f"bottom 2: shape {bottom[2].shape}, {streams} streams expected")
        for index in range(2 + self.static, len(bottom)):
            if bottom[index].shape != (1, streams, self.size):
                raise CaffeError(f"bottom {index}: shape {bottom[index].shape}, {(1, streams, self.size)} expected")

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        self._check(bottom)
        streams = bottom[0].shape[1]
        if math.prod(bottom[0].shape[2:]) != self.blobs[0].shape[1]:
            raise CaffeError(f"bottom 0: shape {bottom[0].shape}, {self.blobs[0].shape[1]} inputs expected")
        top[0].reshape(self.steps, streams, self.size)
        for blob in top[1:]:
            blob.reshape(1, streams, self.size)
        # Fewer streams leave the others' states where they are, as BVLC does; more than ever before start anew.
        if self._carried is not None and len(self._carried[0]) < streams:
            self._carried = None

    def state(self) -> dict[str, np.ndarray]:
        carried = {str(i): state.detach().cpu().numpy() for i, state in enumerate(self._carried or [])}
        return {"count": np.array(len(carried)), **carried}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        carried = [torch.tensor(state[str(i)], device=self.device) for i in range(int(state["count"]))]
        self._carried = carried or None

    def initial(self, bottom: list[Blob]) -> list[torch.Tensor]:
        """The states before the first step, (N, D) each."""
        if self.p.expose_hidden:
            return [blob.t[0] for blob in bottom[-self.states :]]
        streams = bottom[0].shape[1]
        if self._carried is None:
            device = bottom[0].t.device
            self._carried = [torch.zeros((streams, self.size), device=device) for _ in range(self.states)]
        return [state[:streams] for state in self._carried]

    def input_gates(self, bottom: list[Blob]) -> torch.Tensor:
        """(T, N, rows): what x, the bias and the static input add to the gates."""
        x = bottom[0].t.reshape(-1, self.blobs[0].shape[1])
        gates = torch.addmm(self.blobs[1].t, x, self.blobs[0].t.t()).view(self.steps, -1, self.blobs[1].count)
        if self.static:
            static = bottom[2].t.reshape(-1, self.blobs[2].shape[1])
            gates = gates + static @ self.blobs[2].t.t()
        return gates

    def finish(self, outputs: list[torch.Tensor], states: list[torch.Tensor], top: list[Blob]) -> None:
        """Set the tops, and keep the last states for the next pass."""
        top[0].t = torch.stack(outputs)
        kept = self._carried or [state[:0] for state in states]
        self._carried = [torch.cat([state, old[len(state) :]]) for state, old in zip(states, kept)]
        for blob, state in zip(top[1:], states):
            blob.t = state.unsqueeze(0).clone()

    def input_backward(self, gates: torch.Tensor, bottom: list[Blob]) -> None:
        """From (T, N, rows) gradients: those of x, the static input and their parameters.

        BVLC works all of these out, whether somebody needs them or not."""
        flat = gates.view(-1, gates.shape[2])
        self.blobs[0].accumulate_product(flat.t(), bottom[0].t.reshape(len(flat), -1))
        self.blobs[1].accumulate(flat.sum(0))
        bottom[0].g = (flat @ self.blobs[0].t).view(bottom[0].shape)
        if self.static:
            total, static = gates.sum(0), bottom[2].t
            self.blobs[2].accumulate_product(total.t(), static.reshape(len(static), -1))
            bottom[2].g = (total @ self.blobs[2].t).view(bottom[2].shape)

    def refuse(self, propagate_down: list[bool]) -> None:
        if propagate_down[1]:
            raise CaffeError("propagate_down: bottom 1 says where sequences start, and has no gradient")


@layer(bottoms=(2, None), tops=(1, None), param="recurrent_param")
class LSTM(Recurrent):
    """Long short-term memory; states h and c. Parameters: W_xc (4 D, inputs), b_c, [W_xc_static], W_hc (4 D, D)."""

    states = 2
    gates = 4

    def hidden_blobs(self) -> list[tuple[tuple[int, ...], object]]:
        return [((4 * self.size, self.size), self.p.weight_filler)]

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        gates, cont, (first, later) = self.input_gates(bottom), bottom[1].t, self.hidden(-1)
        h, c = self.initial(bottom)
        self._steps, self._hidden = [], []
        for t in range(self.steps):
            self._hidden.append(h * cont[t].unsqueeze(1))
            step = _Step(torch.addmm(gates[t], self._hidden[-1], (later if t else first).t()), c, cont[t])
            h, c = step.h, step.c
            self._steps.append(step)
        self.finish([step.h for step in self._steps], [h, c], top)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.refuse(propagate_down)
        g, cont, (first, later) = top[0].g, bottom[1].t, self.hidden(-1)
        h_diff = c_diff = torch.zeros_like(self._steps[0].h)
        gates = []
        for t in reversed(range(self.steps)):
            gate, c_diff = self._steps[t].backward(c_diff, h_diff + g[t])
            h_diff = (gate @ (later if t else first)) * cont[t].unsqueeze(1)
            gates.append(gate)
        gates = torch.stack(gates[::-1])
        steps = self.learns_at(-1)
        self.own_blobs[-1].accumulate_product(gates[steps].flatten(0, 1).t(), torch.cat(self._hidden[steps]))
        self.input_backward(gates, bottom)


@layer(bottoms=(2, None), tops=(1, None), param="recurrent_param")
class RNN(Recurrent):
    """h' = tanh(W_hh (cont h) + W_xh x + b_h [+ W_xh_static s]), output tanh(W_ho h' + b_o); the state is h.

    Parameters: W_xh (D, inputs), b_h, [W_xh_static], W_hh (D, D), W_ho (D, D), b_o."""

    states = 1
    gates = 1

    def hidden_blobs(self) -> list[tuple[tuple[int, ...], object]]:
        square = (self.size, self.size)
        return [(square, self.p.weight_filler), (square, self.p.weight_filler), ((self.size,), self.p.bias_filler)]

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        gates, cont, (first, later) = self.input_gates(bottom), bottom[1].t, self.hidden(-3)
        (h,) = self.initial(bottom)
        self._before, states = [], []
        for t in range(self.steps):
            self._before.append(h * cont[t].unsqueeze(1))
            h = torch.tanh(torch.addmm(gates[t], self._before[-1], (later if t else first).t()))
            states.append(h)
        self._states = torch.stack(states)
        (first, later), (first_bias, later_bias) = self.hidden(-2), self.hidden(-1)
        self._outputs = self._states.matmul(later.t()).add_(later_bias)
        if first is not later or first_bias is not later_bias:
            self._outputs[0] = torch.addmm(first_bias, states[0], first.t())
        self._outputs.tanh_()
        self.finish(list(self._outputs), [h], top)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.refuse(propagate_down)
        cont, (first, later) = bottom[1].t, self.hidden(-3)
        outputs = top[0].g * (1 - self._outputs * self._outputs)
        steps = self.learns_at(-2)
        self.own_blobs[-2].accumulate_product(outputs[steps].flatten(0, 1).t(), self._states[steps].flatten(0, 1))
        self.own_blobs[-1].accumulate(outputs[self.learns_at(-1)].sum((0, 1)))
        first_out, later_out = self.hidden(-2)
        from_outputs = outputs @ later_out
        if first_out is not later_out:
            from_outputs[0] = outputs[0] @ first_out
        h_diff = torch.zeros_like(self._states[0])
        gates = []
        for t in reversed(range(self.steps)):
            h = self._states[t]
            gates.append((h_diff + from_outputs[t]) * (1 - h * h))
            h_diff = (gates[-1] @ (later if t else first)) * cont[t].unsqueeze(1)
        gates = torch.stack(gates[::-1])
        steps = self.learns_at(-3)
        self.own_blobs[-3].accumulate_product(gates[steps].flatten(0, 1).t(), torch.cat(self._before[steps]))
        self.input_backward(gates, bottom)
