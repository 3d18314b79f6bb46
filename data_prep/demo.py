from ilgnet.demo.demo_set import main
from torchcaffe.base.errors import run_main

run_main(main)
