from ilgnet.cli.mean import main
from torchcaffe.base.errors import run_main

run_main(main)
