from ilgnet.cli.check_ava import main
from torchcaffe.base.errors import run_main

run_main(main)
