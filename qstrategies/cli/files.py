"""The commands that read an exported file from anywhere: verify, certify, predict."""

from __future__ import annotations

import argparse
from typing import Any

from qstrategies.cli.location import add_location, location
from qstrategies.cli.output import show, show_json, warn
from qstrategies.cli.values import file as file_path
from qstrategies.cli.values import json_file as json_path
from qstrategies.text import line


def add_verify(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "files",
        metavar="FILE",
        type=file_path,
        nargs="+",
        help="exported .onnx and .tflite files; several must give the same bits",
    )
    sub.add_argument(
        "--runtime", action="append", help="only this runtime (may be repeated; default: all)"
    )
    add_location(sub)
    sub.add_argument("--json", action="store_true", help="print JSON")


def verify(options: argparse.Namespace) -> int:
    from qstrategies.onnx_file import load_checked

    for path in options.files:  # before torch is imported, which takes seconds
        if path.suffix == ".onnx":
            load_checked(path)
    from qstrategies.execution import verify as verification

    report = verification.verify_together(options.files, location(options), options.runtime)
    single = report["files"][0] if len(report["files"]) == 1 else None
    if options.json:
        show_json(single or report)
    else:
        show(verification.report_text(single) if single else verification.together_text(report))
    altered = any(each["unchanged"] is False for each in report["files"])
    return 0 if report["verdict"] == "same" and not altered else 1


def add_certify(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "file",
        metavar="FILE.onnx",
        type=file_path,
        help="an int8 ONNX file (QDQ) of this package or another tool",
    )
    sub.add_argument(
        "--json", action="store_true", help="print JSON: every figure of every output channel"
    )
    sub.add_argument(
        "--spec",
        metavar="OUT.json",
        type=json_path,
        help="write what the file computes, integer by integer: as JSON and, beside it, Markdown",
    )
    sub.add_argument(
        "--profile",
        choices=("sonnx",),
        help="also the rules of ONNX's safety profile, each violation by name",
    )
    sub.epilog = (
        "Exit code: 0 if the first three guarantees hold, and the profile, 1 if not (the text "
        "names the nodes and why), 2 for a file that cannot be read."
    )


def certify(options: argparse.Namespace) -> int:
    from qstrategies.certificate import certify_model
    from qstrategies.certificate.sonnx import as_text, violations
    from qstrategies.onnx_file import INTEGRITY, load_checked, unchanged

    model = load_checked(options.file)
    if options.spec is not None:
        from qstrategies.specification.document import specify

        specify(options.file).write(options.spec)
    certificate, as_exported = certify_model(model), unchanged(model)
    broken = None if options.profile is None else violations(model)
    if options.json:
        report = {"file": str(options.file), "unchanged": as_exported, **certificate.as_dict}
        show_json(report if broken is None else report | {"sonnx": list(map(vars, broken))})
    else:
        show(f"{line(options.file)}: {INTEGRITY[as_exported]}\n{certificate.as_text()}")
        if broken is not None:
            show(as_text(broken))
    return 0 if certificate.complete and not broken else 1


def add_predict(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "file", metavar="FILE.onnx", type=file_path, help="a file that this package exported"
    )
    sub.add_argument(
        "examples",
        metavar="EXAMPLE",
        type=file_path,
        nargs="+",
        help="any picture that Pillow reads, or a .npy file of one example or several; .npz by "
        "name for several inputs",
    )
    sub.add_argument("--json", action="store_true", help="print JSON")


def predict(options: argparse.Namespace) -> int:
    from qstrategies.execution import predict as prediction
    from qstrategies.onnx_file import INTEGRITY, load_checked, unchanged

    results = prediction.predict(options.file, options.examples)
    if unchanged(load_checked(options.file)) is False:
        warn(f"warning: {options.file}: {INTEGRITY[False]}")
    if options.json:
        show_json(results)
    else:
        for result in results:
            show(line(f"{result['image']}: {_told(result)}"))
    return 0


def _told(result: dict[str, Any]) -> str:
    if "outputs" in result:
        from numpy import array2string, asarray

        numbers = asarray(result["outputs"])
        found = array2string(
            numbers, separator=", ", threshold=20, formatter={"all": "{:g}".format}
        )
        return " ".join(found.split())
    return (
        f"{result['label']}  (logit {result['logit']:g}, next {result['runner_up']} "
        f"{result['margin']:g} below)"
    )
