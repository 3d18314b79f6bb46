from ilgnet.cli.prepare import main
from torchcaffe.base.errors import run_main

run_main(main)
