"""``python -m sktransfer``: the demo, and a thin command line over the public functions."""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Sequence
from typing import Any

from sktransfer._version import __version__
from sktransfer.exceptions import SkTransferError

# What runs a command is imported when it is run: --help and --version do not wait for torch.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that cannot show a name is no error
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        options.run(options)
    except (SkTransferError, ValueError, ArithmeticError, OSError) as error:
        # These messages say what to do; a traceback would bury that.
        print(f"sktransfer: {error}", file=sys.stderr)
        return 1
    return 0


def _run_demo(options: argparse.Namespace) -> None:
    from sktransfer._demo import run_demo

    run_demo(options.images, options.backbone, options.output, options.positive)


def _run_list(options: argparse.Namespace) -> None:
    from sktransfer import list_backbones

    table = list_backbones(options.pattern)
    if table.empty:
        raise ValueError(
            f"No backbone has a name that matches {options.pattern!r}. Without a pattern, all of "
            "them are listed."
        )
    print(table.to_string(index=False))


def _run_describe(options: argparse.Namespace) -> None:
    from sktransfer import describe_backbone

    print(describe_backbone(options.backbone).to_string(index=False))


def _run_report(options: argparse.Namespace) -> None:
    from sktransfer.report._command import run_command

    run_command(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sktransfer", description="Image transfer learning as scikit-learn estimators."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_demo(commands)

    listing = commands.add_parser("list", help="list the backbones there are")
    listing.add_argument(
        "pattern", nargs="?", help="part of a name, or a pattern such as 'resnet*'"
    )
    listing.set_defaults(run=_run_list)

    describing = commands.add_parser("describe", help="describe the stages of one backbone")
    describing.add_argument("backbone", help="name of the backbone, as `list` shows it")
    describing.set_defaults(run=_run_describe)

    _add_report(commands)
    return parser


def _add_demo(commands: Any) -> None:
    parser = commands.add_parser(
        "demo",
        help="cross-validate a pretrained network on scikit-learn's digits or your own folder",
        description="Embed images with a frozen pretrained network, cross-validate a logistic "
        "regression on them, choose a threshold, draw the ROC curve and the confusion matrix.",
    )
    parser.add_argument("--images", metavar="DIR", help="folder with one sub-folder per class")
    parser.add_argument(
        "--backbone", metavar="NAME", help="backbone (default: efficientnet_lite0; see `list`)"
    )
    parser.add_argument(
        "--positive", metavar="CLASS", help="positive class; all others are negative"
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        default="sktransfer-demo",
        help="folder for the plots (default: %(default)s)",
    )
    parser.set_defaults(run=_run_demo)


def _add_report(commands: Any) -> None:
    parser = commands.add_parser(
        "report",
        help="evaluate a saved model on a folder or a table of images",
        description="Evaluate a saved classifier on images it has not seen: ROC curve, operating "
        "point, calibration, net benefit, subgroups, baselines, failures and maps in one file. "
        "Names of files and patients are not written to it.",
    )
    parser.add_argument(
        "model", help="file of FineTuneClassifier.save, or a pickle with --allow-pickle"
    )
    parser.add_argument(
        "data", help="folder with one sub-folder per class, or a table of file names and labels"
    )
    parser.add_argument(
        *("-o", "--output"),
        action="append",
        metavar="FILE",
        help="report.html (the default), .md or .json; may be repeated",
    )
    # argparse takes -1=normal, as it does -1, for a value once it looks like a number to it.
    parser._negative_number_matcher = re.compile(r"-[0-9.]+(=.*)?$", re.DOTALL)
    parser.add_argument("--positive", metavar="CLASS", help="positive class")
    parser.add_argument(
        "--train", metavar="DATA", help="the data it was trained on, in the same form"
    )
    parser.add_argument("--target", metavar="COLUMN", help="column of the CSV with the labels")
    parser.add_argument(
        "--groups",
        metavar="COLUMN",
        default="auto",
        help="column with the patients (default: patient_id and the like)",
    )
    for name, what in (
        ("classes", "what the data call each class of the model: 0=normal 1=malignant"),
        ("metadata", "columns for a baseline that sees no image, or none (default: usual names)"),
        ("subgroups", "columns to tabulate by, or none (default: usual names)"),
        ("readers", "columns with the experts' labels"),
    ):
        value = "LABEL=NAME" if name == "classes" else "COLUMN"
        parser.add_argument(f"--{name}", nargs="+", metavar=value, help=what)
    parser.add_argument("--threshold", type=float, help="decision threshold instead of the model's")
    parser.add_argument("--title", help="title of the report")
    parser.add_argument(
        "--saliency",
        choices=["gradient", "integrated_gradients", "grad_cam", "occlusion", "none"],
        default="gradient",
        help="how saliency maps are computed (default: %(default)s)",
    )
    parser.add_argument("--no-images", action="store_true", help="show no images")
    parser.add_argument(
        "--identifiers", action="store_true", help="write names of files and readers"
    )
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="load a pickle, which may run any code: only from sources you trust",
    )
    parser.set_defaults(run=_run_report)


if __name__ == "__main__":
    sys.exit(main())
