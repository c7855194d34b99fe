"""``headstart export``: parsing, and one call."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from headstart.cli.app import Answer, DataDir, Debug, Json, Quiet, Threads
from headstart.errors import InputError
from headstart.wording import number, percent, percent_range, points_range, signed_points, significant, typed

Kind = Literal["onnx", "exported-program", "html"]


def export(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_MODEL",
            help="A run folder, or a model folder alone or hf://owner/name; for html, an earlier export.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER|FILE", help="Folder for the export, or file for html; an earlier export there is replaced."
        ),
    ],
    kind: Annotated[
        Kind,
        typer.Option(
            "--format",
            help="onnx; exported-program for PyTorch; or html: one page that holds the classifier and needs no server.",
        ),
    ] = "onnx",
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Compute with 8-bit integers, calibrated on training images."),
    ] = False,
    openvino: Annotated[
        bool, typer.Option("--openvino", help="Let OpenVINO run the file, instead of ONNX Runtime.")
    ] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute with bfloat16; needs --openvino.")] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Points of accuracy that --int8 or --bf16 may cost, by the 95% interval of the loss; 0.5 by default.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Export even if that could cost more; the certificate says so.")
    ] = False,
    data_dir: DataDir = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> Answer:
    """Export a classifier, with a certificate that the file answers like the classifier that was measured.

    The exported file itself is run on the whole sealed test set, and the run's log records that. If it answers
    differently, nothing is written. A model folder without its run is exported without test figures.
    """
    if kind == "html":
        given: dict[str, object] = {
            "--int8": int8,
            "--openvino": openvino,
            "--bf16": bf16,
            "--force": force,
            "--threads": threads,
        }
        given |= {"--tolerance": tolerance, "--data-dir": data_dir}
        if ignored := [name for name, value in given.items() if value is not None and value is not False]:
            raise InputError(
                f"--format html takes an export as it is, so {', '.join(ignored)} would be ignored. Make the export "
                "with that first, then the page from it."
            )
        return _page(model, out, progress=not quiet)
    from headstart.workflows.export import ExportOptions
    from headstart.workflows.export import export as make

    program = kind == "exported-program"
    options = ExportOptions(int8=int8, bf16=bf16, openvino=openvino, program=program, tolerance=tolerance, force=force)
    made = make(
        model, out=out, options=options, data_dir=data_dir, threads=threads, command=context.obj, progress=not quiet
    )
    return Answer(made.to_dict(), _text(made.certificate, out))


def _page(model: str, out: Path, *, progress: bool) -> Answer:
    """Write an earlier export as one page."""
    from headstart.bundle.exported import is_export
    from headstart.inference.place import located

    if not is_export(export := located(model)):
        raise InputError(
            f"{model} is no export. Make one first, with {typed('export', model, '--out', 'exports/mine')}; then give "
            "that folder."
        )
    from headstart.server.offline import write_page

    page = write_page(export, out, progress=progress)
    size = page.stat().st_size
    text = f"Page        {page}\nSize        {size / 1e6:.1f} MB\nNext        open it in a browser; it needs no server"
    return Answer({"out": str(page), "bytes": size}, text)


def _text(it: dict[str, Any], out: Path) -> str:
    lines = []
    if it["test"] is None:
        lines.append("Not measured on a test set: the run of this model is not there, so there are no figures.")
    else:
        test, found, change = it["test"], it["test"]["agreement"], it["test"]["accuracy_change"]
        accuracy = percent(test["export"]["accuracy"])
        lines += [
            f"Accuracy    {accuracy} on the test set (95% interval {percent_range(test['export']['accuracy_ci95'])})",
            f"Agreement   {number(found['changed'])} of {number(test['n'])} predictions differ from the original; "
            f"probabilities by at most {significant(found['largest_difference'])}",
        ]
        if chosen := it["quantization"]:
            kept = f", {', '.join(chosen['kept_fp32'])} in fp32" if chosen["kept_fp32"] else ""
            lines.append(f"Quantized   {chosen['method']}{kept}")
        if it["precision"] != "fp32":
            interval = points_range([change["low"], change["high"]])
            lines.append(f"Change      {signed_points(change['value'])} points (95% interval {interval})")
    for row in it["speed"]:
        pair = f"{number(row['export'])} images/s, original {number(row['original'])}"
        lines.append(f"Batch {row['batch']:<6}{pair}")
    sizes = it["bytes"]
    lines += [
        f"Size        {sizes['export'] / 1e6:.1f} MB, original {sizes['original'] / 1e6:.1f} MB",
        f"Export      {out}",
        f"Certificate {out / 'certificate.html'}",
        f"Next        {typed('predict', out, 'IMAGE...')}",
    ]
    return "\n".join(lines)
