"""How much a request may cost: bytes while they come in, pixels before they are decoded."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from scanwise.core.errors import DataError
from scanwise.data.images import SUFFIXES, identify, image_size, sniff
from scanwise.deploy.bundle import Bundle, Prepared
from scanwise.server.errors import SEE_DOCS, ApiError, NotReadable, busy

OVERHEAD = 64_000  # bytes of a form around its files
MAX_FIELDS = 16  # of a form, that are no files: all of them are refused later, by name


class Uploads:
    """Counts the bytes of all uploads that are held, so that their sum has a limit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """One request's part of it; given back at the end."""
        share = Share(self)
        try:
            yield share
        finally:
            self.held -= share.size


@dataclass
class Share:
    uploads: Uploads
    size: int = 0

    def add(self, size: int) -> None:
        """Hold so many bytes more.

        Raises:
            ApiError: 429, if all requests together would hold too much.
        """
        if self.uploads.held + size > self.uploads.limit:
            raise busy(f"the uploads in progress fill their {self.uploads.limit / 1e6:g} MB.")
        self.uploads.held += size
        self.size += size


async def body_within(request: Request, limit: int, share: Share) -> AsyncIterator[bytes]:
    """The body in pieces, counted as they come: the stated length may be absent or a lie.

    Raises:
        ApiError: 413 beyond the limit, 429 where there is no room now.
    """
    stated = request.headers.get("content-length", "")
    if stated.isascii() and stated.isdigit() and int(stated) > limit:
        raise _too_large(limit)
    async for piece in request.stream():
        if share.size + len(piece) > limit:
            raise _too_large(limit)
        share.add(len(piece))
        yield piece


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        "too_large",
        f"the request has more than {limit / 1e6:g} MB.",
        "Send fewer or smaller files, or start with a higher --max-mb.",
    )


async def read_body(request: Request, limit: int, share: Share) -> bytes:
    try:
        return b"".join([piece async for piece in body_within(request, limit, share)])
    except ClientDisconnect:
        raise client_gone() from None


def client_gone() -> ApiError:
    """Nobody will read it; it makes the log line."""
    return ApiError(499, "client_gone", "the client went away.", "")


class _InMemory(MultiPartParser):
    """A form whose files never touch the disk; `body_within` bounds them."""

    spool_max_size = sys.maxsize


async def read_files(
    request: Request, field: str, limit: int, max_files: int, share: Share
) -> list[tuple[str | None, bytes]]:
    """Name and bytes of the files in a form's field, in the order sent; at least one.

    Raises:
        ApiError: 400 for another field or none, 413, 429.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise _wrong_form(
            field, f"the body is {request.headers.get('content-type') or 'of no stated type'}"
        )
    form = await _parse(request, limit + OVERHEAD, max_files, share)
    try:
        others = sorted({key for key, _ in form.multi_items() if key != field})
        if others:
            raise _wrong_form(field, f"the form has a field {others[0][:80]!r}")
        uploads = form.getlist(field)
        if not uploads:
            raise _wrong_form(field, "the form has no file")
        found = []
        for each in uploads:
            if not isinstance(each, UploadFile):
                raise _wrong_form(field, f"{field!r} is text, not a file")
            found.append((each.filename, await each.read()))
        return found
    finally:
        await form.close()


async def _parse(request: Request, limit: int, max_files: int, share: Share) -> FormData:
    pieces = body_within(request, limit, share)
    parser = _InMemory(
        request.headers,
        pieces,  # type: ignore[arg-type]
        max_files=max_files,
        max_fields=MAX_FIELDS,
    )
    try:
        return await parser.parse()
    except ClientDisconnect:
        raise client_gone() from None
    except MultiPartException as error:
        if "Too many files" in error.message:
            raise ApiError(
                413, "too_many_files", f"more than {max_files} file(s).", "Send them in parts."
            ) from None
        raise ApiError(400, "bad_form", f"{error.message.rstrip('.')}.", SEE_DOCS) from None


def _wrong_form(field: str, detail: str) -> ApiError:
    return ApiError(
        400,
        "wrong_field",
        f"{detail}; a form (multipart/form-data) with files in the field {field!r} is needed.",
        f"curl -F {field}=@image.png URL",
    )


def prepare_upload(bundle: Bundle, data: bytes, max_bytes: int, max_pixels: int) -> Prepared:
    """What the network will see of an upload; for a thread.

    Raises:
        NotReadable: 413 too many bytes, 415 not an image by its content, 422 with the reader's
            reason.
    """
    if len(data) > max_bytes:
        raise NotReadable(
            413,
            "too_large",
            f"the file has {len(data) / 1e6:.1f} MB, over {max_bytes / 1e6:g} MB.",
            "Save it smaller, or start with a higher --max-mb.",
        )
    if sniff(data[:1024]) not in SUFFIXES:
        raise _not_an_image(data)
    size = image_size(data)
    if size is not None and size[0] * size[1] > max_pixels:
        raise _unusable(
            f"has {size[1]}x{size[0]} px, over the limit of {max_pixels / 1e6:g} megapixels",
            "Cut or shrink it, or start with a higher --max-megapixels.",
        )
    try:
        return bundle.prepare(data)
    except DataError as error:
        raise _unusable(str(error), "Save it again as a plain PNG, JPEG or TIFF.") from None
    except MemoryError:
        raise _unusable("does not fit into memory", "Shrink it.") from None


def _not_an_image(data: bytes) -> NotReadable:
    try:
        identify(data[:1024], "")
        reason = "is not an image"
    except DataError as error:
        reason = str(error)
    return NotReadable(
        415, "not_an_image", f"the file {reason}.", f"Send one of {', '.join(SUFFIXES)}."
    )


def _unusable(reason: str, fix: str) -> NotReadable:
    return NotReadable(422, "unusable_image", f"the file {reason.rstrip('.')}.", fix)
