from ilgnet.cli.merge_bn import main
from torchcaffe.base.errors import run_main

run_main(main)
