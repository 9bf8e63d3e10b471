"""``python -m sktransfer``: the demo, and a thin command line over the public functions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sktransfer import __version__, describe_backbone, list_backbones
from sktransfer._demo import run_demo
from sktransfer.exceptions import SkTransferError
from sktransfer.report.command import add_command, run_command


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sktransfer", description="Image transfer learning as scikit-learn estimators."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)

    demo = commands.add_parser(
        "demo",
        help="cross-validate a pretrained network on scikit-learn's digits or your own folder",
        description="Embed images with a frozen pretrained network, cross-validate a logistic "
        "regression on them, choose a threshold, draw the ROC curve and the confusion matrix.",
    )
    demo.add_argument("--images", metavar="DIR", help="folder with one sub-folder a class")
    demo.add_argument(
        "--backbone", metavar="NAME", help="network (default: efficientnet_lite0; see `list`)"
    )
    demo.add_argument(
        "--positive", metavar="CLASS", help="class to look for, all others being negative"
    )
    demo.add_argument(
        "--output", metavar="DIR", default="sktransfer-demo", help="where plots go (%(default)s)"
    )

    listing = commands.add_parser("list", help="the networks there are")
    listing.add_argument("pattern", nargs="?", help="such as 'resnet*'")

    describing = commands.add_parser("describe", help="the stages of one network")
    describing.add_argument("backbone")

    add_command(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "demo":
            run_demo(options.images, options.backbone, options.output, options.positive)
        elif options.command == "list":
            table = list_backbones(options.pattern)
            if table.empty:
                raise ValueError(f"No network is called anything like {options.pattern!r}.")
            print(table.to_string(index=False))
        elif options.command == "report":
            run_command(options)
        else:
            print(describe_backbone(options.backbone).to_string(index=False))
    except (SkTransferError, ValueError, OSError) as error:
        # Errors on purpose say what to do; a traceback would bury that.
        print(f"sktransfer: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
