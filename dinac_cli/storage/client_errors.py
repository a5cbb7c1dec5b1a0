"""What the errors of remote clients mean: botocore, aiohttp, httpx, huggingface_hub, gcsfs.

No client is imported: an error is known by the code or the status of the server's answer, and by
the names of its classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any

from dinac_cli.errors import (
    DinacError,
    InputError,
    OutputError,
    StorageError,
    UnwritableDiskError,
)
from dinac_cli.storage.urls import find_scheme, hide_secrets, quote_client


class Trouble(Enum):
    """The kinds of failure that need different words."""

    MISSING = "no such file; check the URL"
    NO_PLACE = "the bucket does not exist; check the URL"
    DENIED = "access is denied; check the credentials in the environment and their permissions"
    CREDENTIALS = "the credentials are missing, wrong or expired"
    REGION = "the bucket is in another region; set AWS_DEFAULT_REGION to its region"
    ADDRESS = "the URL or the endpoint is invalid; check both"
    CLOCK = "the clock of this machine is wrong; set it"
    CERTIFICATE = "the server's certificate is not trusted; check the URL, or set AWS_CA_BUNDLE"
    FULL = "the place is full; free some space and run the same command again"
    CHANGED = "the file changed while it was read; run the same command again"
    OFFLINE = "HF_HUB_OFFLINE is set, which forbids downloads; unset it"
    REFUSED = "the server refused the request; check the URL, the region and the credentials"
    BUSY = "the place does not answer; check the endpoint and the network, or try again later"
    UNKNOWN = "the client of this place failed; see the details with -v"


_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS",
    "hf": "set HF_TOKEN, or run `hf auth login`",
}
_ALIASES = {"s3a": "s3", "gcs": "gs"}

_CODES = {
    Trouble.MISSING: "NoSuchKey NoSuchVersion",
    Trouble.NO_PLACE: "NoSuchBucket",
    Trouble.DENIED: "AccessDenied AllAccessDisabled AccountProblem InvalidObjectState",
    Trouble.CREDENTIALS: "InvalidAccessKeyId SignatureDoesNotMatch ExpiredToken InvalidToken "
    "TokenRefreshRequired InvalidSecurity CredentialsNotSupported NotSignedUp",
    Trouble.REGION: "PermanentRedirect TemporaryRedirect Redirect AuthorizationHeaderMalformed "
    "IllegalLocationConstraintException 301 307",
    Trouble.ADDRESS: "InvalidBucketName InvalidURI KeyTooLongError",
    Trouble.CLOCK: "RequestTimeTooSkewed",
    Trouble.FULL: "XMinioStorageFull QuotaExceeded InsufficientStorage",
    Trouble.CHANGED: "PreconditionFailed 412",
    # NoSuchUpload: a rule of the bucket, or another client, ended the upload.
    Trouble.BUSY: "SlowDown ServiceUnavailable InternalError RequestTimeout Throttling "
    "ThrottlingException ThrottledException RequestThrottled TooManyRequests RequestLimitExceeded "
    "BandwidthLimitExceeded OperationAborted NoSuchUpload BadDigest IncompleteBody "
    "XAmzContentSHA256Mismatch",
}
_TROUBLE_OF_CODE = {code: trouble for trouble, codes in _CODES.items() for code in codes.split()}

_CLASSES = {
    Trouble.MISSING: "EntryNotFoundError",
    Trouble.NO_PLACE: "RepositoryNotFoundError RevisionNotFoundError BucketNotFoundError",
    Trouble.DENIED: "GatedRepoError DisabledRepoError",
    Trouble.CREDENTIALS: "NoCredentialsError PartialCredentialsError CredentialRetrievalError "
    "TokenRetrievalError SSOError ProfileNotFound DefaultCredentialsError RefreshError "
    "LocalTokenNotFoundError",
    Trouble.REGION: "NoRegionError InvalidRegionError",
    Trouble.ADDRESS: "ParamValidationError InvalidURL HFValidationError HfUriError",
    Trouble.CERTIFICATE: "SSLCertVerificationError ClientConnectorCertificateError",
    Trouble.CHANGED: "FileExpired",
    Trouble.OFFLINE: "OfflineModeIsEnabled",
    # Their causes have codes like a status, although a server sent none.
    Trouble.BUSY: "ClientPayloadError IncompleteRead ClientConnectionError",
}
_TROUBLE_OF_CLASS = {name: trouble for trouble, names in _CLASSES.items() for name in names.split()}

# Base classes: one of them says less than the answer of a server.
_BASES = {
    Trouble.MISSING: "FileNotFoundError NotADirectoryError IsADirectoryError",
    Trouble.DENIED: "PermissionError",
    Trouble.BUSY: "ConnectionError HTTPClientError TimeoutError TransportError IncompleteReadError "
    "ResponseParserError OSError",
}
_TROUBLE_OF_BASE = {name: trouble for trouble, names in _BASES.items() for name in names.split()}


def find_trouble(exc: BaseException) -> Trouble:
    """Returns the kind of failure that a client's error reports."""
    chain = list(_walk_causes(exc))
    for error in chain:
        found = _TROUBLE_OF_CODE.get(_find_code(error)) or _find_by_class(error, _TROUBLE_OF_CLASS)
        if found is not None:
            return found
    if any("CERTIFICATE_VERIFY_FAILED" in str(error) for error in chain):
        return Trouble.CERTIFICATE
    if "nvalid endpoint" in str(exc):  # a ValueError of botocore
        return Trouble.ADDRESS
    for error in reversed(chain):  # the answer of a server is the cause of what a client says
        found = _judge_status(_find_status(error)) or _find_by_class(error, _TROUBLE_OF_BASE)
        if found is not None:
            return found
    return Trouble.UNKNOWN


def describe_trouble(
    trouble: Trouble, url: str, exc: BaseException, *, writing: bool = False
) -> DinacError:
    """Returns the error for a file or place. Its text and its details contain no secrets."""
    words = _choose_words(trouble, find_scheme(url), writing=writing)
    message, details = f"{hide_secrets(url)}: {words}", [quote_client(exc)]
    if trouble is Trouble.BUSY:
        return StorageError(message, details)
    if trouble is Trouble.FULL:
        return UnwritableDiskError(message, details)
    return OutputError(message, details) if writing else InputError(message, details)


def _choose_words(trouble: Trouble, scheme: str, *, writing: bool) -> str:
    if trouble is Trouble.CREDENTIALS:
        advice = _CREDENTIALS.get(_ALIASES.get(scheme, scheme), "check the environment")
        return f"{trouble.value}; {advice}"
    if trouble is Trouble.NO_PLACE and scheme == "hf":
        return "the repository does not exist or is private; check the URL and HF_TOKEN"
    if trouble is Trouble.NO_PLACE and writing:
        return "the bucket does not exist; create it, or check the URL"
    return str(trouble.value)


def is_past_the_end(exc: BaseException) -> bool:
    """True if a server refused a range because the file ends before it."""
    return any(
        _find_code(error) == "InvalidRange" or _find_status(error) == 416
        for error in _walk_causes(exc)
    )


def _walk_causes(exc: BaseException) -> Iterator[BaseException]:
    error: BaseException | None = exc
    for _ in range(8):  # more links than any client makes
        if error is None:
            return
        yield error
        error = error.__cause__


def _find_code(exc: BaseException) -> str:
    """Returns the code of an answer of S3, such as `NoSuchKey`; empty if there is none."""
    response = getattr(exc, "response", None)
    error = response.get("Error") if isinstance(response, dict) else None
    return str(error.get("Code", "")) if isinstance(error, dict) else ""


def _find_status(exc: BaseException) -> int:
    """Returns the HTTP status of an answer; 0 if there is none."""
    response: Any = getattr(exc, "response", None)
    if isinstance(response, dict):
        status = (response.get("ResponseMetadata") or {}).get("HTTPStatusCode")
    else:
        status = getattr(response, "status_code", None)
    for name in ("status", "code"):  # of aiohttp, where `code` warns, and of gcsfs
        if not isinstance(status, int):
            status = getattr(exc, name, None)
    return status if isinstance(status, int) else 0


def _judge_status(status: int) -> Trouble | None:
    if status in (401, 403, 407):
        return Trouble.DENIED
    if status in (404, 410):
        return Trouble.MISSING
    if status == 412:
        return Trouble.CHANGED
    if status == 507:
        return Trouble.FULL
    if status in (408, 425, 429) or (status >= 500 and status not in (501, 505)):
        return Trouble.BUSY
    return Trouble.REFUSED if status >= 300 else None


def _find_by_class(exc: BaseException, table: dict[str, Trouble]) -> Trouble | None:
    """Returns what the nearest class of an error that is in `table` means."""
    return next(
        (table[base.__name__] for base in type(exc).__mro__ if base.__name__ in table), None
    )
