"""Every generated page, by its path under `docs/`."""

from __future__ import annotations

import functools
from typing import Any

from pydantic import SecretStr

from guide import commands, errors, http, journal, mechanisms, report, settings
from ledger.api.app import create_app
from ledger.settings import Settings
from ledger.verifier.jws import SigningKey


@functools.cache
def document() -> dict[str, Any]:
    """The OpenAPI document. It does not depend on the settings: the environment is not read, and no key file made."""
    key = SecretStr(SigningKey.generate().pem())
    return create_app(Settings.model_construct(signing_key=key)).openapi()


@functools.cache
def generated() -> dict[str, str]:
    """The generated part of the reference."""
    contract = document()
    pages = {
        **http.pages(contract),
        "commands.md": commands.page(),
        "errors.md": errors.page(contract),
        "journal-members.md": journal.page(),
        "mechanisms.md": mechanisms.page(),
        "report-schema.md": report.page(),
        "settings.md": settings.page(),
    }
    return {f"reference/{path}": text for path, text in pages.items()}
