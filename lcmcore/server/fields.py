"""The values of a request, each checked as it is read: JSON has numbers where forms have text."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request

from lcmcore.errors import ArgumentError
from lcmcore.util.validate import one_of, real_number, shown, whole_number

_MAX_TEXT = 2**15  # characters of a prompt
_MAX_FILES, _MAX_FIELDS = 16, 64  # of a form
_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class Fields:
    """What a client sent, by name; None and an empty text are as good as nothing."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    @classmethod
    async def of_json(cls, request: Request) -> Fields:
        """From a body that is a JSON object; raises ArgumentError."""
        try:
            values = json.loads(await request.body())
        except (ValueError, RecursionError):
            raise ArgumentError("the body is not JSON") from None
        if not isinstance(values, dict):
            raise ArgumentError("the body must be a JSON object, like {}")
        return cls(values)

    @classmethod
    async def of_form(cls, request: Request) -> Fields:
        """From a form, each file of it as bytes; `name[]` is a list. Raises ArgumentError."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() not in _FORMS:
            raise ArgumentError("the body must be a form (multipart/form-data)")
        values: dict[str, Any] = {}
        try:
            async with request.form(max_files=_MAX_FILES, max_fields=_MAX_FIELDS) as form:
                for name, value in form.multi_items():
                    content = await value.read() if isinstance(value, UploadFile) else value
                    values.setdefault(name.removesuffix("[]"), []).append(content)
        except ValueError:  # of charsets and lengths; Starlette reports the rest itself
            raise ArgumentError("the form cannot be read") from None
        return cls({name: each[0] if len(each) == 1 else each for name, each in values.items()})

    def text(self, name: str, default: str | None = None) -> str | None:
        """A text; raises ArgumentError for anything else."""
        value = self._get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise ArgumentError(f"{name} must be text, not {_kind(value)}")
        if len(value) > _MAX_TEXT:
            raise ArgumentError(f"{name} must have at most {_MAX_TEXT} characters")
        try:
            value.encode()
        except UnicodeEncodeError:  # JSON can write half of a surrogate pair
            raise ArgumentError(f"{name} is not proper Unicode") from None
        return value

    def whole(self, name: str, low: int, high: int) -> int | None:
        """A whole number in [low, high]; raises ArgumentError for anything else."""
        value = self._get(name)
        is_text = isinstance(value, str) and value.strip().lstrip("-").isdecimal()
        if (is_text and len(value) < 30) or (isinstance(value, float) and value.is_integer()):
            with suppress(ValueError):
                value = int(value)
        return None if value is None else whole_number(name, _single(name, value), low, high)

    def number(self, name: str, low: float, high: float) -> float | None:
        """A number in [low, high]; raises ArgumentError for anything else."""
        value = self._get(name)
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                raise ArgumentError(f"{name} must be a number, not {shown(value)}") from None
        return None if value is None else real_number(name, _single(name, value), low, high)

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false; raises ArgumentError for anything else."""
        value = self._get(name)
        if isinstance(value, str):
            value = _FLAGS.get(value.lower(), value)
        elif isinstance(value, int) and value in (0, 1):
            value = bool(value)
        return default if value is None else one_of(name, _single(name, value), (False, True))

    def choice(self, name: str, allowed: Sequence[str]) -> str:
        """One of the texts allowed, by default the first; raises ArgumentError for another."""
        value = self._get(name)
        return allowed[0] if value is None else one_of(name, _single(name, value), allowed)

    def file(self, name: str) -> bytes | None:
        """The bytes of one file of a form; raises ArgumentError for several, and for text."""
        files = self.files(name)
        if len(files) > 1:
            raise ArgumentError(f"{name} must be one file, not {len(files)}")
        return files[0] if files else None

    def files(self, name: str) -> list[bytes]:
        """The bytes of the files of a form, none to many; raises ArgumentError for text."""
        value = self._get(name)
        files = [] if value is None else value if isinstance(value, list) else [value]
        for each in files:
            if not isinstance(each, bytes):
                raise ArgumentError(f"{name} must be a file of the form, not text")
        return files

    def pictures(self, name: str) -> list[bytes]:
        """The bytes of images that JSON has in base64, or as data URLs; raises ArgumentError."""
        value = self._get(name)
        texts = [] if value is None else value if isinstance(value, list) else [value]
        return [_decoded(name, each) for each in texts]

    def raw(self, name: str) -> Any:
        """The value as it was sent; None if it was not."""
        return self._values.get(name)

    def _get(self, name: str) -> Any:
        value = self._values.get(name)
        return None if value is None or value in ("", []) else value


def _decoded(name: str, text: Any) -> bytes:
    if not isinstance(text, str):
        raise ArgumentError(f"{name} must be an image in base64, not {_kind(text)}")
    try:
        return base64.b64decode(text.rpartition(",")[2].encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):  # a link is not followed
        raise ArgumentError(f"{name} must be an image in base64, or a data URL") from None


def _single(name: str, value: Any) -> Any:
    if isinstance(value, (list, dict, bytes)):
        raise ArgumentError(f"{name} must be a single value, not {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    kinds = {bytes: "a file", list: "a list", dict: "an object", bool: "true or false"}
    return kinds.get(type(value), "a number")
