"""Choice of engine: torchcaffe, or a real pycaffe. What follows uses only pycaffe's API, so both run the same code."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from torchcaffe.base import context
from torchcaffe.base.errors import CaffeError

ENGINES = ("torch", "bvlc")


def gpu_list(text: str) -> list[int]:
    """The numbers of --gpu 0,1."""
    return [int(word) for word in text.split(",")]


def add_arguments(parser: Any, several: bool = False) -> None:
    """--engine and --gpu, the same for every tool that computes; several: --gpu takes a list, and --precision."""
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="torch",
        help="torch: torchcaffe (default); bvlc: a real pycaffe (make bvlc sets one up)",
    )
    parser.add_argument(
        "--gpu",
        type=gpu_list if several else int,
        metavar="N[,N...]" if several else "N",
        help="compute on CUDA device N (default: on the CPU)"
        + (
            "; on several, a process each: in training with its own batches, and the mean of all "
            "gradients, in testing with its share of the photos"
            if several
            else ""
        ),
    )
    if several:
        parser.add_argument(
            "--precision",
            choices=(*context.PRECISIONS, *context.ROUNDED[1:]),
            default="fp32",
            help="on a GPU tf32 or bf16: of convolutions and inner products; scoring on a CPU bf16 or "
            "int8: of large inner products' weights. Strict fp32 (default), or faster",
        )


def set_precision(args: Any, scoring: bool = False) -> str | None:
    """What --precision says. Returns what a Scorer on a CPU shall round weights to. CaffeError where it means
    nothing."""
    precision, torch = args.precision, args.engine == "torch"
    if precision == "fp32" or torch and args.gpu is not None and precision in context.PRECISIONS:
        context.set_precision(precision)
        return None
    if torch and args.gpu is None and scoring and precision in context.ROUNDED:
        return precision
    raise CaffeError(
        f"--precision {precision}: torchcaffe takes {' and '.join(context.PRECISIONS[1:])} on a GPU "
        f"(--gpu N), {' and '.join(context.ROUNDED)} for scoring on a CPU"
    )


def load_engine(name: str = "torch", gpu: int | None = None, log: Callable[[bytes], None] | None = None) -> Any:
    """The module that is `caffe`, in CPU mode or on device `gpu`. CaffeError when it cannot be had.

    log: called with each line of a real Caffe's log; torchcaffe logs to sys.stderr."""
    caffe: Any
    if name == "torch":
        import torchcaffe as caffe
    else:
        from ilgnet.run import remote

        caffe = remote.Caffe(log)
    if gpu is None:
        caffe.set_mode_cpu()
    else:
        caffe.set_device(gpu)
        caffe.set_mode_gpu()
    return caffe


def of_phase(net: Any, phase: int) -> Any:
    """The layers that an upgraded NetParameter has in a phase, as a new NetParameter."""
    from torchcaffe.nets import plan
    from torchcaffe.proto import caffe_pb2

    param = caffe_pb2.NetParameter()
    param.CopyFrom(net)
    param.state.phase = phase
    return plan.filter_net(param)


def without_data(net: Any, phase: int, batch: int = 1, source: str = "net") -> Any:
    """The net of one phase with its data layers replaced by Input layers, so that it loads without its LMDB.

    net: an upgraded NetParameter. A data layer's first top becomes (batch, 3, crop, crop), its others (batch,). A net
    that learns from votes ends in its answers: its labels have other shapes, and a ranking's loss wants whole batches.
    """
    from ilgnet.nets.targets import up_to_answers
    from torchcaffe.proto import caffe_pb2

    param = up_to_answers(of_phase(net, phase))
    for layer in param.layer:
        if layer.bottom or layer.type in ("Input", "DummyData", "Parameter"):
            continue
        crop = layer.transform_param.crop_size or layer.memory_data_param.height
        if not crop:
            raise CaffeError(
                f"{source}: layer '{layer.name}': transform_param.crop_size is not set, so its size is "
                "unknown; give its deploy.prototxt"
            )
        made = caffe_pb2.LayerParameter(name=layer.name, type="Input", top=layer.top)
        for i in range(len(layer.top)):
            made.input_param.shape.add(dim=[batch] if i else [batch, 3, crop, crop])
        layer.CopyFrom(made)
    return param


def make_net(caffe: Any, net: Any, phase: int, source: str = "net") -> Any:
    """A Net of `caffe` from a NetParameter; `source` names it in errors."""
    from torchcaffe.proto import format_text

    with tempfile.TemporaryDirectory() as folder:  # an engine reads nets from files
        path = Path(folder, "net.prototxt")
        path.write_text(format_text(net), encoding="utf-8")
        try:
            made = caffe.Net(path, phase)
        except CaffeError as error:
            raise CaffeError(str(error).replace(str(path), source)) from None
    made.source = source
    return made


def arrays(net: Any) -> dict[str, list[np.ndarray]]:
    """The net's parameters as live arrays by layer name."""
    return {name: [blob.data for blob in blobs] for name, blobs in net.params.items()}
