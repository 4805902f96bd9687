"""What a tool that fetches a model needs beside: the network's names and certificates, and where
pip's own configuration says that packages lie."""

import configparser
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

FETCH = "ftd.worker.models.fetch"  # the tool that has the network
FETCHED = "fetched"  # where the next one finds what it brought, beside what it makes

_PREFIXES = ("hf:", "pypi:")  # of sources that are elsewhere

_NETWORK = (
    "/etc/resolv.conf", "/etc/hosts", "/etc/host.conf", "/etc/gai.conf", "/etc/services",
    "/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/run/systemd/resolve",
)  # fmt: skip
# pip tells an index what system it runs on, and fails where it may not look.
_SYSTEM = ("/etc/os-release", "/etc/lsb-release", "/etc/debian_version")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_PLACES = ("find-links", "index-url", "extra-index-url", "cert", "client-cert")  # pip's keys


def fetches(source: str) -> bool:
    """Whether a model's source is to be fetched first."""
    return source.startswith(_PREFIXES)


def places(environment: Mapping[str, str]) -> list[Path]:
    """Files and directories that are read to fetch, whether they are there or not."""
    home = Path(environment.get("HOME", "/"))
    files = [Path("/etc/pip.conf"), home / ".pip" / "pip.conf", home / ".config/pip/pip.conf"]
    if named := environment.get("PIP_CONFIG_FILE"):
        files.append(Path(named))
    said = [environment[name] for name in _CERTIFICATES if name in environment]
    said += [
        environment[name]
        for name in (f"PIP_{key.upper().replace('-', '_')}" for key in _PLACES)
        if name in environment
    ]
    for file in files:
        said += _said(file)
    found = [path for words in said for path in _paths(words)]
    return [*map(Path, (*_NETWORK, *_SYSTEM)), *files, *found]


def _said(file: Path) -> list[str]:
    """The values in a file of pip's that may name places here."""
    parser = configparser.RawConfigParser()
    try:
        parser.read(file)
    except (OSError, configparser.Error, UnicodeDecodeError):
        return []  # pip will say so itself
    return [
        parser.get(section, key)
        for section in parser.sections()
        for key in _PLACES
        if parser.has_option(section, key)
    ]


def _paths(words: str) -> Iterator[Path]:
    """The absolute paths among words, and those of URLs of files."""
    for word in words.split():
        if word.startswith("file:"):
            yield Path(unquote(urlsplit(word).path))
        elif word.startswith("/"):
            yield Path(word)
