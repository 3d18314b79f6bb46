"""The models on this machine: where they are installed, which of them judges photos unless told, and their cards."""

import os
import re
import sys
from pathlib import Path

from ilgnet.run import results
from ilgnet.weights.published import MODELS, Published
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import files
from torchcaffe.formats.files import PathLike

TAUGHT = "taught"  # an ILGNet that learned from another model (`make teach`)
INSTALLED = {name: m.file if isinstance(m, Published) else m.installed for name, m in MODELS.items()}
INSTALLED[TAUGHT] = "ilgnet_taught.caffemodel"
JUDGES = ("ilgnet-ava1", "nima", TAUGHT)  # the first one installed judges photos


def folder() -> Path:
    """Where models are installed: weights/ of the working folder where there is one, else the user's data folder."""
    here = Path("weights")
    if here.is_dir():
        return here
    try:
        home = Path.home()
    except RuntimeError:  # a container without this user
        raise CaffeError("this user has no home folder for models; make a folder named weights here") from None
    usual = home / "Library" / "Application Support" if sys.platform == "darwin" else home / ".local" / "share"
    return Path(os.environ.get("XDG_DATA_HOME") or usual) / "ilgnet" / "weights"


def installed(name: str) -> Path | None:
    """The caffemodel of a known model, or None."""
    path = folder() / INSTALLED[name]
    return path if path.is_file() else None


def find(model: PathLike | None = None) -> Path:
    """The weights of a known model by its name; of a caffemodel, its path; without a name, of the first of JUDGES that
    is installed. CaffeError, saying what to type, where there is none."""
    if model is None:
        found = next(filter(None, map(installed, JUDGES)), None)
        if found is None:
            raise CaffeError(
                f"no model that judges photos is in {folder()}: install one by ilgnet fetch-weights nima (13 MB), "
                "or name weights with --weights"
            )
        return found
    if str(model) not in INSTALLED or Path(model).exists():
        return Path(model)
    path = installed(str(model))
    if path is None:
        how = "make teach makes it" if model == TAUGHT else f"ilgnet fetch-weights {model} installs it"
        raise CaffeError(f"{model}: not in {folder()}; {how}")
    return path


# --- cards ------------------------------------------------------------------------------------------------------------


def card_paths(weights: PathLike) -> list[Path]:
    """Where the card of weights may be: beside them, or, for a snapshot, beside all of its run."""
    beside = Path(weights).with_suffix(".json")
    return [beside, beside.with_name(re.sub(r"_iter_\d+$", "", beside.stem) + ".json")]


def card(weights: PathLike) -> results.Card | None:
    """What is known of weights, if anything is."""
    for path in card_paths(weights):
        try:
            return results.read(path, results.Card)
        except (OSError, CaffeError):  # none, or a JSON of another kind with that name
            continue
    return None


def cautions(card: results.Card | None) -> list[str]:
    """What everybody who reads a model's scores must know of it."""
    if card is None:
        return []
    made = []
    if card.synthetic:
        made.append(
            "Synthetic labels: this net was trained on photos that no person rated. Its scores say nothing about real "
            "photos."
        )
    if card.teacher:
        made.append(f"Taught by {card.teacher} on {card.photos} photos: it repeats its teacher, no person's votes.")
    return made


def mean_of(weights: PathLike) -> Path | None:
    """The mean that the card of weights names, in the card's folder."""
    found = card(weights)
    if found is None or found.mean is None:
        return None
    if Path(found.mean).name != found.mean:
        raise CaffeError(f"{found.path}: mean: {found.mean!r} is not a file's name in this folder")
    return found.path.with_name(found.mean)


def remove(place: Path, name: str) -> list[Path]:
    """Remove a known model, its card and its mean; returns what was removed. CaffeError where it is not installed."""
    path = place / INSTALLED[name]
    if not path.is_file():
        raise CaffeError(f"{name}: not in {place}: nothing to remove")
    found = [path, path.with_suffix(".json"), path.with_suffix(".mean.binaryproto")]
    found = [part for part in found if part.exists()]
    for part in found:
        part.unlink()
    return found


def install_taught(source: Path, target: Path) -> None:
    """Copy a snapshot with its card and mean to where models are installed. CaffeError without a card that names a
    teacher."""
    known = card(source)
    if known is None or known.teacher is None:
        raise CaffeError(f"{source}: no card beside it says who taught it; make teach makes such weights")
    mean = mean_of(source)
    if mean is not None:
        known.mean = target.with_suffix(".mean.binaryproto").name
        files.copy(mean, target.with_name(known.mean))
    results.write_json(target.with_suffix(".json"), known)
    files.copy(source, target)
