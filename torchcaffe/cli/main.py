"""The program `torchcaffe`: Caffe's command line, and a command that runs unmodified pycaffe scripts on this engine."""

import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torchcaffe.base import context, log
from torchcaffe.base.errors import CaffeError, run_main
from torchcaffe.base.signals import Signals
from torchcaffe.cli import programs
from torchcaffe.cli.flags import Flag, Flags, describe, parse
from torchcaffe.formats import upgrade
from torchcaffe.proto import caffe_pb2

FLAGS = (
    Flag("solver", "", "solver prototxt (train)"),
    Flag("model", "", "net prototxt (test, time)"),
    Flag("snapshot", "", "solverstate to resume from (train)"),
    Flag("weights", "", "caffemodels to start from, separated by commas; not together with -snapshot"),
    Flag("gpu", "", "GPU number, several separated by commas, or all; without it: train does as its solver says, the "
         "others use the CPU"),
    Flag("iterations", 50, "how many batches (test) or passes (time)"),
    Flag("phase", "", "TRAIN or TEST (time; default TRAIN)"),
    Flag("level", 0, "level of the net's state"),
    Flag("stage", "", "stages of the net's state, separated by commas"),
    Flag("sigint_effect", "stop", "what Ctrl-C does: stop, snapshot or none"),
    Flag("sighup_effect", "snapshot", "what a hangup does: stop, snapshot or none"),
    Flag("debug_nan", False, "check every gradient before each update: stop if one is not finite (train)"),
    Flag("allow_python_layers", False, "allow the net's Python layers to import their modules"),
)  # fmt: skip

USAGE = """usage: torchcaffe COMMAND [FLAGS]

commands:
  run SCRIPT [ARGS]    run a Python script in which `import caffe` is this engine, or -m MODULE [ARGS] a module
                       (-allow_python_layers in front)
  train                train a net: -solver
  test                 score a net: -model, -weights
  time                 time a net layer by layer: -model
  device_query         show the GPUs: -gpu
  {programs}

flags (one dash or two, = or a space before the value):
{flags}
"""


# -- run -----------------------------------------------------------------------------------------------------------


def run(argv: Sequence[str]) -> int:
    """`run [-allow_python_layers] SCRIPT [ARGS]`, or `-m MODULE [ARGS]`: run it as __main__.

    It gets its own sys.argv, and as sys.path[0] its own folder (a module: the working folder)."""
    import torchcaffe

    rest = list(argv)
    as_module = False
    while rest and rest[0].startswith("-") and not as_module:
        word = rest.pop(0)
        if word == "-m":
            as_module = True
        elif word.lstrip("-").replace("-", "_") != "allow_python_layers":
            raise CaffeError(f"run: unknown flag '{word}' before the script")
        else:
            torchcaffe.allow_python_layers(True)
    if not rest:
        raise CaffeError("run: no script given: torchcaffe run SCRIPT [ARGS], or torchcaffe run -m MODULE [ARGS]")
    torchcaffe.install_as_caffe()
    sys.argv = rest
    name = rest[0]
    try:
        if as_module:
            sys.path[0] = os.getcwd()
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            _find_script(name)
            runpy.run_path(name, run_name="__main__")
    except CaffeError as error:
        frames = traceback.extract_tb(error.__traceback__)
        names = [frame.name for frame in frames]
        if "_run_code" not in names:
            raise
        script = frames[names.index("_run_code") + 1].filename  # runpy's last frame before the script's own
        line = [frame.lineno for frame in frames if frame.filename == script][-1]
        raise CaffeError(f"{script}:{line}: {error}") from None
    except (ValueError, SyntaxError) as error:  # SyntaxError: from Python 3.12 on
        if "null bytes" not in str(error):
            raise
        raise CaffeError(f"run: {name}: not a Python script, it holds zero bytes") from None
    except ImportError as error:
        if traceback.extract_tb(error.__traceback__)[-1].name == "_get_module_details":  # runpy's own
            raise CaffeError(f"run: no such module to run: '{name}'") from None
        raise
    except OSError:
        traceback.print_exc()  # an error of the script itself, shown as Python shows it
        return 1
    return 0


def _find_script(name: str) -> None:
    """Put the script's folder on sys.path. Raises CaffeError if there is no such script."""
    script = Path(name)
    if not name or not script.exists():
        raise CaffeError(f"run: no such script: {name}")
    if script.is_file():
        sys.path[0] = str(script.resolve().parent)
    elif script.is_dir() and not (script / "__main__.py").is_file():
        raise CaffeError(f"run: {name} is a folder without a __main__.py")


# -- what the commands share ---------------------------------------------------------------------------------------


def _gpus(text: str) -> list[int]:
    """The device numbers that -gpu names. Raises CaffeError for one that does not exist."""
    if not text:
        return []
    import torch

    try:
        gpus = list(range(torch.cuda.device_count() or 1)) if text == "all" else [int(word) for word in text.split(",")]
        for index in gpus:
            context.check_gpu(index)
    except ValueError:
        raise CaffeError(f"-gpu {text}: give device numbers separated by commas, or all") from None
    except CaffeError as error:
        raise CaffeError(f"-gpu {text}: {error}; to compute on the CPU, leave -gpu out") from None
    return gpus


def _use(gpus: list[int], source: str) -> None:
    """Compute on the first of these GPUs, or on the CPU."""
    if not gpus:
        log.info(source, "Use CPU.")
        context.set_mode_cpu()
        return
    from torchcaffe.gpu.mode import set_mode_gpu

    log.info(source, f"Use GPU with device ID {gpus[0]}")
    context.set_device(gpus[0])
    set_mode_gpu()


def _stages(text: str) -> list[str]:
    # As in BVLC, without -stage there is one stage, whose name is empty, and which no rule asks for.
    return _field("stage", text).split(",")


def _field(flag: str, text: str) -> str:
    """A flag's value for a message, whose strings are UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise CaffeError(f"-{flag} {text}: not UTF-8") from None
    return text


def _need(flags: Flags, name: str, command: str) -> str:
    if not flags[name]:
        raise CaffeError(f"{command}: -{name} is missing")
    return flags[name]


def _check_files(*paths: str) -> None:
    for path in filter(None, paths):
        if not Path(path).is_file():
            raise CaffeError(f"{path}: no such file")


def _weights(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


# -- train ---------------------------------------------------------------------------------------------------------


@context.denormals_flushed()
def train(flags: Flags) -> int:
    """`train`: train the solver's net. The steps and log lines are BVLC's, in its order."""
    from torchcaffe.solvers.solver import get_solver

    path = _need(flags, "solver", "train")
    if flags["snapshot"] and flags["weights"]:
        raise CaffeError("train: give -snapshot to resume from or -weights to start from, not both")
    _check_files(path, *_weights(flags["weights"]), flags["snapshot"])
    signals = Signals(flags["sigint_effect"], flags["sighup_effect"])
    param = upgrade.read_solver(path)
    param.train_state.level = flags["level"]
    param.train_state.stage.extend(_stages(flags["stage"]))
    if flags["weights"]:
        param.weights.append(_field("weights", flags["weights"]))
    if not flags["gpu"] and param.HasField("solver_mode") and param.solver_mode == caffe_pb2.SolverParameter.GPU:
        try:
            context.check_gpu(param.device_id)
        except CaffeError as error:
            raise CaffeError(f"{path}: solver_mode: {error}; or set solver_mode: CPU in the file") from None
        flags["gpu"] = str(param.device_id)
    gpus = _gpus(flags["gpu"])
    if len(gpus) > 1:
        raise CaffeError(f"-gpu {flags['gpu']}: one program trains on one GPU; give one number")
    if gpus:
        import torch

        from torchcaffe.gpu.mode import set_mode_gpu

        log.info("caffe.cpp:204", f"Using GPUs {gpus[0]}")
        log.info("caffe.cpp:209", f"GPU {gpus[0]}: {torch.cuda.get_device_name(gpus[0])}")
        param.device_id = gpus[0]
        context.set_device(gpus[0])
        set_mode_gpu()
    else:
        log.info("caffe.cpp:197", "Use CPU.")
        context.set_mode_cpu()
    with signals:
        solver = get_solver(param, source=path)
        solver.requested_action = signals
        solver.debug_nan = flags["debug_nan"]
        if flags["snapshot"]:
            log.info("caffe.cpp:233", f"Resuming from {flags['snapshot']}")
            solver.restore(flags["snapshot"])
        log.info("caffe.cpp:239", "Starting Optimization")
        solver.solve()
    log.info("caffe.cpp:250", "Optimization Done.")
    return signals.status if signals.stopped_by == signal.SIGTERM else 0  # else 0, as in BVLC


# -- test ----------------------------------------------------------------------------------------------------------


def _net(flags: Flags, phase: int) -> Any:
    from torchcaffe.nets.net import Net

    return Net(flags["model"], phase, level=flags["level"], stages=_stages(flags["stage"]))


def test(flags: Flags) -> int:
    """`test`: log the outputs of every batch, then their means."""
    model = _need(flags, "model", "test")
    weights = _weights(_need(flags, "weights", "test"))
    _check_files(model, *weights)
    iterations = _iterations(flags)
    _use(_gpus(flags["gpu"]), "caffe.cpp:275")
    net = _net(flags, caffe_pb2.TEST)
    for path in weights:
        net.copy_from(path)
    log.info("caffe.cpp:281", f"Running for {iterations} iterations.")
    loss = np.float32(0)
    totals: list[np.ndarray] = []
    for batch in range(iterations):
        loss += np.float32(float(net.run_forward(0, len(net.layers) - 1)))
        outputs = [net.blobs[name].t.cpu().numpy().flatten() for name in net.outputs]
        totals = [a + b for a, b in zip(totals, outputs)] if totals else outputs
        for name, values in zip(net.outputs, outputs):
            for value in values:
                log.info("caffe.cpp:304", f"Batch {batch}, {name} = {value:g}")
    log.info("caffe.cpp:309", f"Loss: {loss / np.float32(iterations):g}")
    for name, total in zip(net.outputs, totals):
        for mean in total / np.float32(iterations):
            log.info("caffe.cpp:321", f"{name} = {mean:g}{net.loss_term(name, mean)}")
    return 0


def _iterations(flags: Flags) -> int:
    if flags["iterations"] < 1:
        raise CaffeError(f"-iterations {flags['iterations']}: must be 1 or more")
    return flags["iterations"]


# -- time ----------------------------------------------------------------------------------------------------------


def time_net(flags: Flags) -> int:
    """`time`: log the mean time of every layer's forward and backward pass."""
    import torch

    phase = flags["phase"] or "TRAIN"
    if phase not in ("TRAIN", "TEST"):
        raise CaffeError(f"-phase {phase}: give TRAIN or TEST")
    _check_files(_need(flags, "model", "time"))
    iterations = _iterations(flags)
    gpus = _gpus(flags["gpu"])
    _use(gpus, "caffe.cpp:343")
    net = _net(flags, caffe_pb2.Phase.Value(phase))
    last = len(net.layers) - 1
    log.info("caffe.cpp:351", "Performing Forward")
    log.info("caffe.cpp:356", f"Initial loss: {float(net.run_forward(0, last)):g}")
    log.info("caffe.cpp:357", "Performing Backward")
    net.run_backward(last, 0)
    log.info("caffe.cpp:365", "*** Benchmark begins ***")
    log.info("caffe.cpp:366", f"Testing for {iterations} iterations.")

    def milliseconds(since: float) -> float:
        return int(1e6 * (time.perf_counter() - since)) / 1e3  # BVLC's clock counts whole microseconds

    def timed(function: Callable[[int, int], Any], order: Iterable[int], spent: list[float]) -> float:
        """Run the layers one by one, and add the time of each to `spent`; returns the time of all."""
        begin = time.perf_counter()
        for i in order:
            start = time.perf_counter()
            function(i, i)
            if gpus:
                torch.cuda.synchronize()
            spent[i] += milliseconds(start)
        return milliseconds(begin)

    layers = range(last + 1)
    forward, backward = [0.0] * len(layers), [0.0] * len(layers)
    forward_total = backward_total = 0.0
    begin = time.perf_counter()
    for j in range(iterations):
        start = time.perf_counter()
        forward_total += timed(net.run_forward, layers, forward)
        backward_total += timed(net.run_backward, reversed(layers), backward)
        log.info("caffe.cpp:394", f"Iteration: {j + 1} forward-backward time: {int(milliseconds(start)):g} ms.")
    log.info("caffe.cpp:397", "Average time per layer: ")
    for name, fore, back in zip(net.layer_dict, forward, backward):
        log.info("caffe.cpp:400", f"{name:>10}\tforward: {fore / iterations:g} ms.")
        log.info("caffe.cpp:403", f"{name:>10}\tbackward: {back / iterations:g} ms.")
    total = int(milliseconds(begin))
    log.info("caffe.cpp:408", f"Average Forward pass: {forward_total / iterations:g} ms.")
    log.info("caffe.cpp:410", f"Average Backward pass: {backward_total / iterations:g} ms.")
    log.info("caffe.cpp:412", f"Average Forward-Backward: {total / iterations:g} ms.")
    log.info("caffe.cpp:414", f"Total Time: {total:g} ms.")
    log.info("caffe.cpp:415", "*** Benchmark ends ***")
    return 0


# -- device_query --------------------------------------------------------------------------------------------------


def device_query(flags: Flags) -> int:
    """`device_query`: log the properties of these GPUs (without -gpu, of all)."""
    import torch

    log.info("caffe.cpp:138", f"Querying GPUs {flags['gpu']}")
    gpus = _gpus(flags["gpu"]) if flags["gpu"] else range(torch.cuda.device_count())
    for index in gpus:
        p = torch.cuda.get_device_properties(index)
        for line in (
            f"Device id:                     {index}",
            f"Major revision number:         {p.major}",
            f"Minor revision number:         {p.minor}",
            f"Name:                          {p.name}",
            f"Total global memory:           {p.total_memory}",
            f"Maximum threads per multiprocessor:{p.max_threads_per_multi_processor}",
            f"Number of multiprocessors:     {p.multi_processor_count}",
        ):
            log.info("common.cpp:186", line)
    return 0


# -- the program ---------------------------------------------------------------------------------------------------

COMMANDS = {"train": train, "test": test, "time": time_net, "device_query": device_query}


def _main(argv: list[str]) -> int:
    match argv:
        case ["run", *rest]:
            return run(rest)
        case [program, *rest] if program in programs.PROGRAMS:
            return programs.PROGRAMS[program](rest)
    asked = {word.lstrip("-") for word in argv}
    if "version" in asked:
        from torchcaffe import __version__

        print(f"torchcaffe version {__version__}")
        return 0
    if not argv or asked & {"help", "h"}:
        print(USAGE.format(programs="\n  ".join(programs.PROGRAMS), flags=describe(FLAGS)), end="")
        return 0
    # As in gflags, flags and words come in any order: `caffe -solver S train` works, too.
    flags, words = parse([w.replace("-allow-python-layers", "-allow_python_layers") for w in argv], FLAGS)
    if len(words) != 1 or words[0] not in COMMANDS:
        known = ", ".join(["run", *COMMANDS, *programs.PROGRAMS])
        raise CaffeError(f"unknown command '{' '.join(words)}' (known: {known})")
    if flags["allow_python_layers"]:
        context.allow_python_layers(True)
        sys.path.insert(0, "")  # where pycaffe's users keep their layers' modules
    return COMMANDS[words[0]](flags)


def main() -> None:
    """The entry point of `torchcaffe` and `python -m torchcaffe`."""
    run_main(lambda: _main(sys.argv[1:]))
