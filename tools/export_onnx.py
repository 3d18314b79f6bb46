from ilgnet.cli.export_onnx import main
from torchcaffe.base.errors import run_main

run_main(main)
