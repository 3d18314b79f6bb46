"""What a snapshot needs beyond BVLC's two files so that the run goes on as if it had never stopped.

PREFIX_iter_N.resume.npz lies beside PREFIX_iter_N.solverstate and .caffemodel, which stay as BVLC reads them. It has
the random stream, the smoothed loss, and each layer's own place: record and random stream of data layers, carried
states of recurrent ones. It names the two files' SHA-256: used with them alone, and damaged snapshots are found."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchcaffe.base import context, log
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import caffemodel, files, npy, solverstate
from torchcaffe.random import streams

if TYPE_CHECKING:
    from torchcaffe.solvers.solver import Solver

FORMAT = 1


def beside(state_file: files.PathLike, rank: int) -> Path:
    """The extra state's file of a .solverstate or .solverstate.h5; of several solvers each has its own, and the root's
    (rank 0) alone has checksums."""
    path = Path(state_file)
    extension = f".resume.rank{rank}.npz" if rank else ".resume.npz"
    name = path.name[:-3] if path.name.endswith(".h5") else path.name
    return path.with_name((name[: -len(".solverstate")] if name.endswith(".solverstate") else name) + extension)


def _nets(solver: Solver) -> dict[str, Any]:
    return {"train": solver.net, **{f"test{i}": net for i, net in enumerate(solver.test_nets)}}


Places = dict[str, np.ndarray]


def places(solver: Solver) -> Places:
    """Where the random stream is, and each layer: "random", and "NET/LAYER/KEY" of what Layer.state gives."""
    found = {"random": streams.rng().state()}
    for net_name, net in _nets(solver).items():
        for name, layer in zip(net._layer_names, net._layers):  # (net.layers has users' own objects)
            for key, value in layer.state().items():
                found[f"{net_name}/{name}/{key}"] = value
    return found


def go_to(solver: Solver, places: Places) -> None:
    """Put the random stream and the layers where `places` was taken; layers that are gone since are left out."""
    states: dict[tuple[str, str], Places] = {}
    for name, value in places.items():
        net, _, rest = name.partition("/")
        if rest:
            layer, _, key = rest.rpartition("/")
            states.setdefault((net, layer), {})[key] = value
    nets = _nets(solver)
    streams.rng().set_state(places["random"])
    for (net, layer), state in states.items():
        layers = dict(zip(nets[net]._layer_names, nets[net]._layers)) if net in nets else {}
        if layer in layers:
            layers[layer].set_state(state)


def write(solver: Solver, state_file: files.PathLike, written: dict[str, files.PathLike]) -> None:
    """Write the extra state of `solver` beside the solverstate of its snapshot, with checksums of the files `written`
    (their names, and where they are now)."""
    losses, smoothed, count = solver.loss_window()
    about = {
        "format": FORMAT,
        "iter": solver.iter,
        "files": {os.path.basename(name): files.sha256(path) for name, path in written.items()},
        "losses_seen": count,
    }
    arrays = {
        "about": np.array(json.dumps(about)),
        "losses": np.array(losses, np.float32),
        "smoothed_loss": np.array(smoothed, np.float32),
        **solver.places(),
    }
    with files.atomic(beside(state_file, context.solver_rank)) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def read(path: files.PathLike) -> tuple[dict[str, Any], Places]:
    """What `write` wrote: the description and the arrays. Raises CaffeError for anything else."""
    if not os.path.isfile(path):  # opening a pipe would wait for ever
        raise CaffeError(f"{path}: not a regular file")
    arrays = npy.read_npz(path)
    try:
        about = json.loads(str(arrays.pop("about")))
        if about["format"] != FORMAT:
            raise CaffeError(f"{path}: format {about['format']}, {FORMAT} expected")
        if not isinstance(about["iter"], int) or not isinstance(about["files"], dict):
            raise KeyError("iter")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CaffeError(f"{path}: not the extra state of a snapshot, or damaged ({error})") from error
    return about, arrays


def whole(state_file: files.PathLike) -> str:
    """Why a snapshot cannot be gone on from, "" if it can: by the extra state's checksums where there is one."""
    try:
        state = solverstate.read_solverstate(state_file)
        extra = beside(state_file, 0)
        if os.path.lexists(extra) and not _sums(state_file):
            return f"{state_file}: not what {extra.name} says it was"
        model = model_of(state_file, state.learned_net)
        if model is not None and not extra.exists():
            caffemodel.read_caffemodel(model)
    except CaffeError as error:
        return str(error)
    return ""


def _sums(state_file: files.PathLike) -> list[str]:
    """The checksums of a snapshot's files; none without an extra state, or with another snapshot's."""
    extra = beside(state_file, 0)
    if not os.path.lexists(extra):
        return []
    sums = list(read(extra)[0]["files"].values())  # by content: a snapshot may be renamed
    return sums if files.sha256(state_file) in sums else []


def model_of(state_file: files.PathLike, learned_net: str) -> Path | None:
    """The weights a solverstate names. With checksums the file beside it goes first: where it says, in a folder that
    was copied, another run's may lie by now. CaffeError where neither is right. Without, as BVLC, where it says, or, in
    a folder that was moved as a whole, beside it."""
    if not learned_net:
        return None
    learned = Path(learned_net)
    nearby = Path(state_file).parent / learned.name
    sums = _sums(state_file)
    if not sums:
        return learned if learned.exists() or not nearby.exists() else nearby
    found = [path for path in (nearby, learned) if path.is_file()]
    for path in found:
        if files.sha256(path) in sums:
            return path
    if not found:
        raise CaffeError(f"cannot read {learned}: no such file")
    raise CaffeError(f"{found[0]}: not what {beside(state_file, 0).name} says it was")


def restore(solver: Solver, state_file: files.PathLike) -> bool:
    """Put `solver`, already restored from BVLC's two files, exactly where it was. False where no extra state fits."""
    path = beside(state_file, context.solver_rank)
    if not os.path.lexists(path):
        log.warning("resume.py:2", f"there is no {path}: going on as BVLC does, from the first record")
        return False
    about, arrays = read(path)
    fits = context.solver_rank > 0 or files.sha256(state_file) in about["files"].values()
    if about["iter"] != solver.iter or not fits:
        log.warning("resume.py:1", f"{path} is of another snapshot: going on without it, from the first record")
        return False
    try:
        go_to(solver, {name: value for name, value in arrays.items() if name == "random" or "/" in name})
        solver.set_loss_window(list(arrays["losses"]), arrays["smoothed_loss"][()], int(about["losses_seen"]))
    except (CaffeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise CaffeError(f"{path}: {error}; without that file the run goes on from the first record") from error
    return True
