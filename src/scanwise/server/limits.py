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


async def body_within(
    request: Request, limit: int, share: Share, too_large: ApiError
) -> AsyncIterator[bytes]:
    """The body in pieces, counted as they come: the stated length may be absent or a lie.

    Raises:
        ApiError: `too_large` beyond the limit, 429 where there is no room now.
    """
    stated = request.headers.get("content-length", "")
    if stated.isascii() and stated.isdigit() and int(stated) > limit:
        raise too_large
    async for piece in request.stream():
        if share.size + len(piece) > limit:
            raise too_large
        share.add(len(piece))
        yield piece


def _too_large(size: str, fix: str) -> ApiError:
    return ApiError(413, "too_large", f"the request has more than {size}.", fix)


def _files_too_large(limit: int, max_files: int) -> ApiError:
    options = "--max-mb" if max_files == 1 else "--max-mb or --memory-mb"
    send = "a smaller file" if max_files == 1 else "fewer or smaller files"
    return _too_large(f"{limit / 1e6:g} MB", f"Send {send}, or start with a higher {options}.")


async def read_body(request: Request, limit: int, share: Share) -> bytes:
    """The body of a request without files."""
    too_large = _too_large(f"{limit / 1e3:g} kB", "Shorten it.")
    try:
        return b"".join([piece async for piece in body_within(request, limit, share, too_large)])
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
    form = await _parse(request, limit, max_files, share)
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
    too_large = _files_too_large(limit, max_files)
    pieces = body_within(request, limit + OVERHEAD, share, too_large)
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
