"""From a variant and a data set to the text of its train_val.prototxt and deploy.prototxt."""

from dataclasses import dataclass
from pathlib import Path

from ilgnet.nets.datasets import DATASETS, Dataset
from ilgnet.nets.folding import merge_bn
from ilgnet.nets.modules import Net
from ilgnet.nets.targets import TARGETS
from ilgnet.nets.variants import VARIANTS
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats.files import write_bytes
from torchcaffe.proto import caffe_pb2, format_text
from torchcaffe.pycaffe.net_spec import NetSpec
from torchcaffe.pycaffe.net_spec import layers as L
from torchcaffe.pycaffe.net_spec import params as P


@dataclass(frozen=True)
class Choice:
    """The options of gen-net. The defaults are the paper's set-up with the released batch size."""

    variant: str = "v1bn"
    dataset: str = "ava1"
    crop: int = 224
    batch_size: int = 48
    trunk: str = "finetune"
    source: str | None = None
    pool: str | None = None
    drop_lrn: bool = False
    spp: bool = False
    merge_bn: bool = False
    no_clip: bool = False
    target: str = ""  # the variant's own

    def __post_init__(self) -> None:
        variant = lookup(VARIANTS, self.variant, "variant")
        lookup(DATASETS, self.dataset, "dataset")
        object.__setattr__(self, "target", self.target or variant.target)
        lookup(TARGETS, self.target, "target")
        if self.target == "ranking" and self.batch_size % 2:
            raise CaffeError(f"batch size {self.batch_size}: must be even for ranking, which pairs a batch's halves")
        if not variant.smallest <= self.crop <= 256:
            least = f"{variant.name} needs at least {variant.smallest} pixels"
            raise CaffeError(f"crop {self.crop}: {least}, and the LMDB's photos have 256")
        if self.batch_size < 1:
            raise CaffeError(f"batch size {self.batch_size}: must be at least 1")
        if self.merge_bn and not variant.batch_norm:
            raise CaffeError(f"{variant.name} has no batch normalisation to merge")
        if self.merge_bn and self.trunk == "frozen":
            raise CaffeError("a net with merged batch normalisation is for deployment: it has no trunk to freeze")
        if self.pool and variant.pool is None:
            raise CaffeError(f"{variant.name} has no pooling branch that could be {self.pool}")
        if self.no_clip and variant.paper:
            raise CaffeError(f"{variant.name} has no Clip layers to write in another way")
        if self.spp and not variant.paper:
            raise CaffeError(f"{variant.name} takes photos of any size as it is: it has no spatial pyramids")
        if self.drop_lrn and not variant.lrn:
            raise CaffeError(f"{variant.name} has no local response normalisation to drop")

    def command(self) -> str:
        """The command that makes these files again, without --out."""
        words = [f"python tools/gen_net.py --variant {self.variant}"]
        for field, default in Choice.__dataclass_fields__.items():
            value = getattr(self, field)
            usual = VARIANTS[self.variant].target if field == "target" else default.default
            if field != "variant" and value != usual:
                words.append("--" + field.replace("_", "-") + ("" if value is True else f" {value}"))
        return " ".join(words)


def lookup(registry: dict, name: str, what: str):
    """registry[name]. CaffeError, listing the names, for an unknown one."""
    if name not in registry:
        raise CaffeError(f"unknown {what} {name!r}: choose from {', '.join(registry)}")
    return registry[name]


def data_layers(n: NetSpec, choice: Choice, dataset: Dataset, train: bool) -> None:
    """The Data layer: 256x256 photos from an LMDB, minus the mean photo, cropped (at random and mirrored in training).
    A target with labels of its own gets a second one, which reads them in step, since the LMDBs' keys are the same."""
    folder = (choice.source or dataset.source).rstrip("/")
    target = TARGETS[choice.target]
    part = "train" if train else "val"
    # a ranking's pairs are counted in its net, so that it tests in training's batches
    size = choice.batch_size if train or choice.target == "ranking" else dataset.test_batch
    here = dict(include=dict(phase=caffe_pb2.TRAIN if train else caffe_pb2.TEST), batch_size=size, backend=P.Data.LMDB)
    mean = list(VARIANTS[choice.variant].mean_values)
    less = dict(mean_value=mean) if mean else dict(mean_file=f"{folder}/mean.binaryproto")
    photo = dict(mirror=train, crop_size=choice.crop, **less)
    n["data"], n["label"] = L.Data(ntop=2, transform_param=photo, source=f"{folder}/{part}_lmdb", **here)
    if target.label:
        n["votes"] = L.Data(source=f"{folder}/{part}_{target.label}_lmdb", **here)


def data_protos(n: NetSpec, choice: Choice, train: bool) -> list:
    """The data layers of a net, without unread tops, which Caffe would print as the net's outputs."""
    target = TARGETS[choice.target]
    found = [layer for layer in n.to_proto().layer if layer.type == "Data"]
    if target.label and (train or not target.reads_classes):
        found[0].top.remove("label")
    return found


def finish(choice: Choice, net):
    """Name the net, and fold its batch normalisation if asked."""
    if choice.merge_bn:
        net = merge_bn(net)
    named = caffe_pb2.NetParameter(name=title(choice))
    named.layer.extend(net.layer)
    return named


def title(choice: Choice) -> str:
    """The net's name: the paper's, and in brackets how it differs, so that reports do not take its accuracy for the
    paper's. A frozen trunk and merged batch normalisation do not change what a net computes."""
    variant = VARIANTS[choice.variant]
    others = [choice.target] if choice.target != variant.target else []
    if choice.spp:
        others.append("spatial pyramids")
    if choice.drop_lrn:
        others.append("no LRN")
    if choice.pool and choice.pool.upper() != variant.pool:
        others.append(f"{choice.pool} pooling")
    if choice.crop not in (224, 227):  # the paper's and the released files'
        others.append(f"crop {choice.crop}")
    return f"{variant.title} ({', '.join(others)})" if others else variant.title


def train_val(choice: Choice):
    """The NetParameter for training (TRAIN) and testing (TEST)."""
    variant, dataset = VARIANTS[choice.variant], DATASETS[choice.dataset]
    n, test = Net(choice, variant), NetSpec()
    data_layers(n, choice, dataset, train=True)
    data_layers(test, choice, dataset, train=False)
    data = data_protos(n, choice, True) + data_protos(test, choice, False)
    variant.build(n)
    both = caffe_pb2.NetParameter()
    both.layer.extend([*data, *(layer for layer in n.to_proto().layer if layer.type != "Data")])
    return finish(choice, both)


def deploy(choice: Choice):
    """The NetParameter that scores photos: one 3 x crop x crop photo (BGR, less the mean) to [low, high], or to what
    another target's net answers."""
    variant = VARIANTS[choice.variant]
    n = Net(choice, variant)
    n["data"] = L.Input(shape=dict(dim=[1, 3, choice.crop, choice.crop]))
    variant.build(n)
    return finish(choice, n.to_proto())


def header(choice: Choice, what: str) -> str:
    return f"# {title(choice)}: {VARIANTS[choice.variant].about}.\n# {what}\n# Made by: {choice.command()}\n"


def deploy_text(choice: Choice) -> str:
    """The text of deploy.prototxt."""
    scoring = f"For scoring photos; the answer is {TARGETS[choice.target].answer}"
    scoring += " (paper, section 3.2)." if choice.target == "classes" else "."
    return header(choice, scoring) + format_text(deploy(choice))


def texts(choice: Choice) -> dict[str, str]:
    """The files' texts by name."""
    dataset = DATASETS[choice.dataset]
    training = f"For training and testing on {dataset.title} (paper, sections 3.2 and 4)."
    if choice.target != "classes":
        training = f"For training and testing on {dataset.title}: {TARGETS[choice.target].about}."
    return {
        "train_val.prototxt": header(choice, training) + format_text(train_val(choice)),
        "deploy.prototxt": deploy_text(choice),
    }


def write(files: dict[Path, str]) -> None:
    """Write files, and print their names."""
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, text.encode())
        print(path)


def checkout(folder: str) -> Path:
    """Where a checkout keeps its committed prototxt/ or solvers/. CaffeError for an installed package."""
    path = Path(__file__).resolve().parents[2] / folder
    if not path.is_dir():
        raise CaffeError(f"--all writes a checkout's {folder}/ anew, and {path} is not there")
    return path


def train_val_path(variant: str, dataset: str) -> str:
    """Where the committed net of a variant for a data set is, below prototxt/."""
    return f"{variant}/train_val.prototxt" if dataset == "ava1" else f"{variant}/train_val_{dataset}.prototxt"


def committed() -> dict[Path, str]:
    """Every committed file below prototxt/ and its text: one deploy a variant, one train_val a data set."""
    files, root = {}, checkout("prototxt")
    for variant in VARIANTS:
        for dataset in DATASETS if VARIANTS[variant].paper else ["ava1"]:
            both = texts(Choice(variant, dataset))
            files[root / train_val_path(variant, dataset)] = both["train_val.prototxt"]
            if dataset == "ava1":
                files[root / variant / "deploy.prototxt"] = both["deploy.prototxt"]
    return files
