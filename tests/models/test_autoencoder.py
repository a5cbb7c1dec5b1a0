"""The methods of DinacAE: results, types and refused arguments."""

from __future__ import annotations

import pytest
import torch

from dinac_cli import DinacAE, DinacAEInferenceConfig
from dinac_cli.errors import ModelError, UsageError
from dinac_cli.models.dinac.decoder import modulate
from dinac_cli.models.dinac.fast.autoencoder import accelerate

from .conftest import Golden


def test_model_card_example(tiny: Golden) -> None:
    device = "cpu"
    model = DinacAE.from_pretrained(
        str(tiny.folder),
        device=device,
        dtype=torch.bfloat16,
    )

    image = tiny.cases["image.0"]

    with torch.inference_mode():
        latents = model.encode(image.to(device=device, dtype=torch.bfloat16))
        class_token = model.predict_class(latents)
        recon = model.decode(
            latents,
            height=int(image.shape[-2]),
            width=int(image.shape[-1]),
            inference_config=DinacAEInferenceConfig(num_steps=1),
        )

    assert (latents.shape, latents.dtype) == ((1, 8, 2, 3), torch.float32)
    assert (class_token.shape, class_token.dtype) == ((1, 64), torch.float32)
    assert (recon.shape, recon.dtype) == (image.shape, torch.float32)
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.bfloat16)


def test_storage_follows_the_precision_policy(tiny: Golden) -> None:
    assert tiny.float32.ordinary_weight_storage_dtype == torch.float32
    assert tiny.bfloat16.ordinary_weight_storage_dtype == torch.bfloat16
    assert accelerate(tiny.bfloat16).ordinary_weight_storage_dtype == torch.bfloat16
    for model in (tiny.float32, tiny.bfloat16):
        model.validate_inference_storage()


def test_wrong_storage_is_named(tiny: Golden) -> None:
    model = DinacAE.from_pretrained(tiny.folder, dtype=torch.bfloat16)
    model.latent_norm_running_var.data = model.latent_norm_running_var.bfloat16()
    model.encoder.to_bottleneck.float()
    with pytest.raises(RuntimeError) as refusal:
        model.validate_inference_storage()
    assert str(refusal.value) == (
        "wrongly stored: latent_norm_running_var is torch.bfloat16, not torch.float32; "
        "encoder.to_bottleneck.weight is torch.float32, not torch.bfloat16; "
        "encoder.to_bottleneck.bias is torch.float32, not torch.bfloat16; load the model again"
    )


def test_storage_of_a_network_without_decoder_is_unknown(tiny: Golden) -> None:
    model = DinacAE.from_pretrained(tiny.folder, parts={"encoder"})
    for network in (model, accelerate(model)):
        with pytest.raises(ModelError, match="loaded without its decoder"):
            _ = network.ordinary_weight_storage_dtype
    with pytest.raises(ModelError, match="loaded without its decoder"):
        model.validate_inference_storage()


@torch.inference_mode()
def test_dewhitening_undoes_whitening(tiny: Golden) -> None:
    model, z = tiny.float32, tiny.cases["latents.0"]
    raw = model.dewhiten(z)
    torch.testing.assert_close(model.whiten(raw), z)
    posterior = model.encode_posterior(tiny.cases["image.0"])
    torch.testing.assert_close(raw, posterior.mode(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(raw, z)


@torch.inference_mode()
def test_sampled_latents_follow_the_posterior(tiny: Golden) -> None:
    posterior = tiny.float32.encode_posterior(tiny.cases["image.0"])
    expected = tiny.float32.whiten(posterior.sample(torch.Generator().manual_seed(3)))
    statistics = DinacAE.from_pretrained(tiny.folder, parts=())
    assert statistics.count_parameters() == {"total": 0}
    z, logsnr = tiny.cases["latents.0"], tiny.cases["logsnr.0"]
    sample = statistics.sample_latents(z, logsnr, torch.Generator().manual_seed(3))
    torch.testing.assert_close(sample, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(sample, z, atol=1e-3)
    assert not torch.equal(statistics.sample_latents(z, logsnr), sample)
    assert torch.equal(statistics.sample_latents(z, None), z)
    with pytest.raises(UsageError, match=r"the log-SNR has shape \[1, 8, 2\], but the latents"):
        statistics.sample_latents(z, logsnr[..., 0])


@torch.inference_mode()
def test_statistics_stay_float32_in_a_bfloat16_network(tiny: Golden) -> None:
    z = tiny.cases["latents.0"]
    assert torch.equal(tiny.bfloat16.dewhiten(z), tiny.float32.dewhiten(z))


@torch.inference_mode()
def test_seed_determines_the_noise(tiny: Golden) -> None:
    z = tiny.cases["latents.1"]

    def decode(seed: int | None) -> torch.Tensor:
        return tiny.float32.decode(z, 16, 16, DinacAEInferenceConfig(seed=seed))

    assert torch.equal(decode(1), decode(1))
    assert not torch.equal(decode(1), decode(2))
    assert not torch.equal(decode(None), decode(None))


@torch.inference_mode()
def test_noise_of_an_image_does_not_depend_on_its_batch(tiny: Golden) -> None:
    z = tiny.cases["latents.0"]
    config = DinacAEInferenceConfig(num_steps=2, seed=9)
    first, second = tiny.float32.decode(torch.cat((z, z)), 32, 48, config)
    alone = tiny.float32.decode(z, 32, 48, config)[0]
    torch.testing.assert_close(first, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(second, alone, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_reconstruct_is_encode_then_decode(tiny: Golden) -> None:
    model, config = tiny.float32, DinacAEInferenceConfig(seed=0)
    image = tiny.cases["image.0"]
    expected = model.decode(model.encode(image), 32, 48, config)
    assert torch.equal(model.reconstruct(image, config), expected)


@pytest.mark.parametrize(
    "shape", [(1, 3, 30, 48), (1, 3, 32, 40), (1, 4, 32, 48), (3, 32, 48), (1, 3, 0, 16)]
)
def test_images_of_the_wrong_shape_are_refused(shape: tuple[int, ...], tiny: Golden) -> None:
    with pytest.raises(UsageError, match="do not fit this model; it expects floats") as refusal:
        tiny.float32.encode(torch.zeros(shape))
    assert str(list(shape)) in str(refusal.value)


def test_integer_images_are_refused(tiny: Golden) -> None:
    with pytest.raises(UsageError, match=r"type torch\.uint8 do not fit"):
        tiny.float32.encode(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))


@pytest.mark.parametrize(
    "shape", [(1, 30, 48, 3), (1, 32, 40, 3), (1, 32, 48, 4), (32, 48, 3), (1, 0, 16, 3)]
)
def test_pixels_of_the_wrong_shape_are_refused(shape: tuple[int, ...], tiny: Golden) -> None:
    with pytest.raises(UsageError, match="do not fit this model; it expects uint8") as refusal:
        tiny.float32.encode_pixels(torch.zeros(shape, dtype=torch.uint8))
    assert str(list(shape)) in str(refusal.value)


def test_pixels_of_another_type_are_refused(tiny: Golden) -> None:
    with pytest.raises(UsageError, match=r"type torch\.float32 do not fit"):
        tiny.float32.encode_pixels(torch.zeros(1, 16, 16, 3))


@pytest.mark.parametrize("size", [(32, 32), (16, 48), (31, 48), (0, 0)])
def test_sizes_that_do_not_fit_the_latents_are_refused(size: tuple[int, int], tiny: Golden) -> None:
    message = "latents of 2 rows and 3 columns decode to height 32 and width 48, not to"
    with pytest.raises(UsageError, match=f"{message} {size[0]} and {size[1]}"):
        tiny.float32.decode(tiny.cases["latents.0"], *size)


@pytest.mark.parametrize("shape", [(1, 12, 2, 3), (8, 2, 3)])
def test_latents_of_another_model_are_refused(shape: tuple[int, ...], tiny: Golden) -> None:
    latents = torch.zeros(shape)
    for method in (tiny.float32.dewhiten, tiny.float32.predict_class):
        with pytest.raises(UsageError, match=r"it expects \[batch, 8, height, width\]"):
            method(latents)
    with pytest.raises(UsageError, match=r"it expects \[batch, 8, height, width\]"):
        tiny.float32.decode(latents, 32, 48)


@torch.inference_mode()
def test_shared_time_equals_the_same_time_per_image(pair: Golden) -> None:
    decoder = pair.float32.decoder
    raw = pair.float32.dewhiten(pair.cases["latents.0"])
    noisy = pair.cases["image.0"]
    one, each = decoder(noisy, torch.tensor([0.4]), raw), decoder(noisy, torch.full((2,), 0.4), raw)
    torch.testing.assert_close(one, each)
    times = torch.tensor([0.4, 0.9])
    both = decoder(noisy, times, raw)
    torch.testing.assert_close(both[0], one[0], rtol=1e-4, atol=1e-5)
    late = decoder(noisy[1:], times[1:], raw[1:])
    torch.testing.assert_close(both[1:], late, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(both[1], one[1], atol=1e-3)


def test_every_parameter_has_a_gradient(tiny: Golden) -> None:
    model = DinacAE(tiny.config)
    model.load_state_dict(tiny.float32.state_dict())
    image = tiny.cases["image.0"]
    posterior = model.encoder(image)
    raw = posterior.sample(torch.Generator().manual_seed(0))
    x0 = model.decoder(image, torch.tensor([0.5]), raw)
    x0_dropped = model.decoder(image, torch.tensor([0.5]), raw, drop_middle=True)
    class_token, patch_tokens = model.dino_token_alignment_head(raw)
    outputs = (x0, x0_dropped, class_token, patch_tokens, posterior.logsnr)
    total = torch.stack([output.square().sum() for output in outputs]).sum()
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(total, parameters)
    zero = [name for name, gradient in zip(names, gradients, strict=True) if not gradient.any()]
    assert zero == []


def test_decoder_blocks_of_a_new_network_are_closed(tiny: Golden) -> None:
    decoder = DinacAE(tiny.config, parts={"decoder"}).decoder
    parts = (decoder.time_embed, decoder.adaln_base, decoder.adaln_deltas)
    for scale, gate in modulate(*parts, torch.tensor([0.3])):
        assert not scale.any()
        assert not gate.any()
