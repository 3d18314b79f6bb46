"""Rank a folder of photos in an offline gallery.

The gallery is an HTML page; a CSV and a JSON file beside it have every photo's
score, best first. Of one photo in place of a folder, the score is printed.
Photos are only read. --xmp, --copy-picks and --link-picks
write new files; with --dry-run they only say which. Without --weights the first
installed model of ilgnet-ava1, nima and taught scores (see fetch-weights).

Example:
  ilgnet rank ~/Pictures/2026-05 --out out/gallery.html --top 10
"""

import argparse
import sys
import time
import warnings
from pathlib import Path

from ilgnet.cli.arguments import add_net, check_range, flag, given, make_parser
from ilgnet.rank import cache as photo_cache
from ilgnet.rank import gallery, photo, picks, ranking, xmp
from ilgnet.run import engine, outputs, processes
from ilgnet.weights import models
from torchcaffe.base.errors import CaffeError


def places(out: Path) -> tuple[Path, Path, Path]:
    """The paths of the page, the CSV and the JSON. CaffeError if one would replace a file that a person made."""
    page = outputs.check(out, ".html", ".htm")
    table, text = page.with_suffix(".csv"), page.with_suffix(".json")
    ranking.refuse_changed(text, [page, table])
    return page, table, text


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """CaffeError for bad options, before any photo is scored."""
    check_range(args, "top batch workers gallery_limit")
    check_range(args, "watch", 0.001, 1_000_000)
    check_range(args, "reject_below", 0, 100)
    if args.reject_below and not args.xmp:
        raise CaffeError("--reject-below is for --xmp")
    if not (args.xmp or args.copy_picks or args.link_picks):
        for name in ("picks", "dry_run"):
            if getattr(args, name):
                raise CaffeError(f"{flag(name)} is for --xmp, --copy-picks or --link-picks")
    if args.folder.is_file():
        unused = "out top picks copy_picks link_picks xmp reject_below dry_run watch cache gallery_limit workers"
        for option in given(parser, args, unused.split()):
            raise CaffeError(f"{option} is for a folder; {args.folder} is a photo")
    if args.picks:
        picks.missing(picks.read_choices(args.picks), (item.name for item in ranking.find(args.folder)[0]), args.folder)
    for to in filter(None, (args.copy_picks, args.link_picks)):
        picks.check_place(to, args.folder)


def report(args: argparse.Namespace, made: ranking.Ranking) -> None:
    """Write the page, the CSV and the JSON, and print the best photos."""
    page, table, text = places(args.out)  # a person may have edited the CSV while the photos were scored
    gallery.write(page, made, args.gallery_limit)
    ranking.write_csv(table, made)
    ranking.write_json(text, made, [page, table])
    outputs.say(*(f"not read: {name}: {reason}" for name, reason in made.unread[:20]), file=sys.stderr)
    if len(made.unread) > 20:
        outputs.say(f"not read: {len(made.unread) - 20} more, all in {text}", file=sys.stderr)
    about = made.about
    print(
        f"{len(made.photos)} photos ({made.from_cache} known already), {len(made.unread)} not read; "
        f"{about.title}, preset {about.preprocess.preset}; {about.meaning}"
    )
    licence = f", {about.card.licence}" if about.card and about.card.licence else ""
    outputs.say(f"by {about.weights}, sha256 {(about.sha256 or '')[:12]}{licence}", *models.cautions(about.card))
    for best in made.top(args.top or 0):
        answer = best.answer
        score = f"{answer.p_high:.4f}" if answer.mean_vote is None else f"{answer.mean_vote:.3f}"
        print(f"{best.rank:5d}  {score}  {best.percentile:6.2f}%  {outputs.plain(best.name)}")
    outputs.say(f"wrote {page}, {table.name} and {text.name}")


def act(args: argparse.Namespace, made: ranking.Ranking) -> None:
    """Write copies, links and sidecars."""
    choices = picks.read_choices(args.picks) if args.picks else None
    missing = picks.missing(choices, (one.name for one in made.photos), args.folder) if choices else []
    if choices and missing:
        names = ", ".join([*map(repr, missing[:5]), *["..."] * (len(missing) > 5)])
        print(
            f"picks: {len(missing)} of {len(choices)} files are not among the photos that can be read: {names}",
            file=sys.stderr,
        )
    done = []
    for to, link in ((args.copy_picks, False), (args.link_picks, True)):
        if to is not None:
            done += picks.transfer(picks.chosen(made, choices, args.top), args.folder, to, link, args.dry_run)
    if args.xmp:
        done += picks.write_sidecars(made, picks.ratings(made, choices, args.reject_below), args.xmp, args.dry_run)
    outputs.say(*(("would " if args.dry_run and not line.startswith("left") else "") + line for line in done))
    outputs.say(f"Next: open {args.out} in a browser.")


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line's options, checked."""
    parser = make_parser(__name__, quiet=True)
    parser.add_argument("folder", type=Path, help="folder of photos; folders below it count too. Or one photo")
    add_net(parser)
    parser.add_argument("--out", type=Path, default=Path("out/gallery.html"), help="default out/gallery.html")
    parser.add_argument("--top", type=int, metavar="N", help="print and pick the best N, no two nearly the same")
    parser.add_argument("--picks", metavar="CSV", help="picks that the gallery exported, instead of the top N")
    parser.add_argument("--copy-picks", type=Path, metavar="DIR", help="copy the picks to this folder")
    parser.add_argument("--link-picks", type=Path, metavar="DIR", help="link the picks into this folder")
    parser.add_argument(
        "--xmp",
        choices=xmp.STYLES,
        nargs="?",
        const="full",
        help="write star ratings to sidecars: full (default) photo.jpg.xmp, base photo.xmp as Adobe",
    )
    parser.add_argument(
        "--reject-below", type=float, default=0, metavar="PERCENTILE", help="--xmp: -1 (rejected) below it"
    )
    parser.add_argument("--dry-run", action="store_true", help="only print what these would write")
    parser.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=2.0,
        metavar="SECONDS",
        help="look for new photos every SECONDS (default 2) until Ctrl-C",
    )
    parser.add_argument("--cache", type=Path, help=f"default: {photo_cache.NAME} in your cache folder")
    parser.add_argument("--batch", type=int, default=16, help="photos at a time (default 16)")
    parser.add_argument("--workers", type=int, help="decoding threads (default: one a core, at most 8)")
    parser.add_argument("--gallery-limit", type=int, default=gallery.LIMIT, help=f"photos a page ({gallery.LIMIT})")
    engine.add_arguments(parser, several=True)
    args = parser.parse_args(argv)
    if processes.wanted(args) > 1 and args.watch is not None:
        parser.error("--watch works in one process, on one GPU")
    check(parser, args)
    return args


def main(argv: list[str]) -> int:
    args = parse(argv)
    status = processes.launch(args, "rank", argv)
    if status is not None:
        return status
    warnings.filterwarnings("ignore", module="PIL")  # about odd headers; unreadable photos are reported anyway
    rounded = engine.set_precision(args, scoring=True)
    spec = ranking.Spec(args.weights, args.net, args.preset, args.mean, args.batch, args.engine, args.gpu, rounded)
    if args.folder.is_file():
        print("\n".join(photo.lines(args.folder, spec)))
        return 0
    places(args.out)
    processes.start(args)
    cache = photo_cache.Cache(args.cache)
    seen = None
    while True:
        now = [(item.name, photo_cache.state(item.stat)) for item in ranking.find(args.folder)[0]]
        if now != seen:
            made = ranking.rank(args.folder, spec, cache, args.workers, sys.stderr.isatty() and processes.root())
            if processes.root():
                report(args, made)
                act(args, made)
            seen = now
        if args.watch is None:
            cache.close()
            return 0
        sys.stdout.flush()
        time.sleep(args.watch)
