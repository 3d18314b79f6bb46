"""Modules under a second name: pycaffe's names in this package, and `caffe` for the package itself."""

import importlib
import importlib.abc
import importlib.util
import sys
from typing import Any

# pycaffe's module names, and torchcaffe.layer for people's own layer types.
ALIASES = {
    "torchcaffe._caffe": "torchcaffe.pycaffe",
    "torchcaffe.classifier": "torchcaffe.pycaffe.classifier",
    "torchcaffe.coord_map": "torchcaffe.pycaffe.coord_map",
    "torchcaffe.detector": "torchcaffe.pycaffe.detector",
    "torchcaffe.draw": "torchcaffe.pycaffe.draw",
    "torchcaffe.io": "torchcaffe.pycaffe.io",
    "torchcaffe.layer": "torchcaffe.core.layer",
    "torchcaffe.log": "torchcaffe.base.log",
    "torchcaffe.net_spec": "torchcaffe.pycaffe.net_spec",
}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module under its second name: the same object, loaded on first use."""

    as_caffe = False

    def real_name(self, name: str) -> str:
        """The name of the module that `name` means; `name` itself if it is no alias."""
        if self.as_caffe and (name == "caffe" or name.startswith("caffe.")):
            name = "torchcaffe" + name[5:]
        return ALIASES.get(name, name)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        real = self.real_name(name)
        if real == name:
            return None
        try:
            importlib.import_module(real)
        except ModuleNotFoundError as error:
            if error.name and error.name.startswith("torchcaffe"):
                return None
            raise
        return importlib.util.spec_from_loader(name, self)

    def create_module(self, spec: Any) -> Any:
        module = sys.modules[self.real_name(spec.name)]
        self._own_spec = module.__spec__
        return module

    def exec_module(self, module: Any) -> None:
        """Restore the module's own spec, which the import system has just replaced by the alias's."""
        module.__spec__ = self._own_spec


_finder = _Finder()
sys.meta_path.insert(0, _finder)


def install_as_caffe() -> None:
    """Make `import caffe`, `from caffe.proto import caffe_pb2` and so on mean this engine, in this process."""
    _finder.as_caffe = True
