from ilgnet.cli.train import main
from torchcaffe.base.errors import run_main

run_main(main)
