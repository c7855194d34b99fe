"""The images in the body of a request: one by itself, or the files of a form."""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from fastapi import HTTPException, Request
from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from headstart.data.decode import decode_bytes
from headstart.data.preprocess import Preprocess
from headstart.server.guard import too_large
from headstart.server.line import Source
from headstart.server.settings import Limits
from headstart.wording import counted

HOW = (
    "Send one image as the body, with Content-Type: image/jpeg or the like (curl --data-binary @cat.jpg "
    "-H 'Content-Type: image/jpeg'), or several as a form (curl -F file=@cat.jpg -F file=@dog.jpg)."
)
_LONGEST_NAME = 255
_EXTENDED_NAME = re.compile(rb";\s*filename\*\s*=\s*\"?[\w-]*'[^']*'([^;\"\s]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Sent:
    """An encoded image as it was sent."""

    name: str
    content: bytes

    def source(self, preprocess: Preprocess) -> Source:
        """Return it as the line takes it, to be decoded for a model's preprocessing."""
        content, side, fit = self.content, preprocess.side, preprocess.fit
        return Source(lambda most: decode_bytes(content, at_least=side, fit=fit, most_pixels=most), len(content))


def media_type(request: Request) -> str:
    """Return the type of a body, lower case, without its parameters."""
    return _bare(request.headers.get("content-type", ""))


def check_headers(request: Request, limits: Limits) -> None:
    """Refuse a body that can't be taken before it is read.

    Raises:
        HTTPException: It is too large, or compressed.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > limits.body:
        raise too_large(limits)
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, "Compressed bodies are not taken. Send it without Content-Encoding.")


async def read_images(request: Request, limits: Limits) -> list[Sent]:
    """Return the images in a request.

    Raises:
        HTTPException: There is none, or the body is none that is taken.
    """
    check_headers(request, limits)
    kind = media_type(request)
    if kind == "multipart/form-data":
        sent = _files(await request.body(), request.headers["content-type"], limits)
    elif _is_image(kind):
        sent = [Sent("image", await request.body())]
    else:
        raise HTTPException(415, f"A body of type '{kind[:100]}' holds no images. {HOW}")
    if not sent:
        raise HTTPException(
            400, f"There is no file in the form: none of its parts has a filename or an image's Content-Type. {HOW}"
        )
    return sent


def _bare(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _is_image(kind: str) -> bool:
    return kind.startswith("image/") or kind == "application/octet-stream"


def _files(body: bytes, content_type: str, limits: Limits) -> list[Sent]:
    sent: list[Sent] = []
    fields, ended = [], []
    names: list[bytes] = []

    def note_name(data: bytes, start: int, end: int) -> None:
        names.extend(unquote_to_bytes(found[1]) for found in _EXTENDED_NAME.finditer(data, start, end))
        note_header(data, start, end)

    def skip(field: Any) -> None:
        # A file whose name stands in filename* alone, or that has none, is a field for the parser.
        if names or _is_image(_bare(getattr(field, "content_type", None) or "")):
            keep(names[0] if names else b"", field.value or b"")
            names.clear()
            return
        fields.append(field.field_name)
        if len(fields) > limits.files:
            raise HTTPException(413, f"A form may have {counted(limits.files, 'field')} besides its files.")

    def take(file: Any) -> None:
        file.file_object.seek(0)
        keep(file.file_name or b"", file.file_object.read())
        names.clear()
        file.close()

    def keep(given: bytes, content: bytes) -> None:
        if len(sent) == limits.files:
            raise HTTPException(
                413, f"A request may have {counted(limits.files, 'file')}. Send the others in another one."
            )
        name = given.decode("utf-8", errors="replace")[-_LONGEST_NAME:]
        sent.append(Sent(name or f"file {len(sent) + 1}", content))

    boundary = parse_options_header(content_type)[1].get(b"boundary")
    try:
        parser = FormParser(
            "multipart/form-data",
            on_field=skip,
            on_file=take,
            on_end=lambda: ended.append(True),
            boundary=boundary,
            config={"MAX_MEMORY_FILE_SIZE": limits.body + 1},
        )
        of_parts: Any = parser.parser
        note_header = of_parts.callbacks["on_header_value"]
        of_parts.set_callback("header_value", note_name)
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise HTTPException(400, f"The form can't be read: {str(error)[:200]}.") from None
    if not ended:
        raise HTTPException(400, "The form is cut short.")
    return sent
