"""Imports the FLUX.2 VAE of the diffusers library, which takes seconds."""

from __future__ import annotations

import inspect
import logging
import warnings
from importlib.util import find_spec
from typing import Any

from dinac_cli.errors import MissingLibraryError, quote_error

INSTALL = "pip install 'dinac-cli[flux2]'"
"""The command that installs diffusers."""

_NEWEST_ARGUMENT = "decoder_block_out_channels"


def demand_diffusers(user: str) -> None:
    """Raises MissingLibraryError if diffusers is not installed. Does not import it."""
    try:
        spec = find_spec("diffusers")
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise MissingLibraryError(_name_lack(user))


def import_vae_class(user: str) -> Any:
    """Returns the class `AutoencoderKLFlux2`. The library's warnings are not shown.

    `user` is what needs the library, such as "--model flux2". Raises MissingLibraryError if the
    library is not installed, too old, or does not work here.
    """
    with warnings.catch_warnings():
        # The warnings of an import are about the library's own code, or about code it imports.
        warnings.simplefilter("ignore")
        try:
            from diffusers import AutoencoderKLFlux2
        except ImportError as exc:
            raise MissingLibraryError(_explain(user, exc), [quote_error(exc)]) from exc
        except RuntimeError as exc:  # what the library makes of an error in its lazy imports
            words = f"{user} needs the diffusers library, which does not load; {INSTALL} --upgrade"
            raise MissingLibraryError(words, [quote_error(exc)]) from exc
    if _NEWEST_ARGUMENT not in inspect.signature(AutoencoderKLFlux2.__init__).parameters:
        raise MissingLibraryError(f"{user} needs a newer diffusers library; {INSTALL} --upgrade")
    logging.getLogger("diffusers").setLevel(logging.ERROR)  # advice for users of the library
    return AutoencoderKLFlux2


def _explain(user: str, exc: ImportError) -> str:
    if isinstance(exc, ModuleNotFoundError) and exc.name == "diffusers":
        return _name_lack(user)
    return f"{user} needs a newer diffusers library; {INSTALL} --upgrade"


def _name_lack(user: str) -> str:
    return f"{user} needs the diffusers library; {INSTALL}"
