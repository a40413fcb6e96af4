"""What an AWS profile says: region, endpoint and keys, from the files that other tools keep.

The object storage client reads the environment by itself, but no profile files.
"""

import configparser
import os
from pathlib import Path

from ..errors import UsageError

_KEYS = {
    "region": "region",
    "endpoint_url": "endpoint",
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}
# the environment wins over a profile
_FIRST = {
    "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
    "endpoint": ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"),
    "access_key_id": ("AWS_ACCESS_KEY_ID",),
    "secret_access_key": ("AWS_ACCESS_KEY_ID",),
    "session_token": ("AWS_ACCESS_KEY_ID",),
}
_INDIRECT = ("sso_session", "sso_start_url", "role_arn", "credential_process")


def profile_settings() -> dict[str, str]:
    """What the environment does not say, from the profile that ``AWS_PROFILE`` names, or from ``default``.

    Returns:
        Settings under the client's names.

    Raises:
        UsageError: ``AWS_PROFILE`` names a profile that is in neither file, or one without keys of its own.
    """
    wanted = os.environ.get("AWS_PROFILE")
    name = wanted or "default"
    files = _read("AWS_CONFIG_FILE", "config"), _read("AWS_SHARED_CREDENTIALS_FILE", "credentials")
    sections = [name if name == "default" else f"profile {name}", name]
    found: dict[str, str] = {}
    for file, section in zip(files, sections, strict=True):
        if file.has_section(section):
            found.update(file[section])
    if wanted and not any(map(configparser.RawConfigParser.has_section, files, sections)):
        raise UsageError(f"There is no profile '{wanted}' (AWS_PROFILE) in ~/.aws/config or ~/.aws/credentials.")
    has_keys = "aws_access_key_id" in found or "AWS_ACCESS_KEY_ID" in os.environ
    if wanted and not has_keys and (indirect := [key for key in _INDIRECT if key in found]):
        raise UsageError(
            f"The profile '{wanted}' gets its keys by {indirect[0]}, which kdpipe does not do. Put them into the "
            f'environment: eval "$(aws configure export-credentials --format env)", then unset AWS_PROFILE.'
        )
    return {
        ours: found[theirs]
        for theirs, ours in _KEYS.items()
        if theirs in found and not any(variable in os.environ for variable in _FIRST[ours])
    }


def _read(variable: str, name: str) -> configparser.RawConfigParser:
    path = Path(os.environ.get(variable) or Path.home() / ".aws" / name)
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read(path)
    except configparser.Error:
        # the error would show lines of the file, and with them keys
        raise UsageError(f"The profile file {path} cannot be read: it needs [name], then key = value.") from None
    return parser
