"""Export a trained net to ONNX, and check the file.

Example:
  ilgnet export-onnx --weights out/demo/snapshots/demo_iter_200.caffemodel \\
    --net out/demo/net/deploy.prototxt --out out/demo/net.onnx
"""

import argparse
from pathlib import Path

from ilgnet.cli.arguments import make_parser
from ilgnet.export import onnx_export
from ilgnet.photos import preprocess
from ilgnet.run import outputs
from ilgnet.scoring import scorers
from ilgnet.weights import surgery
from torchcaffe.base.errors import CaffeError


def main(argv: list[str]) -> int:
    parser = make_parser(__name__, quiet=True)
    parser.add_argument("--weights", required=True, metavar="CAFFEMODEL", help="trained weights")
    parser.add_argument("--net", help="deploy.prototxt or variant's name (default: the variant the weights fit)")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.onnx")
    parser.add_argument(
        "--preprocess",
        choices=preprocess.PRESETS,
        help="the model takes photos (N x height x width x 3, uint8 RGB) and preprocesses them so; "
        "default: it takes the net's input blob",
    )
    parser.add_argument("--mean", metavar="FILE", help="mean.binaryproto of the training set, for --preprocess")
    parser.add_argument(
        "--any-size", action="store_true", help="photos of any size, not warped: for nets with spatial pyramid pooling"
    )
    parser.add_argument("--fixed-batch", action="store_true", help="only the net's own batch size (default: any)")
    parser.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        help="compare ONNX Runtime with the engine (default: if it is installed)",
    )
    args = parser.parse_args(argv)
    if args.mean and not args.preprocess:
        raise CaffeError("--mean is for --preprocess")
    if args.check and onnx_export.runtime() is None:
        raise CaffeError("--check needs ONNX Runtime (pip install onnxruntime)")
    outputs.check(args.out)
    path = scorers.net_for(surgery.read_weights(args.weights), args.weights) if args.net is None else args.net
    net = onnx_export.load(scorers.deploy_net(path), path, args.weights)
    spec = None
    if args.preprocess:
        spec = preprocess.make(args.preprocess, args.mean, tuple(net.blobs[net.inputs[0]].shape[2:]))
    made = onnx_export.export(
        net, spec, not args.fixed_batch, args.any_size, onnx_export.describe(path, args.weights, net, spec)
    )
    if args.check or args.check is None and onnx_export.runtime() is not None:
        print(
            "check against the engine in ONNX Runtime, largest differences: "
            + ", ".join(f"{name} {error:.1e}" for name, error in onnx_export.check(made).items())
        )
    else:
        print("not checked" if args.check is False else "not checked: ONNX Runtime is not installed")
    onnx_export.write(made, args.out)
    print(f"wrote {args.out} ({args.out.stat().st_size / 1e6:.0f} MB)")
    return 0
