from ilgnet.cli.visualize import main
from torchcaffe.base.errors import run_main

run_main(main)
