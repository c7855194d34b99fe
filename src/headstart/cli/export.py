"""``headstart export``: parsing, and one call."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from headstart.cli.app import Answer, DataDir, Debug, Json, Quiet, Threads
from headstart.errors import InputError
from headstart.folders import scratch_folder
from headstart.wording import number, percent, percent_range, points_range, signed_points, significant, typed

if TYPE_CHECKING:
    from headstart.workflows.export import Exported

Kind = Literal["onnx", "exported-program", "html"]


def export(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_MODEL",
            help="A run folder, or a model folder alone or hf://owner/name; for html, an earlier export too.",
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
            metavar="FORMAT",
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
    For `--format html` an export in 8-bit integers is made, unless one is given; in float32 where these could cost
    accuracy, and of a model folder.
    """
    wanted = {"int8": int8, "bf16": bf16, "openvino": openvino, "tolerance": tolerance, "force": force}
    where = {"data_dir": data_dir, "threads": threads, "command": context.obj, "progress": not quiet}
    if kind == "html":
        return _page(model, out, wanted, where)
    made = _exported(model, out, wanted | {"program": kind == "exported-program"}, where)
    return Answer(made.to_dict(), _text(made.certificate, out))


def _exported(model: str, out: Path, wanted: dict[str, Any], where: dict[str, Any]) -> "Exported":
    from headstart.workflows.export import ExportOptions
    from headstart.workflows.export import export as make

    return make(model, out=out, options=ExportOptions(**wanted), **where)


def _page(model: str, out: Path, wanted: dict[str, Any], where: dict[str, Any]) -> Answer:
    """Write an export as one page; of a run or a model folder, one that is made for it and not kept."""
    from headstart.inference.origin import origin_of
    from headstart.report.exports import link_exports
    from headstart.server.offline import begin_page, write_page

    origin, progress = origin_of(model), where["progress"]
    useless = {name: wanted[name] for name in ("openvino", "bf16")}
    if origin.is_export:
        useless = wanted | {name: where[name] for name in ("data_dir", "threads")}
    if ignored := [name for name, value in useless.items() if value is not None and value is not False]:
        how = "takes an export as it is" if origin.is_export else "computes with ONNX Runtime"
        options = ", ".join(f"--{name.replace('_', '-')}" for name in ignored)
        raise InputError(f"--format html {how}, so {options} would be ignored. Leave that out.")
    lines: list[str] = []
    certificate: dict[str, Any] | None = None
    if origin.is_export:
        page = write_page(origin.folder, out, progress=progress)
    else:
        runtime = begin_page(out, progress=progress)
        with scratch_folder(out) as scratch:
            smallest = {"int8": True, "fall_back": not wanted["int8"]} if origin.run else {}
            certificate = _exported(model, scratch / "export", wanted | smallest, where).certificate
            page, lines = write_page(scratch / "export", out, runtime=runtime), _figures(certificate)
    if origin.run:
        link_exports(origin.run, page)
    size = page.stat().st_size
    lines += [f"Page        {page}, {size / 1e6:.1f} MB", "Next        open it in a browser; it needs no server"]
    return Answer({"out": str(page), "bytes": size, "certificate": certificate}, "\n".join(lines))


def _text(it: dict[str, Any], out: Path) -> str:
    place = [f"Export      {out}", f"Certificate {out / 'certificate.html'}"]
    return "\n".join([*_figures(it), *place, f"Next        {typed('predict', out, 'IMAGE...')}"])


def _figures(it: dict[str, Any]) -> list[str]:
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
    return [*lines, f"Size        {sizes['export'] / 1e6:.1f} MB, original {sizes['original'] / 1e6:.1f} MB"]
