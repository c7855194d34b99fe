"""``headstart verify``: parsing, one call, and a line for each image that drifted."""

from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.app import Answer, Debug, Json, Threads, check_device
from headstart.wording import counted, significant


def verify(
    export: Annotated[
        str,
        typer.Argument(
            metavar="EXPORT", help="A folder that headstart export wrote, or the address of one on the Hub."
        ),
    ],
    answers: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Predictions of another runtime for the golden images: columns file and p_CLASS for each class.",
            show_default=False,
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Difference of a probability that counts as drift; that of the export by default."),
    ] = None,
    threads: Threads = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, or cuda where ONNX Runtime can use it; cpu by default.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> Answer:
    """Check that an export answers here as it did where it was certified. The exit status is 1 if something drifted.

    Runs the golden images that travel with the export, or compares a table of another runtime's predictions for them.
    """
    check_device(device)
    from headstart.deployment.verify import verify as check

    found = check(export, predictions=answers, tolerance=tolerance, device=device, threads=threads)
    lines = []
    for image in found.images:
        if image.drifted:
            became = f"{image.expected} became {image.found}" if image.expected != image.found else image.expected
            square = f", its square by {counted(image.square_steps, 'step')} of 255" if image.square_steps else ""
            lines.append(f"{image.file}: {became}, probabilities by {significant(image.difference)}{square}")
    drifted, of = len(lines), counted(len(found.images), "golden image")
    as_before = "as certified" if found.certified else "as recorded, but the export has no certificate"
    verdict = f"{drifted} of {of} drifted" if drifted else f"{of} {as_before}"
    largest = significant(found.largest_difference)
    lines.append(f"{verdict}: probabilities differ by up to {largest}, {significant(found.tolerance)} is allowed.")
    if found.images[0].square_steps is not None:
        logits = significant(max(image.logit_difference or 0 for image in found.images))
        steps = max(image.square_steps or 0 for image in found.images)
        lines.append(f"Logits differ by up to {logits}; squares by up to {steps} of 255, where 1 is allowed.")
    return Answer(found.to_dict(), "\n".join(lines), status=0 if found.ok else 1)
