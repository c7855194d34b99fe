"""An exported classifier as one HTML file that works without a server and without a network.

The page is the server's own, with its answers computed by onnxruntime-web in the browser. Model and runtime lie in the
file, compressed.
"""

import base64
import gzip
import hashlib
import json
import os
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headstart.bundle.exported import MODEL_FILE, OFFLINE_PAGE, ExportConfig, checked_content, is_export, read_export
from headstart.bundle.novelty import Novelty, read_novelty
from headstart.deployment.golden import Golden, read_golden
from headstart.errors import DownloadError, InputError, RunError
from headstart.fetch.archive import tar_files
from headstart.fetch.npm import Package, fetch_package
from headstart.files import alone, is_page_of, write_atomically, writing
from headstart.folders import put_folder, scratch_folder
from headstart.home import ADVICE, cache_of
from headstart.inference.onnx_graph import check_graph
from headstart.terminal import Terminal

RUNTIME = Package("onnxruntime-web@1.30.0", size=33_106_585)
_MAX_UNPACKED = 400_000_000
RUNTIME_FILES = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
"""What the page needs of the package, and the SHA-256 of each."""
_STATIC = Path(__file__).parent / "static"
_SQUARE = Path(__file__).parents[1] / "deployment" / "javascript" / "square.mjs"


def begin_page(out: Path, *, progress: bool = True) -> dict[str, bytes]:
    """Check that a page can be written to a file, and return what pages run on; before work that takes long.

    Raises:
        InputError: The runtime can't be fetched.
        RunError: ``out`` is a folder, or something else than an earlier page.
    """
    _check_place(out)
    code, wasm = (runtime_file(name, Terminal(enabled=progress)) for name in RUNTIME_FILES)
    return {"runtime": code, "runtime-wasm": wasm}


def _check_place(place: Path) -> None:
    with writing(place):  # which fails where there is no permission to look, or the name is too long
        is_folder = place.is_dir()
    if is_folder:
        file = f"{place.resolve()}.html" if is_export(place) else place / "classifier.html"
        raise RunError(f"{place} is a folder. Give a file, as in --out {file}.")
    if os.path.lexists(place) and not is_page_of(place, OFFLINE_PAGE):
        raise RunError(f"{place} exists and is no page of an export. Give another file with --out.")


def write_page(
    export: Path | str, out: Path | str, *, runtime: Mapping[str, bytes] | None = None, progress: bool = True
) -> Path:
    """Write an exported classifier as one HTML file.

    Args:
        export: Folder that ``headstart export`` wrote; the file takes about a third more than its ``model.onnx`` and
            ``novelty.safetensors`` together, and 5 MB for the runtime.
        out: The file; an earlier page that is there is replaced.
        runtime: What ``begin_page`` returned; read here when None.
        progress: Show on stderr how the runtime is fetched, once.

    Returns:
        The path of the file.

    Raises:
        BundleError: The export is missing or damaged.
        InputError: The export is for another runtime, or that of the page can't be fetched.
        RunError: ``out`` is a folder, or something else than an earlier page.
        WriteError: The file can't be written.
    """
    folder, place = Path(export), Path(out)
    _check_place(place)
    config = read_export(folder)
    if config.runtime != "onnxruntime":
        raise InputError(
            f"{folder} was certified on {config.runtime}, but a page computes with ONNX Runtime. Export the classifier "
            "without --openvino and --format first, then the page from that."
        )
    model = checked_content(folder, MODEL_FILE, config)
    check_graph(model, config, folder / MODEL_FILE)
    golden = read_golden(folder, config.class_names)
    parts = {"model": model, **(runtime or begin_page(place, progress=progress))}
    if config.novelty:
        parts["novelty"] = _as_json(read_novelty(folder, num_classes=len(config.label_names)))
    write_atomically(place, _page(config, place.stem, golden, parts))
    return place


def _as_json(novelty: Novelty) -> bytes:
    """Return a novelty score for the page, as JSON."""
    told = {name: _base64(part.astype("<f4").tobytes()) for name, part in novelty.arrays.items()}
    return json.dumps({**told, "threshold": novelty.threshold}).encode()


def _page(config: ExportConfig, name: str, golden: Golden, parts: dict[str, bytes]) -> str:
    """Return the server's page with everything that it loads, and what answers it, inside."""
    expected: dict[str, Any] = {
        "squares": [{"side": len(square), "data": _base64(square.tobytes())} for square in golden.squares],
        "probabilities": golden.probabilities.tolist(),
    }
    of_export = config.model_dump(include={"label_names", "image", "abstention", "evidence", "novelty"})
    told = {"name": name, "tolerance": golden.tolerance, **of_export}
    told["unsure"] = config.abstention and config.abstention.meaning
    data = [f'<script type="application/json" id="config">{json.dumps(told).replace("<", chr(92) + "u003c")}</script>']
    for key, content in {**parts, "golden": json.dumps(expected).encode()}.items():
        packed = _base64(gzip.compress(content, 9, mtime=0))
        data.append(f'<script type="application/octet-stream" id="packed-{key}">{packed}</script>')
    style, page = _static("page.css"), _static("page.js")
    offline = _SQUARE.read_text(encoding="utf-8").replace("export function", "function") + _static("offline.js")
    icon = f"data:image/svg+xml;base64,{_base64(_static('icon.svg').encode())}"
    allowed = (
        f"default-src 'none'; img-src blob: data:; style-src '{_hash(style)}'; connect-src blob: data:; "
        f"script-src 'wasm-unsafe-eval' blob: '{_hash(offline)}' '{_hash(page)}'"
    )
    scripts = "".join(f'<script type="module">{code}</script>' for code in (offline, page))
    charset = '<meta charset="utf-8">'
    policy = f'<meta http-equiv="Content-Security-Policy" content="{allowed}">'
    changes = {
        charset: f'{charset}<meta name="generator" content="{OFFLINE_PAGE}">{policy}',
        "/static/icon.svg": icon,
        '<link rel="stylesheet" href="/static/page.css">': f"<style>{style}</style>",
        '<script type="module" src="/static/page.js"></script>': "",
        "They are sent to this server only, and nothing is kept when you close the page.": (
            "They are classified on this device and sent nowhere. Nothing is kept when you close the page."
        ),
        'This page needs JavaScript. The <a href="/docs">description of the requests</a> shows how to do without it.': (
            "This page needs JavaScript."
        ),
        '<p><a href="/docs">Requests that this server answers</a></p>': (
            '<p><button id="check" type="button">Check that this browser answers as measured</button></p>'
            '<p id="checked" role="status"></p>'
        ),
        "</body>": f"{''.join(data)}{scripts}</body>",
    }
    html = _static("index.html")
    for before, after in changes.items():
        assert html.count(before) == 1, before
        html = html.replace(before, after)
    return html


def runtime_file(name: str, terminal: Terminal) -> bytes:
    """Return a file of onnxruntime-web, from the cache or through the npm client; it is the one that is known.

    Raises:
        InputError: It can't be fetched, or is another one.
        WriteError: The cache can't be written.
    """
    folder = cache_of("runtime") / RUNTIME.name
    if (content := _known(folder / name)) is not None:
        return content
    waiting = f"Another process is fetching {RUNTIME.name}; waiting for it."
    with alone(folder.with_suffix(".lock"), waiting=lambda: terminal.say(waiting), advice=ADVICE):
        if _known(folder / name) is None:
            _fetch_runtime(folder, terminal)
    content = _known(folder / name)
    assert content is not None
    return content


def _fetch_runtime(folder: Path, terminal: Terminal) -> None:
    title = f"Fetching {RUNTIME.name} with npm"
    with scratch_folder(folder) as scratch:
        try:
            archive = fetch_package(RUNTIME, scratch, title=title, terminal=terminal)
            found = {
                Path(path).name: read()
                for path, read in tar_files(archive, max_bytes=_MAX_UNPACKED)
                if Path(path).name in RUNTIME_FILES
            }
        except DownloadError as error:
            raise InputError(f"{RUNTIME.name}, which the page runs on, could not be fetched: {error}.") from error
        except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
            raise InputError(f"{RUNTIME.name} arrived damaged: {error}. Nothing was kept; try again.") from error
        for name, wanted in RUNTIME_FILES.items():
            if hashlib.sha256(found.get(name, b"")).hexdigest() != wanted:
                raise InputError(
                    f"{RUNTIME.name} does not hold the {name} that headstart knows. Nothing was kept; check where your "
                    "npm client downloads from."
                )
        kept = scratch / "kept"
        kept.mkdir()
        for name in RUNTIME_FILES:
            write_atomically(kept / name, found[name])
        put_folder(kept, folder)


def _known(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == RUNTIME_FILES[path.name] else None


def _static(name: str) -> str:
    return (_STATIC / name).read_text(encoding="utf-8")


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _hash(code: str) -> str:
    """Return how a content security policy names a piece of code."""
    return f"sha256-{_base64(hashlib.sha256(code.encode()).digest())}"
