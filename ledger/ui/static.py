"""The style sheet, the script and the icon: ours, read once. Their names have a digest, so browsers may keep them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final, NamedTuple

from starlette.responses import Response

_FOLDER: Final = Path(__file__).parent / "static"
_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class _File(NamedTuple):
    content: bytes
    media_type: str


_BY_URL: dict[str, _File] = {}
URLS: dict[str, str] = {}
"""By the name of a file, its address."""
for _path in sorted(_FOLDER.iterdir()):
    _content = _path.read_bytes()
    _digest = hashlib.sha256(_content).hexdigest()[:12]
    URLS[_path.name] = f"/ui/static/{_path.stem}-{_digest}{_path.suffix}"
    _BY_URL[URLS[_path.name]] = _File(_content, _TYPES[_path.suffix])


def answer(path: str) -> Response | None:
    """Return the file at this address, if there is one."""
    file = _BY_URL.get(path)
    if file is None:
        return None
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}
    return Response(file.content, media_type=file.media_type, headers=headers)
