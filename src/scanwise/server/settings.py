"""What the service may be told, with its limits; all of them have an upper end."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator

from scanwise.core.config import Settings, complaint
from scanwise.core.errors import ConfigError

MEGA = 1_000_000
MIN_TOKEN = 16  # characters
NEW_TOKEN = "python -c 'import secrets; print(secrets.token_urlsafe())'"


class ServerSettings(Settings):
    """Where to listen, who may ask, and how much one answer may cost."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="0 takes a free one.")
    token: SecretStr | None = Field(default=None, description="Asked of every client.")
    allow_hosts: tuple[str, ...] = Field(
        default=(), description="Further names by which clients may call this server."
    )

    max_mb: float = Field(default=32, gt=0, le=1024, description="Of one image file.")
    max_megapixels: float = Field(default=50, gt=0, le=100, description="Of one image.")
    max_files: int = Field(default=64, ge=1, le=10_000, description="Of one batch request.")
    memory_mb: float = Field(default=512, gt=0, description="Of all uploads held at once.")
    timeout_s: float = Field(default=30, gt=0, le=3600, description="To read a request; to answer.")

    queue: int = Field(default=256, ge=1, description="Images accepted and not yet answered.")
    batch: int = Field(default=32, ge=1, le=1024, description="Images computed together.")
    wait_ms: float = Field(
        default=4, ge=0, le=1000, description="Longest wait for images that are being decoded."
    )
    device: str = Field(default="cpu", description="Where to compute.")

    log: Path | None = Field(default=None, description="File of answers, for `scanwise monitor`.")
    feedback: Path | None = Field(default=None, description="File of labels that users send.")
    keep_images: Path | None = Field(default=None, description="Folder to keep uploads in.")
    log_names: bool = Field(default=False, description="Write file names to the log on stderr.")

    @field_validator("token")
    @classmethod
    def _token_can_be_sent(cls, token: SecretStr | None) -> SecretStr | None:
        if token is None:
            return None
        text = token.get_secret_value()
        if not (text.isascii() and text.isprintable() and text == text.strip()):
            raise ValueError(
                "must be printable ASCII without spaces around it, else no client can send it in "
                f"a header; make one: {NEW_TOKEN}"
            )
        if len(text) < MIN_TOKEN:
            raise ValueError(f"must have at least {MIN_TOKEN} characters; make one: {NEW_TOKEN}")
        return token

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not is_loopback(self.host) and self.token is None:
            raise ValueError(
                f"host={self.host} can be reached from other machines, so a token is needed: set "
                f"SCANWISE_TOKEN, or give --token. Make one: {NEW_TOKEN}"
            )
        if self.max_files > self.queue:
            raise ValueError(
                f"max_files={self.max_files} must not exceed queue={self.queue}: such a batch "
                "would never be accepted."
            )
        if self.max_mb > self.memory_mb:
            raise ValueError(
                f"max_mb={self.max_mb:g} must not exceed memory_mb={self.memory_mb:g}."
            )
        return self

    @property
    def max_bytes(self) -> int:
        return int(self.max_mb * MEGA)

    @property
    def max_pixels(self) -> int:
        return int(self.max_megapixels * MEGA)

    @property
    def memory_bytes(self) -> int:
        return int(self.memory_mb * MEGA)

    @property
    def batch_bytes(self) -> int:
        """Of one batch request."""
        return min(self.max_bytes * self.max_files, self.memory_bytes)


def make_settings(values: Mapping[str, Any]) -> ServerSettings:
    """Check settings; all offenders in one message, never with the token.

    Raises:
        ConfigError: A value is out of range, or two don't fit.
    """
    try:
        return ServerSettings(**values)
    except ValidationError as error:
        items = [
            {**item, "input": "…"} if "token" in item["loc"] else item for item in error.errors()
        ]
        raise ConfigError(" ".join(complaint(item) for item in items)) from None


def is_loopback(host: str) -> bool:
    """True where only this machine can reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
