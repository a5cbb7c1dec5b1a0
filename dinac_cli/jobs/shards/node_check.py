"""Checks that a node of a cluster sees the places and the model of a run."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.errors import InputError, ModelError, OutputError
from dinac_cli.models.registry import find_model
from dinac_cli.storage.markers import NONCE_PREFIX
from dinac_cli.storage.store import Store, open_store, split_place
from dinac_cli.storage.urls import hide_secrets, is_url

_NONCE_BYTES = 64


@dataclass(frozen=True)
class NodeCheck:
    """Returns what must be the same on all nodes: the weights of the model.

    Raises OutputError if the node does not see the file `nonce` in OUT, InputError if it does not
    see the input `sample` or the folder `masks`, ModelError if it lacks the model.
    """

    store: Store
    nonce: str
    model: ModelHandle
    sample: str | None
    masks: str | None = None

    def __call__(self) -> dict[str, str]:
        self._check_out()
        if self.sample is not None:
            _check_input(self.sample)
        if self.masks is not None:
            _check_input(self.masks)
        return {"the weights": relocate(self.model).identity.weights}

    def _check_out(self) -> None:
        if self.store.stat(self.nonce) is None:
            raise OutputError(
                f"{self.store.locate('')}: this node does not see the OUT of the run; "
                "use a shared folder or a bucket"
            )


def _check_input(place: str) -> None:
    if is_url(place):
        folder, name = split_place(place)
        is_there = open_store(folder).stat(name) is not None
    else:
        is_there = os.path.exists(place)
    if not is_there:
        raise InputError(
            f"{hide_secrets(place)}: this node does not see this input; "
            "use a shared folder or a bucket"
        )


def relocate(model: ModelHandle) -> ModelHandle:
    """Finds the model of another machine on this one, by its latent space and weights.

    Raises ModelError if it is not here.
    """
    identity = model.identity  # known since the run began, so it says nothing about this machine
    path = model.resolved.path
    is_there = os.path.exists(path)
    if is_there and model.resolved.identify() == identity:
        return model
    found = find_model(identity.latent_space)
    if found is not None and found.identify() == identity:
        return ModelHandle(found, model.part, model.choice, model.more_parts)
    if is_there:
        raise ModelError(
            f"model {model.label}: {path} has other weights on this node; copy those of the run "
            "there"
        )
    raise ModelError(
        f"model {model.label} is not on this node; put it at {path}, or run dinac models pull there"
    )


@contextmanager
def show_nonce(store: Store) -> Iterator[str]:
    """Writes a small file into OUT, which shows that a node sees the same OUT. Yields its name."""
    name = f"{NONCE_PREFIX}{secrets.token_hex(8)}"
    store.write(name, secrets.token_bytes(_NONCE_BYTES))
    try:
        yield name
    finally:
        store.remove(name)
