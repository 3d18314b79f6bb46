"""pycaffe's compiled module by its name: Net, Blob, the solvers and so on, from where they are here."""

from torchcaffe.pycaffe import *  # noqa: F403
from torchcaffe.pycaffe import __getattr__  # noqa: F401
