"""The ``headstart`` command: parses, calls one function per verb, prints.

Each verb imports what it needs in its own body, so that ``headstart --help`` and wrong usage are answered
without loading torch. A verb returns an ``Answer``; ``main`` prints it and turns every error into a message
and an exit status:

    0    done
    1    the work failed (for ``predict``: some files could not be read, the others were predicted; for ``verify``:
         something drifted; for ``compare --gate``: the gate was not met)
    2    bad usage or bad input; the message says what was wrong, what is allowed and what to do
    130  stopped with Ctrl-C
    141  whoever read the output stopped reading

With ``--json`` stdout carries exactly one JSON object and nothing else; progress and messages go to stderr.
"""

from collections.abc import Callable

from headstart.cli.app import Answer, app, main
from headstart.cli.backbones import backbones
from headstart.cli.cache import cache
from headstart.cli.compare import compare
from headstart.cli.evaluate import evaluate
from headstart.cli.explore import explore
from headstart.cli.export import export
from headstart.cli.predict import predict
from headstart.cli.push import push
from headstart.cli.serve import serve
from headstart.cli.study import study
from headstart.cli.train import train
from headstart.cli.verify import verify

__all__ = ["app", "main"]

_EXAMPLES: dict[Callable[..., Answer], str] = {
    explore: "headstart explore photos/ --labels --out explore-photos",
    train: "headstart train photos/ --out runs/photos",
    evaluate: "headstart evaluate runs/photos --on other-photos/",
    compare: "headstart compare runs/photos runs/corrected --out comparison.html",
    study: "headstart study cifar10 --backbone tf_efficientnet_lite0.in1k --out study",
    predict: "headstart predict runs/photos new-photos/ cat.jpg",
    serve: "headstart serve exports/photos --port 8000",
    push: "headstart push runs/photos me/photos",
    export: "headstart export runs/photos --out exports/photos",
    verify: "headstart verify exports/photos",
    backbones: "headstart backbones 'resnet50*'",
    cache: "headstart cache --clear squares",
}
# In this order `headstart --help` lists them.
for _verb, _example in _EXAMPLES.items():
    app.command(epilog=f"Example: {_example}")(_verb)
