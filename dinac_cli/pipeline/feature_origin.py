"""Whose features a run collects: a network's at hand, or one that records hold tokens of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from dinac_cli.codec.loading import ModelHandle
from dinac_cli.codec.records import check_model, name_creator, name_model
from dinac_cli.container.encoded import CLASS_TOKEN
from dinac_cli.container.header import RecordHeader
from dinac_cli.container.names import escape_text
from dinac_cli.errors import FormatError, ModelError, Rejection


@dataclass(frozen=True)
class FeatureOrigin:
    """The network whose features a run collects: all of one, of tokens `width` long.

    `model` is None where it is not at hand; then `missing` says why, and only stored tokens do.
    """

    label: str
    revision: str
    latent_space: str
    weights: str
    width: int
    model: ModelHandle | None = None
    missing: str = ""

    def demand_space(self, header: RecordHeader) -> None:
        """Refuse latents of another space. Raises ModelError, naming both."""
        if self.model is not None:
            check_model(header, self.model, allow_other=True)
        if header.latent_space != self.latent_space:
            raise ModelError(
                f"encoded with model {name_model(header)}, and the features of this run are those "
                f"of {self.label} (latent space {self.latent_space}): run it apart"
            )

    def find_token(self, header: RecordHeader, held: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether a record holds the token that this network predicts. Raises FormatError."""
        if CLASS_TOKEN not in held or header.weights != self.weights:
            return False
        [width] = held[CLASS_TOKEN]
        if width != self.width:
            raise FormatError(
                Rejection.TENSOR,
                f"a class token of {width} values, its model's have {self.width}: re-encode",
            )
        return True

    def require_model(self) -> ModelHandle:
        """The model, where a token must be predicted. Raises ModelError."""
        if self.model is None:
            raise ModelError(self.missing)
        return self.model

    def describe(self, computes: Collection[str]) -> dict[str, str]:
        """What a file says of where its features come from."""
        return {
            "model": escape_text(self.label),
            "revision": escape_text(self.revision),
            "latent_space": self.latent_space,
            "weights": self.weights,
            "compute": ", ".join(sorted(computes)),
            "created_by": name_creator(),
        }


def find_origin(
    header: RecordHeader,
    held: Mapping[str, tuple[int, ...]],
    find_model: Callable[[RecordHeader], ModelHandle],
) -> FeatureOrigin:
    """The network of a record: the model found for it or, with a token of its own, what it says.

    Raises ModelError where there is neither.
    """
    try:
        model = find_model(header)
    except ModelError as exc:
        if CLASS_TOKEN not in held:
            raise
        [width] = held[CLASS_TOKEN]
        label = header.model or "unknown"
        space, weights = header.latent_space, header.weights
        return FeatureOrigin(label, header.revision, space, weights, width, missing=str(exc))
    head = model.config.class_head
    assert head is not None, "models without one are refused by `find_model`"
    identity, revision = model.identity, model.resolved.revision
    space, weights = identity.latent_space, identity.weights
    return FeatureOrigin(model.label, revision, space, weights, head.model_dim, model)
