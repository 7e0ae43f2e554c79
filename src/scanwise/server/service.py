"""The state of a running service: its models, its counters, the files it was told to write."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scanwise.core.errors import ConfigError, RunError
from scanwise.core.files import atomic_path
from scanwise.data.images import SUFFIXES, sniff
from scanwise.deploy.answers import Answer
from scanwise.pipeline.served_log import answer_line
from scanwise.server.batching import Batcher
from scanwise.server.errors import ApiError
from scanwise.server.limits import Uploads, prepare_upload
from scanwise.server.logs import JsonLines, now, tell
from scanwise.server.metrics import Meters
from scanwise.server.models import LoadedModel, names_of
from scanwise.server.schemas import Feedback, ModelRef
from scanwise.server.settings import ServerSettings
from scanwise.server.threads import Threads

REMEMBERED = 100_000  # answers that feedback can refer to


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A loaded model with its queue."""

    model: LoadedModel
    batcher: Batcher

    @property
    def ref(self) -> ModelRef:
        return ModelRef(id=self.model.name, sha256=self.model.sha256)

    @property
    def multilabel(self) -> bool:
        return self.model.bundle.config.task == "multilabel"


@dataclass(frozen=True)
class _Given:
    """What was answered, for feedback."""

    served: ServedModel
    predicted: str


class Service:
    """All that the routes share."""

    def __init__(self, models: Iterable[LoadedModel], settings: ServerSettings) -> None:
        """Open the files to write, so that one that can't be written stops the start.

        Raises:
            RunError: If a file or folder can't be written.
        """
        self.settings = settings
        self.meters = Meters()
        self.uploads = Uploads(settings.memory_bytes)
        self._served: dict[str, ServedModel] = {}
        self._given: OrderedDict[str, _Given] = OrderedDict()
        self._log = None if settings.log is None else JsonLines(settings.log)
        self._feedback = None if settings.feedback is None else JsonLines(settings.feedback)
        if settings.keep_images is not None:
            _make_folder(settings.keep_images)
        self._decoders = Threads(
            max(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2),
            "decode",
        )
        for model in models:
            self.add(model)

    def add(self, model: LoadedModel) -> None:
        """Serve one more model; also while running.

        Raises:
            ConfigError: If its name is taken.
        """
        if model.name in self._served:
            raise ConfigError(f"a model named '{model.name}' is served already.")
        settings = self.settings
        batcher = Batcher(
            model.bundle,
            self._decoders,
            partial(
                prepare_upload,
                model.bundle,
                max_bytes=settings.max_bytes,
                max_pixels=settings.max_pixels,
            ),
            queue=settings.queue,
            batch=settings.batch,
            wait_s=settings.wait_ms / 1000,
            device=settings.device,
            on_batch=partial(self.meters.batch, model.name),
        )
        self._served[model.name] = ServedModel(model, batcher)
        self.meters.add_model(model.name, model.sha256, lambda: batcher.pending)

    def models(self) -> tuple[ServedModel, ...]:
        return tuple(self._served.values())

    def choose_any(self) -> None:
        """Make sure that there is a model.

        Raises:
            ApiError: 503 where there is none.
        """
        if not self._served:
            raise ApiError(
                503, "no_model", "no model is loaded.", "Start it as scanwise serve BUNDLE."
            )

    def choose(self, name: str | None) -> ServedModel:
        """The model that a request means.

        Raises:
            ApiError: 503 where there is none at all, 404 for an unknown one, 400 where several are
                there and none was named.
        """
        self.choose_any()
        known = names_of(each.model for each in self.models())
        if name is None and len(self._served) > 1:
            raise ApiError(
                400, "which_model", "several models are loaded.", f"Add ?model=, one of {known}."
            )
        if name is None:
            return self.models()[0]
        if name not in self._served:
            raise ApiError(404, "unknown_model", "there is no such model.", f"Use one of {known}.")
        return self._served[name]

    def record(self, served: ServedModel, request_id: str, answer: Answer, data: bytes) -> None:
        """Count an answer, remember it for feedback, and write down what was asked for."""
        self.meters.answered(served.model.name, answer, served.multilabel)
        self._given[request_id] = _Given(served, answer.predicted)
        if len(self._given) > REMEMBERED:
            self._given.popitem(last=False)
        try:
            if self._log is not None:
                ref = {"model": served.model.name, "sha256": served.model.sha256}
                self._log.append(answer_line(answer, time=now(), request_id=request_id, **ref))
            if self.settings.keep_images is not None:
                _keep(self.settings.keep_images, request_id, data)
        except OSError as error:  # the answer is right all the same
            self.meters.log_failed()
            reason = str(error.strerror or error)
            tell("not_written", logging.ERROR, request_id=request_id, reason=reason)

    def take_feedback(self, given: Feedback) -> _Given:
        """Store what the truth was.

        Raises:
            ApiError: 403 where no file was named at the start, 404 for an answer that is not
                remembered, 422 for a label that is no class, 507 if it can't be written.
        """
        if self._feedback is None:
            raise ApiError(
                403, "feedback_off", "feedback is not collected.", "Start with --feedback FILE."
            )
        known = self._given.get(given.request_id)
        if known is None:
            raise ApiError(
                404,
                "unknown_request",
                f"no answer with this request_id among the last {REMEMBERED:,} since the start.",
                "Use the request_id of a prediction.",
            )
        _check_label(given.label, known.served)
        line = {
            "time": now(),
            **given.model_dump(),
            "predicted": known.predicted,
            **known.served.ref.model_dump(),
        }
        try:
            self._feedback.append(line)
        except OSError as error:
            self.meters.log_failed()
            raise ApiError(
                507, "not_stored", f"it could not be written ({error.strerror or error}).",
                "Make room on the server's disk, then send it again.",
            ) from error  # fmt: skip
        return known

    async def close(self) -> None:
        """End threads and close files; call it when no request is left."""
        for each in self.models():
            await each.batcher.close()
        self._decoders.close()
        for file in (self._log, self._feedback):
            if file is not None:
                file.close()


def _check_label(label: str, served: ServedModel) -> None:
    names = served.model.bundle.class_names
    parts = label.split("|") if served.multilabel and label else [label]
    wrong = [part for part in parts if part not in names]
    if wrong and not (served.multilabel and label == ""):
        raise ApiError(
            422, "unknown_label", "the label is no class of the model.",
            f"Use one of {', '.join(names)}.",
        )  # fmt: skip


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"can't make {folder}: {error.strerror}; name another folder.") from error
    if not os.access(folder, os.W_OK):
        raise RunError(f"can't write to {folder}; name another folder.")


def _keep(folder: Path, request_id: str, data: bytes) -> None:
    """Store an upload under its request id; the client's name has no part in it."""
    suffix: Any = SUFFIXES.get(sniff(data[:1024]), (".bin",))[0]
    with atomic_path(folder / f"{request_id}{suffix}") as temporary:
        temporary.write_bytes(data)
