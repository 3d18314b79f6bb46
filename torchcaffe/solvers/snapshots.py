"""Snapshots: BVLC's two files, and the extra state with which a resumed run continues exactly.

PREFIX_iter_N.resume.npz lies beside PREFIX_iter_N.solverstate and .caffemodel, which stay as BVLC reads them. It holds
the random stream, the smoothed loss, and the state of each layer: the record and random stream of data layers, the
hidden state of recurrent ones. It also holds the SHA-256 of the two files, so that it is used with no others, and
damaged snapshots are found."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchcaffe.base import context, log
from torchcaffe.base.errors import CaffeError
from torchcaffe.core.blob import Arrays
from torchcaffe.core.layer import Layer
from torchcaffe.formats import caffemodel, files, npy, solverstate
from torchcaffe.formats.files import PathLike
from torchcaffe.random import streams

if TYPE_CHECKING:
    from torchcaffe.solvers.solver import Solver

FORMAT = 1


def beside(state_file: PathLike, rank: int) -> Path:
    """The path of the extra state of a .solverstate or .solverstate.h5. Each process has its own; only that of the root
    (rank 0) holds checksums."""
    path = Path(state_file)
    extension = f".resume.rank{rank}.npz" if rank else ".resume.npz"
    return path.with_name(path.name.removesuffix(".h5").removesuffix(".solverstate") + extension)


def stateful_layers(solver: Solver) -> dict[str, Layer]:
    """The layers of the solver's nets that have a state beside their blobs, by "NET/LAYER"."""
    nets = {"train": solver.net, **{f"test{i}": net for i, net in enumerate(solver.test_nets)}}
    return {
        f"{name}/{node.name}": node.layer
        for name, net in nets.items()
        for node in net.nodes
        if type(node.layer).state is not Layer.state
    }


def places(layers: dict[str, Layer]) -> Arrays:
    """The state of the random stream, "random", and of each layer, "NET/LAYER/KEY" for the keys of Layer.state."""
    found = {"random": streams.rng().state()}
    for name, layer in layers.items():
        found |= {f"{name}/{key}": value for key, value in layer.state().items()}
    return found


def go_to(layers: dict[str, Layer], places: Arrays) -> None:
    """Restore what `places` returned. Layers that the nets no longer have are left out."""
    streams.rng().set_state(places["random"])
    states: dict[str, Arrays] = {}
    for name, value in places.items():
        layer, _, key = name.rpartition("/")
        states.setdefault(layer, {})[key] = value
    for name in states:
        if name in layers:
            layers[name].set_state(states[name])


def save(solver: Solver) -> None:
    """Write a snapshot of the solver. The root (rank 0) writes the files that all processes share; the others wait
    until it is about to write the solverstate."""
    model, state_file = solver.snapshot_name(".caffemodel"), solver.snapshot_name(".solverstate")
    if context.solver_rank > 0:
        write(solver, state_file, {})
        solver.agreed(False)
        return
    hdf5 = model.endswith(".h5")
    kind, lines = ("HDF5", (474, 296)) if hdf5 else ("binary proto", (464, 284))
    log.info(f"solver.cpp:{lines[0]}", f"Snapshotting to {kind} file {model}")
    solver.net.save(model, hdf5)
    log.info(f"sgd_solver.cpp:{lines[1]}", f"Snapshotting solver state to {kind} file {state_file}")
    state = solverstate.SolverState(
        iter=solver.iter, learned_net=model, current_step=solver.lr_step, history=solver.rule.arrays()
    )
    solver.agreed(False)
    solverstate.write_solverstate(
        state_file, state, lambda written: write(solver, state_file, {model: model, state_file: written})
    )


def write(solver: Solver, state_file: PathLike, written: dict[str, PathLike]) -> None:
    """Write the extra state of `solver` beside its solverstate, with the checksums of the files `written` (their final
    path -> their present path)."""
    losses, smoothed, count = solver.loss.window()
    about = {
        "format": FORMAT,
        "iter": solver.iter,
        "files": {os.path.basename(name): files.sha256(path) for name, path in written.items()},
        "losses_seen": count,
    }
    arrays: dict[str, Any] = {
        "about": np.array(json.dumps(about)),
        "losses": np.array(losses, np.float32),
        "smoothed_loss": np.array(smoothed, np.float32),
        **solver.places(),
    }
    with files.atomic(beside(state_file, context.solver_rank)) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def read(path: PathLike) -> tuple[dict[str, Any], Arrays]:
    """Return the description and the arrays that `write` wrote. Raises CaffeError for anything else."""
    if not os.path.isfile(path):  # opening a pipe would block
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


def whole(state_file: PathLike) -> str:
    """Return why a run cannot be resumed from a snapshot, "" if it can: by the extra state's checksums if it exists."""
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


def _sums(state_file: PathLike) -> list[str]:
    """The checksums of a snapshot's files; none without an extra state, or if that is another snapshot's."""
    extra = beside(state_file, 0)
    if not os.path.lexists(extra):
        return []
    sums = list(read(extra)[0]["files"].values())  # by content: a snapshot may be renamed
    return sums if files.sha256(state_file) in sums else []


def model_of(state_file: PathLike, learned_net: str) -> Path | None:
    """The weights that a solverstate names, None if it names none.

    With checksums, the file of that name beside the solverstate is tried first: the folder may be a copy, and another
    run's file may have taken the path that the solverstate names. Raises CaffeError if neither fits. Without checksums,
    the path that it names, as in BVLC, or else the file beside it (the folder was moved)."""
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


def restore(solver: Solver, state_file: PathLike) -> bool:
    """Restore the extra state of `solver`, which has read BVLC's two files. Returns False if none fits."""
    path = beside(state_file, context.solver_rank)
    if not os.path.lexists(path):
        log.warning("snapshots.py:2", f"there is no {path}: going on as BVLC does, from the first record")
        return False
    about, arrays = read(path)
    fits = context.solver_rank > 0 or files.sha256(state_file) in about["files"].values()
    if about["iter"] != solver.iter or not fits:
        log.warning("snapshots.py:1", f"{path} is of another snapshot: going on without it, from the first record")
        return False
    try:
        places = {name: value for name, value in arrays.items() if name == "random" or "/" in name}
        go_to(solver.stateful, places)
        smoothed = np.float32(arrays["smoothed_loss"])
        solver.loss.resume((list(arrays["losses"]), smoothed, int(about["losses_seen"])))
    except (CaffeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise CaffeError(f"{path}: {error}; without that file the run goes on from the first record") from error
    return True
