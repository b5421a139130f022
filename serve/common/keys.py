"""API keys: who may call, and the rule for calls without a key."""

import hashlib
import hmac
import ipaddress
import os
import re
import stat
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, field_validator

from seqvis.config import Settings, explain, load_yaml
from seqvis.errors import ConfigError, SeqvisError

KeyScope = Literal["translate", "search", "write", "admin"]
SCOPES: tuple[KeyScope, ...] = get_args(KeyScope)
LONGEST_KEY = 512  # characters of a presented key; a longer one is not hashed
_LOCAL_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(?::([0-9]{1,5}))?")
_SHA256_OF_NOTHING = hashlib.sha256(b"").hexdigest()


def _no_number(value: Any) -> Any:
    """Refuse 2027 and 20270131, which pydantic takes for seconds since 1970."""
    if isinstance(value, int | float) or (isinstance(value, str) and "-" not in value):
        raise ValueError("needs a date or a time, such as 2027-01-31 or 2027-01-31T18:00:00Z")
    return value


def _in_a_zone(value: datetime) -> datetime:
    return value if value.tzinfo else value.replace(tzinfo=UTC)


Expiry = Annotated[datetime, BeforeValidator(_no_number), AfterValidator(_in_a_zone)]


class KeyHolder(Settings):
    """One entry of the file of keys: who holds a key, and what it allows."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name in logs and metrics: letters, digits, dots, dashes."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    """SHA-256 of the key in hexadecimal; the key itself is stored nowhere."""
    requests_per_minute: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Requests a minute, wherever they arrive; unlimited if left out."""
    burst: float | None = Field(None, ge=1, allow_inf_nan=False)
    """Requests that may come at once after a rest; by default what a minute allows."""
    scopes: tuple[KeyScope, ...]
    """What it allows: `translate`, `search`, `write` (add, replace and delete pictures), `admin`
    (change which models are live). None includes another."""
    expires: Expiry | None = None
    """From when on it is refused: a date, which means its beginning, or a time; in UTC if it names
    no other zone. Never, if left out."""

    @property
    def has_expired(self) -> bool:
        return self.expires is not None and datetime.now(UTC) >= self.expires

    @field_validator("sha256", mode="before")
    @classmethod
    def _lower_case(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("sha256")
    @classmethod
    def _of_some_key(cls, value: str) -> str:
        if value == _SHA256_OF_NOTHING:
            raise ValueError("is the hash of an empty key")
        return value

    @field_validator("scopes")
    @classmethod
    def _some(cls, value: tuple[KeyScope, ...]) -> tuple[KeyScope, ...]:
        if not value:
            raise ValueError(f"needs at least one of {', '.join(SCOPES)}")
        return value


class Keys:
    """The accepted keys."""

    def __init__(self, holders: Sequence[KeyHolder]):
        self.holders = tuple(holders)

    @classmethod
    def load(cls, path: str, legacy: bool = False, none: bool = False) -> "Keys":
        """Read a YAML or JSON list of entries from a path or URI.

        Raises ConfigError with one line for every problem in the file.

        Args:
            legacy: accept entries without scopes, as they were written before there were any. They
                allow all but `admin`, and that too with `admin: true`.
            none: accept an empty list.
        """
        if "://" not in path and os.path.exists(path) and os.stat(path).st_mode & stat.S_IWOTH:
            raise ConfigError(
                f"{path}: every user of the machine may write to it and add a key; chmod o-w {path}"
            )
        entries = load_yaml(path)
        if not isinstance(entries, list) or not (entries or none):
            raise ConfigError(
                f"{path}: needs a list with at least one key; "
                "seqvis make-key --name NAME makes an entry"
            )
        holders: list[KeyHolder] = []
        problems: list[str] = []
        for number, entry in enumerate(entries, start=1):
            where = f"{path}: entry {number}"
            if isinstance(entry, dict) and "scopes" not in entry:
                entry = _with_scopes(entry)
                if not legacy:
                    problems.append(f"{where}: {_explain_legacy(entry)}")
            try:
                holders.append(KeyHolder.model_validate(entry))
            except ValidationError as error:
                problems += [f"{where}: {line}" for line in explain(error, KeyHolder, flags=False)]
        problems += [
            f"{path}: {what} of {name} is given to another entry too"
            for what, values in (
                ("the name", [holder.name for holder in holders]),
                ("the key", [holder.sha256 for holder in holders]),
            )
            for name, value in zip([holder.name for holder in holders], values, strict=True)
            if values.count(value) > 1
        ]
        if problems:
            raise ConfigError("\n".join(dict.fromkeys(problems)))
        return cls(holders)

    def check(self, presented: str | None) -> KeyHolder | None:
        """Return the holder of the presented key, also of one that has expired, or None.

        This takes as long for a right key as for a wrong one: every entry is compared, each in
        constant time.
        """
        if not presented or len(presented) > LONGEST_KEY:
            return None
        digest = sha256_of(presented)
        matches = [holder for holder in self.holders if hmac.compare_digest(digest, holder.sha256)]
        return matches[0] if matches else None


class KeyFile:
    """The file of keys of a running server, which may change."""

    def __init__(self, path: str, legacy: bool = False):
        """`legacy`: as in `Keys.load`."""
        self._path, self._legacy = path, legacy
        self._taken = self._seen = self._content()

    def changed(self) -> Keys | None:
        """Return the keys if the file has changed, else None.

        A change counts once two calls have read the same, so that nobody is refused while the file
        is being written. An empty list lets nobody in any more. Raises ConfigError, for each change
        once, if the file cannot be used.
        """
        content, before = self._content(), self._seen
        self._seen = content
        if content != before or content == self._taken:
            return None
        self._taken = content
        return Keys.load(self._path, self._legacy, none=True)

    def _content(self) -> bytes | None:
        from seqvis.storage import locate  # loads PyArrow, which the keys themselves do not need

        try:
            return locate(self._path).read_bytes()
        except (SeqvisError, OSError):
            return None


def _with_scopes(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry without scopes as it is written now, with the same meaning."""
    scopes = SCOPES if entry.get("admin") is True else tuple(s for s in SCOPES if s != "admin")
    return {**{key: entry[key] for key in entry if key != "admin"}, "scopes": scopes}


def _explain_legacy(upgraded: dict[str, Any]) -> str:
    scopes = ", ".join(upgraded["scopes"])
    instead = " in place of admin: true" if "admin" in upgraded["scopes"] else ""
    return (
        f"{upgraded.get('name')}: has no scopes; add scopes: [{scopes}]{instead} to allow what it "
        "allowed before, or fewer (write lets it delete pictures); or let old entries keep their "
        "meaning with serve.app --legacy-keys or the gateway's legacy_keys: true"
    )


def sha256_of(key: str) -> str:
    """Return the SHA-256 of a key, in hexadecimal."""
    return hashlib.sha256(key.encode("utf-8", errors="surrogatepass")).hexdigest()


def presented_key(authorization: str | None, api_key: str | None) -> str | None:
    """Return the key of `Authorization: Bearer KEY` or, without that, of `X-API-Key: KEY`."""
    scheme, _, rest = (authorization or "").strip().partition(" ")
    if scheme.lower() == "bearer" and rest.strip():
        return rest.strip()
    return (api_key or "").strip() or None


def check_local(
    client_host: str | None,
    host_header: str | None,
    origin: str | None,
    fetch_site: str | None = None,
    *,
    forwarded: bool = False,
) -> str | None:
    """Return why a request is refused where no keys are set, or None if it may pass.

    Args:
        client_host: the peer's address. It must be loopback, also as IPv6 or as IPv4 inside IPv6.
        host_header: must name this machine: a page of a name that an attacker lets point to
            127.0.0.1 (DNS rebinding) sends that name.
        origin: of the page that asks; browsers send it with every request that could change
            something. Scheme, host and port must be those of the request.
        fetch_site: the header Sec-Fetch-Site, which browsers send with every request, also for
            pictures, scripts and links. Another port of this machine is another site.
        forwarded: whether a proxy's header (X-Forwarded-For, Forwarded, Via, X-Real-IP) is there,
            so that the peer's address is not the caller's.
    """
    if forwarded:
        return "requests through a proxy need an API key"
    if not client_host or not _is_loopback(client_host):
        return "without API keys only this machine may ask"
    # A loopback address is not enough: any page in a browser on this machine calls from loopback.
    authority = _LOCAL_HOST.fullmatch((host_header or "").lower())
    if authority is None:
        return "the Host header must be localhost, 127.0.0.1 or [::1]"
    if fetch_site in ("cross-site", "same-site"):
        return "pages of other sites may not ask"
    if origin is None:
        return None
    asking = _LOCAL_HOST.fullmatch(origin.lower().removeprefix("http://"))
    same = origin.lower().startswith("http://") and asking is not None
    if not same or _host_and_port(asking) != _host_and_port(authority):
        return "pages of other sites may not ask"
    return None


def keys_for(path: str | None, host: str, *, legacy: bool = False) -> Keys | None:
    """Return the keys that a server on `host` accepts; None means local mode, without keys.

    Raises ConfigError if the server could be reached from elsewhere and there is no file of keys.
    `legacy`: as in `Keys.load`.
    """
    if path is not None:
        return Keys.load(path, legacy)
    if host.lower() != "localhost" and not _is_loopback(host.strip("[]")):
        raise ConfigError(
            f"keys: a server on {host or 'all interfaces'} can be reached from elsewhere, so it "
            "needs a file of API keys (seqvis make-key makes an entry); "
            "or listen on 127.0.0.1"
        )
    return None


def _is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    inside = getattr(parsed, "ipv4_mapped", None)
    return bool((inside or parsed).is_loopback)


def _host_and_port(match: re.Match[str] | None) -> tuple[str, int] | None:
    """Return what an address of plain HTTP, where no port means 80, refers to."""
    return match and (match[1], int(match[2] or 80))
