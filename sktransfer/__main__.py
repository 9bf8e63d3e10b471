"""``python -m sktransfer``: the demo, and a thin command line over the public functions."""

from __future__ import annotations

import argparse
import io
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from sktransfer._version import __version__
from sktransfer.exceptions import SkTransferError

_MODEL = "file of `train` or of a classifier's save, or a pickle with --allow-pickle"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that cannot show a name is no error
        sys.stdout.reconfigure(errors="backslashreplace")
    shown, warnings.formatwarning = warnings.formatwarning, _formatted
    try:
        return options.run(options) or 0
    except (SkTransferError, ValueError, ArithmeticError, OSError) as error:
        # These messages say what to do; a traceback would bury that.
        print(f"sktransfer: {error}", file=sys.stderr)
        return 1
    finally:
        warnings.formatwarning = shown


def _formatted(message: Warning | str, *_: Any, **__: Any) -> str:
    """Return a warning without the line of code that issued it."""
    return f"warning: {message}\n"


def _later(module: str, function: str) -> Callable[[argparse.Namespace], int | None]:
    """Return what runs a command, which is imported then: --help does not wait for torch."""
    return lambda options: getattr(import_module(module), function)(options)


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


_ORDER = """\
in this order, with one sub-folder of images per class in each of train/ and test/:
  python -m sktransfer demo --images train/                 can a network tell the classes apart?
  python -m sktransfer train train/ -o model.safetensors    the model; --positive CLASS
                                                            --sensitivity 0.95 adds a threshold
  python -m sktransfer report model.safetensors test/       how good it is on images it has not seen
  python -m sktransfer predict model.safetensors new/       images without labels, DICOM among them
`python -m sktransfer COMMAND --help` has the options of each.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sktransfer",
        description="Image transfer learning as scikit-learn estimators.",
        epilog=_ORDER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_train(commands)
    _add_report(commands)
    _add_predict(commands)
    _add_accept(commands)
    _add_export(commands)

    listing = commands.add_parser("list", help="list the backbones there are")
    listing.add_argument(
        "pattern", nargs="?", help="part of a name, or a pattern such as 'resnet*'"
    )
    listing.set_defaults(run=_run_list)

    describing = commands.add_parser("describe", help="describe the stages of one backbone")
    describing.add_argument("backbone", help="name of the backbone, as `list` shows it")
    describing.set_defaults(run=_run_describe)
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
    parser.add_argument(
        "--save", metavar="FILE", help="also write the model, fitted to all of the images"
    )
    parser.set_defaults(run=_later("sktransfer._demo", "run_demo"))


def _add_train(commands: Any) -> None:
    parser = commands.add_parser(
        "train",
        help="train a model on a folder or a table of labeled images, and save it",
        description="Choose among the pretrained networks on this machine, and average the good "
        "ones (TransferClassifier), print the cross-validated ROC AUC, choose a threshold if asked "
        "to, and write a file without code. Images that cannot be read are named and left out.",
    )
    parser.add_argument(
        "data", help="folder with one sub-folder per class, or a table of file names and labels"
    )
    parser.add_argument(
        *("-o", "--output"), metavar="FILE", required=True, help="the model: model.safetensors"
    )
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        help="the only backbone to use (default: all whose weights are here; see `list`)",
    )
    parser.add_argument(
        "--time-budget",
        metavar="SECONDS",
        type=float,
        help="also fine-tune networks for about this long (default: none is fine-tuned)",
    )
    parser.add_argument(
        "--positive",
        metavar="CLASS",
        help="positive class; all others are negative",
    )
    level = parser.add_mutually_exclusive_group()
    for name in ("sensitivity", "specificity"):
        level.add_argument(
            f"--{name}",
            metavar="LEVEL",
            type=float,
            help=f"store a threshold that keeps this {name} for CLASS, such as 0.95",
        )
    parser.add_argument(
        "--confidence",
        metavar="LEVEL",
        default="0.95",
        help="confidence with which it is kept, or none for a point estimate "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--store-weights",
        action="store_true",
        help="write the networks themselves too, for machines that do not have their weights",
    )
    _add_columns(parser)
    parser.set_defaults(run=_later("sktransfer._command_train", "run_train"))


def _add_columns(parser: Any) -> None:
    """Add the options that say what the columns of a table are."""
    parser.add_argument(
        "--target", metavar="COLUMN", help="column with the labels (default: label and the like)"
    )
    parser.add_argument(
        "--groups",
        metavar="COLUMN",
        default="auto",
        help="column with the patients, or none (default: patient_id and the like)",
    )
    _add_image(parser)


def _add_image(parser: Any) -> None:
    parser.add_argument(
        "--image", metavar="COLUMN", help="column with the files (default: file and the like)"
    )


def _add_predict(commands: Any) -> None:
    parser = commands.add_parser(
        "predict",
        help="predict images with a saved model: files, folders, tables",
        description="Write a row for each image: its name, the probability of each class, the "
        "class that is predicted (by the threshold of the model if it has one), and the reason "
        "where an image cannot be read, whose probabilities are NaN. Nothing else of an image is "
        "written.",
        epilog="exit status: 0 if every image was predicted, 1 after an error (no table is "
        "written), 3 if some images could not be read (the table is written)",
    )
    parser.add_argument("model", help=_MODEL)
    parser.add_argument(
        "images",
        nargs="+",
        help="image or DICOM files; folders, in which all images are predicted, in sub-folders "
        "too; tables with a column of file names; - for standard input: names of files, one on "
        "each line, or the bytes of one image",
    )
    parser.add_argument(
        *("-o", "--output"),
        metavar="FILE",
        help="the table: .csv, .jsonl or .parquet (default: standard output)",
    )
    parser.add_argument(
        "--format",
        choices=["csv", "jsonl", "parquet"],
        help="format of the table (default: what FILE ends in, otherwise csv); JSON lines are "
        "printed while images are predicted",
    )
    parser.add_argument(
        "--log",
        metavar="FILE",
        help="append a JSON line for each prediction: time, digests of model and image, "
        "probabilities, threshold, decision, versions",
    )
    parser.add_argument(
        "--identifiers", action="store_true", help="write the names of files to the log"
    )
    _add_image(parser)
    _add_model_options(parser)
    parser.set_defaults(run=_later("sktransfer._command_predict", "run_predict"))


def _add_export(commands: Any) -> None:
    parser = commands.add_parser(
        "export",
        help="write a saved model as one ONNX file, for machines without torch",
        description="Write one ONNX file, from decoded pixels to the decision, and compare it with "
        "the model. It runs with onnxruntime.",
    )
    parser.add_argument("model", help=_MODEL)
    parser.add_argument("output", help="the file: model.onnx")
    parser.add_argument(
        "--precision",
        choices=["auto", "float32", "int8"],
        default="auto",
        help="what networks are computed in (default: float32, or what the model has)",
    )
    parser.add_argument(
        "--calibration", metavar="DIR", help="folder of images to quantize on, for int8"
    )
    parser.add_argument(
        "--compare", metavar="DIR", help="folder of images to compare on (default: 4 photographs)"
    )
    _add_model_options(parser)
    parser.set_defaults(run=_later("sktransfer._command_export", "run_export"))


def _add_model_options(parser: Any) -> None:
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="load a pickle, which may run any code: only from sources you trust",
    )
    parser.add_argument(
        "--weights",
        metavar="PATH",
        help="file of the model's pretrained weights, or a folder with it, if it lies elsewhere",
    )


def _add_accept(commands: Any) -> None:
    parser = commands.add_parser(
        "accept",
        help="accept or reject a saved model by a site's own images, or count how many it takes",
        description="Compare the rates of a saved model on a site's own images with what is "
        "required, by their intervals. Without a model and data, print how many patients the test "
        "needs.",
        epilog="exit status: 0 accepted, or the numbers were printed; 1 after an error; 2 wrong "
        "options; 3 rejected; 4 inconclusive: more patients are needed",
    )
    parser.add_argument("model", nargs="?", help=_MODEL)
    parser.add_argument(
        "data",
        nargs="?",
        help="folder with one sub-folder per class, or a table of file names and labels",
    )
    parser.add_argument(
        "--required",
        nargs="+",
        required=True,
        metavar="RATE=LEVEL",
        help="sensitivity=0.9 specificity=0.7; sensitivity:CLASS=0.9 for one of several classes",
    )
    parser.add_argument(
        "--expected",
        nargs="+",
        metavar="RATE=LEVEL",
        help="what the rates are thought to be (default: halfway from what is required to 1)",
    )
    for name, level, what in (
        ("power", 0.8, "probability with which a rate as expected is accepted"),
        ("confidence", 0.95, "level of the intervals"),
        ("prevalence", None, "share of positive patients, for the number of all"),
    ):
        more = "" if level is None else " (default: %(default)s)"
        parser.add_argument(
            f"--{name}", metavar="SHARE", type=float, default=level, help=what + more
        )
    parser.add_argument(
        *("-o", "--output"),
        action="append",
        metavar="FILE",
        help="a page on the test: acceptance.html, .md or .json; may be repeated",
    )
    parser.add_argument("--positive", metavar="CLASS", help="positive class")
    parser.add_argument("--classes", nargs="+", metavar="LABEL=NAME", help="as of `report`")
    parser.add_argument(
        "--subgroups",
        nargs="+",
        metavar="COLUMN",
        help="columns to tabulate by, or none (default: usual names)",
    )
    _add_columns(parser)
    _add_model_options(parser)
    parser.set_defaults(run=_later("sktransfer._command_accept", "run_accept"))


def _add_report(commands: Any) -> None:
    parser = commands.add_parser(
        "report",
        help="evaluate a saved model on a folder or a table of images",
        description="Evaluate a saved classifier on images it has not seen: ROC curve, operating "
        "point, calibration, net benefit, subgroups, baselines, failures and maps in one file. "
        "Names of files and patients are not written to it.",
    )
    parser.add_argument("model", help=_MODEL)
    parser.add_argument(
        "data", help="folder with one sub-folder per class, or a table of file names and labels"
    )
    parser.add_argument(
        *("-o", "--output"),
        action="append",
        metavar="FILE",
        help="report.html (the default), .md or .json; README.md is a card for the Hugging Face "
        "Hub, card.xml one of the Coalition for Health AI; may be repeated",
    )
    # argparse takes -1=normal, as it does -1, for a value once it looks like a number to it.
    parser._negative_number_matcher = re.compile(r"-[0-9.]+(=.*)?$", re.DOTALL)
    parser.add_argument("--positive", metavar="CLASS", help="positive class")
    parser.add_argument(
        "--train", metavar="DATA", help="the data it was trained on, in the same form"
    )
    _add_columns(parser)
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
    parser.add_argument(
        "--audit-labels", action="store_true", help="rank labels that are probably wrong"
    )
    parser.add_argument("--no-images", action="store_true", help="show no images")
    parser.add_argument(
        "--identifiers", action="store_true", help="write names of files and readers"
    )
    _add_model_options(parser)
    parser.set_defaults(run=_later("sktransfer.report._command", "run_report"))


if __name__ == "__main__":
    sys.exit(main())
