from ilgnet.ava.splits import main
from torchcaffe.base.errors import run_main

run_main(main)
