"""The nets that a solver's message asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torchcaffe.base import log
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import upgrade
from torchcaffe.nets.net import Net
from torchcaffe.proto.caffe_pb2 import TEST, TRAIN, NetParameter, NetState, SolverParameter

_TRAIN_NETS = {"net": 102, "net_param": 97, "train_net": 92, "train_net_param": 88}  # field: BVLC's line


def _upgraded(given: Any, source: str) -> NetParameter:
    """A net's upgraded message, from its file or a message."""
    if isinstance(given, str):
        return upgrade.read_net(given)
    param = NetParameter()
    param.CopyFrom(given)
    return upgrade.upgrade_net(param, source)


def _make(p: SolverParameter, param: NetParameter, source: str, phase: int, states: Sequence[NetState]) -> Net:
    """A net in its file's state merged with `states`."""
    state = NetState(phase=phase)
    for more in (param.state, *states):
        state.MergeFrom(more)
    param.state.CopyFrom(state)
    net = Net.from_param(param, source)
    # Each entry is a caffemodel, or several separated by commas.
    for path in filter(None, (path.strip() for entry in p.weights for path in entry.split(","))):
        log.info("solver.cpp:72", f"Finetuning from {path}")
        net.copy_from(path)
    return net


def train_net(p: SolverParameter, source: str) -> Net:
    """Make the train net. Raises CaffeError unless exactly one is given."""
    given = [field for field in _TRAIN_NETS if p.HasField(field)]
    if len(given) != 1:
        raise CaffeError(
            f"{source}: net: give exactly one of {', '.join(_TRAIN_NETS)}"
            + (f", not {' and '.join(given)}" if given else "")
        )
    field = given[0]
    value = getattr(p, field)
    if field.endswith("param"):
        where = f"specified in {field}."
    else:
        where, source = f"from {field} file: {value}", value
    log.info(f"solver.cpp:{_TRAIN_NETS[field]}", f"Creating training net {where}")
    return _make(p, _upgraded(value, source), source, TRAIN, [p.train_state])


def test_nets(p: SolverParameter, source: str) -> list[Net]:
    """Make the test nets: those of test_net_param, of test_net, and of `net` for the rest of test_iter."""
    specific = len(p.test_net_param) + len(p.test_net)
    wanted = len(p.test_iter)
    if wanted < specific or wanted > specific and not (p.HasField("net") or p.HasField("net_param")):
        raise CaffeError(f"{source}: test_iter: {wanted} given for {specific} test nets: give one each")
    if p.test_state and len(p.test_state) != wanted:
        raise CaffeError(f"{source}: test_state: {len(p.test_state)} given for {wanted} test nets")
    if wanted and p.test_interval <= 0:
        raise CaffeError(f"{source}: test_interval: missing or not above 0, with test_iter given")
    # Each: the net, what errors call it, and what BVLC's log says it is specified by.
    inline = p.HasField("net_param")
    rest = (p.net_param, source, "net_param") if inline else (p.net, p.net, f"net file: {p.net}")
    sources = [
        *((net, f"{source}: test_net_param {i}", "test_net_param") for i, net in enumerate(p.test_net_param)),
        *((path, path, f"test_net file: {path}") for path in p.test_net),
        *[rest] * (wanted - specific),
    ]
    nets = []
    params = [_upgraded(given, source) for given, *_ in sources]
    for i, (param, (_, name, specified)) in enumerate(zip(params, sources)):
        log.info("solver.cpp:190", f"Creating test net (#{i}) specified by {specified}")
        # Its weights are its own until its first test, as in BVLC: a program may load others into it.
        nets.append(_make(p, param, name, TEST, p.test_state[i : i + 1]))
        nets[-1].graph.debug_info = p.debug_info
    return nets
