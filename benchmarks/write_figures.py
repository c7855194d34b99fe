"""Write the figures of benchmarks/results/ into README.md, guides in docs/ and the headers of the recipes, so that they
can't disagree.

python benchmarks/write_figures.py
"""

import json
import re
from pathlib import Path

from headstart.cli.results import result_lines

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
RECIPES = ROOT / "src" / "headstart" / "recipes"
SHOWN = {
    # Result file: recipe, backbone, images.
    "quickstart": ("quickstart", "tf_efficientnet_lite0.in1k", "10,000"),
    "quickstart-xeon": ("quickstart", "tf_efficientnet_lite0.in1k", "10,000"),
    "quickstart-resnet50v1-keras": ("quickstart", "resnet50v1.keras_in1k", "10,000"),
    "cpu-best": ("cpu-best", "tf_efficientnet_lite0.in1k", "50,000"),
}
MEASURED_RECIPES = ("quickstart", "cpu-best")
DATA_SETS = {
    # Name in auto.json: name in the table, images to train and validate on.
    "trashnet": ("TrashNet, 112 x 84 px photographs, 3 splits", "2,022"),
    "cifar10-100": ("CIFAR-10, 32 px", "100"),
    "cifar10-500": ("CIFAR-10, 32 px", "500"),
    "cifar10-2000": ("CIFAR-10, 32 px", "2,000"),
    "cifar10-10000": ("CIFAR-10, 32 px", "10,000"),
    "fashion-2000": ("Fashion-MNIST, 28 px grey", "2,000"),
    "fashion-10000": ("Fashion-MNIST, 28 px grey", "10,000"),
}
"""Data sets on which the automatic choice was measured, in the order of the table."""


def result(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds > 600 else f"{seconds:.0f} s"


def machine(found: dict) -> str:
    """Return on how many cores of which processor it was measured."""
    name = re.sub(r"\(R\)|\bProcessor\b|@", "", found["hardware"]["cpu"])
    return f"{found['hardware']['cores']} cores, {' '.join(name.split())}"


def of_seeds(found: dict) -> str:
    return f", median of {len(found['runs'])} seeds" if len(found["runs"]) > 1 else ""


def printed(found: dict) -> str:
    """Return what the command printed at the end of the run with the median accuracy."""
    run = sorted(found["runs"], key=lambda run: run["accuracy"])[len(found["runs"]) // 2]
    return result_lines({"test": run, **run}, Path("runs/quickstart"))


def table_row(name: str, recipe: str, backbone: str, images: str) -> str:
    found = result(name)
    median = found["median"]
    cells = [f"`{recipe}`", f"`{backbone}`", images, f"{median['accuracy']:.1%}"]
    cells += [duration(median["total_seconds"]), machine(found), f"[{name}.json](benchmarks/results/{name}.json)"]
    return f"| {' | '.join(cells)} |"


def header(name: str) -> str:
    found = result(name)
    return "\n".join(
        [
            f"# command: {found['claim'].partition(':')[0]} --out runs/{name}",
            f"# hardware: {machine(found)}",
            f"# time: {duration(found['median']['total_seconds'])}{of_seeds(found)}",
            f"# score: {found['median']['accuracy']:.1%} test accuracy{of_seeds(found)}",
            f"# measured: benchmarks/results/{name}.json",
            "",
        ]
    )


def replace_once(text: str, pattern: str, new: str) -> str:
    changed, count = re.subn(pattern, lambda _: new, text, flags=re.DOTALL | re.MULTILINE)
    assert count == 1, f"{count} places match {pattern}"
    return changed


def readme_with_figures(readme: str) -> str:
    """Return README.md with the figures of the result files in their places."""
    quickstart, tests = result("quickstart"), result("tests")
    cost = f"{duration(quickstart['median']['total_seconds'])} and "
    cost += f"{quickstart['median']['peak_rss_mb'] / 1000:.2f} GB of memory on {machine(quickstart)}"
    readme = replace_once(readme, r"(?<=downloaded, a run takes )[^,]*, [^,]*(?=, and ends with)", cost)
    readme = replace_once(readme, r"(?<=```text\n)Test  .*?(?=\n```)", printed(quickstart))
    readme = replace_once(readme, r"(?<=tests of `make test` take )\d+ s", f"{tests['pytest_seconds']:.0f} s")
    predicted = result("predict-files")["median_seconds"]
    readme = replace_once(readme, r"(?<=classifies 1,000 PNG files of 32 x 32 pixels in )\d+ s", duration(predicted))
    part, whole = (run["seconds"] for run in result("explore")["runs"].values())
    taken = f"{duration(part)} for 10,000 training images of CIFAR-10 and the test split, and {duration(whole)}"
    pattern = r"\d+ s for 10,000 training images of CIFAR-10 and the test split, and \d+ s"
    readme = replace_once(readme, pattern, taken)
    rows = [table_row(name, *what) for name, what in SHOWN.items() if (RESULTS / f"{name}.json").is_file()]
    return replace_once(readme, r"^\| `quickstart` \| .*?(?=\n\n)", "\n".join(rows))


def auto_table() -> str:
    """Return what the automatic choice reaches on each data set, against two fixed recipes."""
    rows = ["| data | images | no option | `quickstart` | linear probe, 128 px |", "|---|---|---|---|---|"]
    summary = result("auto")["summary"]
    for data, (name, images) in DATA_SETS.items():
        found = [summary.get(data, {}).get(method) for method in ("auto", "quickstart", "probe")]
        if not any(found):
            continue
        cells = [f"{f['accuracy']:.1%} ({f['total_seconds']:.0f} s)" if f else "not measured" for f in found]
        rows.append(f"| {name} | {images} | {' | '.join(cells)} |")
    return "\n".join(rows)


def guide_with_figures(guide: str) -> str:
    """Return docs/own-images.md with the table of the automatic choice in its place."""
    return replace_once(guide, r"^\| data \| images \| no option .*?(?=\n\n)", auto_table())


def form_of(certificate: dict) -> str:
    """Return what an export is, by its precision and by what runs it."""
    runtimes = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "torch": "a program of PyTorch"}
    return f"export, {certificate['precision']}, {runtimes[certificate['runtime']]}"


def sizing_table() -> str:
    """Return what a classifier weighs and does in each form, alone and served."""
    found = result("export")
    rows = [
        "| form | size | images/s, one at a time | 16 at a time | `headstart predict` of one image |",
        "|---|---|---|---|---|",
    ]
    certificates, commands = found["certificates"], found["predict_command_seconds"]
    for name, speed in found["images_per_second"].items():
        certificate = certificates.get(name)
        form = form_of(certificate) if certificate else "model folder, PyTorch"
        taken = (
            certificate["bytes"]["export"] if certificate else next(iter(certificates.values()))["bytes"]["original"]
        )
        command = f"{commands[name]:.2f} s" if name in commands else "not measured"
        rows.append(f"| {form} | {taken / 1e6:.1f} MB | {speed['1']:.0f} | {speed['16']:.0f} | {command} |")
    told = f"EfficientNet-Lite0 trained by `quickstart`, on {machine(found)}, {found['threads']} threads"
    parts = [f"{told} ([export.json](../benchmarks/results/export.json)):", "\n".join(rows)]
    if (RESULTS / "server.json").is_file():
        parts.append(server_table())
    return "\n\n".join(parts)


def server_table() -> str:
    """Return how many requests a server answers in each form."""
    forms = {name: form for name, form in result("server").items() if isinstance(form, dict) and "speed" in form}
    rows = ["| `headstart serve` of | image size | requests/s | 95% of the answers within |", "|---|---|---|---|"]
    for name, form in forms.items():
        speed = form["speed"]["headstart"]
        rate, slowest = f"{speed['requests_per_second']:.0f}", f"{speed['p95_ms']:.0f} ms"
        rows.append(f"| {name} ({form['architecture']}) | {form['size']} px | {rate} | {slowest} |")
    in_flight = next(iter(forms.values()))["speed"]["in_flight"]
    told = f"Served, with {in_flight} requests in flight that the same cores make"
    return f"{told} ([server.json](../benchmarks/results/server.json)):\n\n" + "\n".join(rows)


def runtime_sentence() -> str:
    """Return what an installation without PyTorch takes."""
    found = result("runtime")
    busy = min(found["load_before_and_after"]) > found["hardware"]["cores"]
    predict, serve = found["predict_seconds"], found["serve_first_answer_seconds"]
    computing = found["predict_processor_seconds"]
    sentences = [
        f"On {machine(found)}, the environment takes {found['environment_mb']:.0f} MB.",
        f"`headstart predict` answers after {predict:.2f} s ({computing:.2f} s of processor time),",
        "and `headstart serve` has answered its first",
        f"request after {serve:.2f} s, with {found['serve_peak_rss_mb']:.0f} MB of memory",
        "([runtime.json](../benchmarks/results/runtime.json)).",
    ]
    return " ".join([*sentences, *["Other programs kept the machine busy meanwhile."] * busy])


def deploying_with_figures(guide: str) -> str:
    """Return docs/deploying.md with what was measured in its places."""
    return with_blocks(guide, {"runtime": runtime_sentence(), "sizing": sizing_table()})


def performance_with_figures(guide: str) -> str:
    """Return docs/performance.md with what was measured in its places."""
    return with_blocks(guide, {"peaks": peaks_table(), "steps": steps_table(), "kinds": kinds_table()})


def peaks_table() -> str:
    """Return how fast this machine convolves and copies, as Markdown."""
    found = result("roofline")
    kinds = ("dense", "1x1", "depthwise")
    rows = ["| precision | 3x3 convolution | 1x1 convolution | depthwise convolution | copy |", "|---|---|---|---|---|"]
    for precision, peak in found["peaks"].items():
        speeds = " | ".join(f"{peak[kind]:.0f} GFLOP/s" for kind in kinds)
        rows.append(f"| {precision} | {speeds} | {peak['copy']:.1f} GB/s |")
    told = f"Measured on {machine(found)}, with {found['hardware']['threads']} threads"
    return f"{told} ([roofline.json](../benchmarks/results/roofline.json)):\n\n" + "\n".join(rows)


def without_tag(step: str) -> str:
    """Return a step's name without the tag of the weights, which it does not use."""
    return re.sub(r"\.\w+(?=,)", "", step)


def steps_table() -> str:
    """Return what a training step has to do, its bound and its time, as Markdown."""
    rows = [
        "| network, precision, size | GFLOP | MB | bound | by bytes alone | measured | of the 3x3 peak | images/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, step in result("roofline")["steps"].items():
        times = [step[key] for key in ("bound_milliseconds", "bytes_milliseconds", "milliseconds")]
        cells = [without_tag(name), f"{step['gflop']:.2f}", f"{step['megabytes']:.0f}"]
        cells += [f"{time:.2f} ms" for time in times]
        cells += [f"{step['of_dense_peak']:.0%}", f"{step['images_per_second']:.0f}"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def kinds_table() -> str:
    """Return where the time of a training step goes and what each kind of layer could take, as Markdown."""
    rows = ["| network, precision, size | 3x3 | 1x1 | depthwise | other |", "|---|---|---|---|---|"]
    for name, step in result("roofline")["steps"].items():
        cells = []
        for kind in ("dense", "1x1", "depthwise", "other"):
            if of := step["kinds"].get(kind):
                taken = of["share_of_time"] * step["milliseconds"]
                cells.append(f"{taken:.2f} ms ({of['bound_milliseconds']:.2f})")
            else:
                cells.append("none")
        rows.append(f"| {without_tag(name)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def with_blocks(guide: str, blocks: dict[str, str]) -> str:
    """Return a guide with what was measured between its marks."""
    for name, content in blocks.items():
        block = f"<!-- {name} -->\n{content}\n<!-- /{name} -->"
        guide = replace_once(guide, f"^<!-- {name} -->$.*?^<!-- /{name} -->$", block)
    return guide


def recipe_with_header(name: str) -> str:
    """Return a recipe's file with what was measured of it on top."""
    return header(name) + re.sub(r"\A(#.*\n)+", "", (RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))


def main() -> None:
    readme = ROOT / "README.md"
    readme.write_text(readme_with_figures(readme.read_text(encoding="utf-8")), encoding="utf-8")
    guides = {
        "own-images": guide_with_figures,
        "deploying": deploying_with_figures,
        "performance": performance_with_figures,
    }
    for name, fill in guides.items():
        guide = ROOT / "docs" / f"{name}.md"
        guide.write_text(fill(guide.read_text(encoding="utf-8")), encoding="utf-8")
    for name in MEASURED_RECIPES:
        (RECIPES / f"{name}.yaml").write_text(recipe_with_header(name), encoding="utf-8")


if __name__ == "__main__":
    main()
