"""``headstart push``: parsing, and one call."""

from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.app import Answer, Debug, Json
from headstart.wording import typed


def push(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder, or the run folder that holds it.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the Hugging Face Hub.")],
    export: Annotated[
        Path | None,
        typer.Option(
            help="Export of this classifier to put beside it, with its golden images and test predictions.",
            show_default=False,
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a repository that is new a private one.")] = False,
    message: Annotated[str | None, typer.Option(help="What the commit is called.", show_default=False)] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> Answer:
    """Put a classifier on the Hugging Face Hub. Sends the bundle and a model card, and no image but those of an export.

    Needs a token that may write: log in with `hf auth login`, or set HF_TOKEN. Every command that takes a model then
    takes `hf://OWNER/NAME`, and `hf://OWNER/NAME/export` for the export.
    """
    from headstart.workflows.push import push as send

    done = send(model, repository, export=export, private=private, message=message)
    lines = [done.url, f"Use it: headstart predict hf://{done.repository} IMAGE..."]
    if export is None:
        again = typed("push", model, repository, "--export", "DIR")
        lines.append(f"Send its export too, with golden images and certificate: {again}")
    return Answer(done.to_dict(), "\n".join(lines))
