#!/usr/bin/env bash
# Authlib 1.9.10, seen on 2026-11-30: a client secret with a percent sign is another one at the provider.
#
# Believed: what Authlib's client sends as `client_secret_basic`, Authlib's server reads back. RFC 6749, 2.3.1, has both sides encode
# and decode id and secret before and after Base64.
# Happens: the client does not encode, and the server decodes. Of a secret with `%41` the server gets `A`: `invalid_client`.
# Who is hurt: anyone whose provider makes secrets with `%`, or with `+` if it decodes forms in full. Sign-in fails although id
# and secret are right on both sides; `client_secret_post` works.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet authlib==1.9.10
"$folder/venv/bin/python" - <<'PYTHON'
from urllib.parse import quote

from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.util import extract_basic_authorization

SECRET = "discount-100%41"


def at_the_server(secret):
    """Return the secret that the server reads in what the client sends."""
    _, headers, _ = ClientAuth("client", secret, "client_secret_basic").prepare("POST", "https://a.example", {}, "")
    return extract_basic_authorization(headers)[1]


print(f"client: {SECRET!r}, server: {at_the_server(SECRET)!r}; believed: the same")
assert at_the_server(SECRET) == "discount-100A"
assert at_the_server(quote(SECRET, safe="")) == SECRET
print("still so")
PYTHON
