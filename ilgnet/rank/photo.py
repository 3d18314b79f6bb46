"""One photo's answer, as text for a terminal."""

from pathlib import Path

import numpy as np

from ilgnet.photos import checks, decode
from ilgnet.rank.ranking import Spec
from ilgnet.run import outputs
from ilgnet.weights import models

BAR = 40  # characters of the longest bar


def lines(path: Path, spec: Spec) -> list[str]:
    """What the model says of a photo: P(high), and of a model that predicts votes their mean, spread and shares; what
    the checks say; and which model it is. CaffeError for a photo that cannot be read."""
    photo = decode.read(path)
    scorer = spec.scorer()
    (answer,) = scorer.answers(scorer.preprocess.photo(photo.bgr)[None])
    found = checks.measure(photo.bgr)
    made = [f"{outputs.plain(path)}: {photo.width} x {photo.height}"]
    if answer.mean_vote is not None:
        spread = "" if answer.spread is None else f", spread {answer.spread:.2f}"
        made.append(f"mean vote    {answer.mean_vote:.2f} of 10{spread}")
    what = "P(high)" if answer.mean_vote is None else "P(mean > 5)"
    made.append(f"{what:12} {answer.p_high:.3f}")
    if answer.shares is not None:
        longest = float(answer.shares.max())
        made += [
            f"{vote:12d} {share:6.1%} {'#' * round(BAR * float(share) / longest)}"
            for vote, share in enumerate(np.asarray(answer.shares), 1)
        ]
    made.append(
        f"sharpness    {found.sharpness:g}, brightness {found.brightness:g}; faults: {' '.join(found.faults) or 'none'}"
    )
    return [*made, *about(spec)]


def about(spec: Spec) -> list[str]:
    """The model's name, licence and what to know of it."""
    card = models.card(spec.file)
    licence = f" ({card.licence})" if card and card.licence else ""
    return [outputs.plain(line) for line in (f"by {spec.scorer().title}, {spec.file}{licence}", *models.cautions(card))]
