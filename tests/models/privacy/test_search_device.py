"""What is searched on an accelerator stays there: no step meets the CPU or waits, and none needs float64.

The meta device stands for one, whose tensors have no values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from models.diffusion.denoiser import Denoiser
from models.network.network import NetworkSpec
from models.privacy.copy_embedding import CopyEmbedding, copies_in_pairs, embed, train_on_pairs
from models.privacy.denoised_copies import redraw, spacing
from models.privacy.matching import (
    Alignments,
    aligned_similarity,
    coarse_similarity,
    flat_field,
    noise_gain,
    noise_variance,
)
from models.privacy.membership import ATTACKS, attack_scores
from models.privacy.partial_copies import blend_isolation, half_similarity
from models.privacy.pca import principal_components
from tests.pretended import META, NoWaiting
from tests.watched import Watched, watched

TRIED = Alignments(2, (0.9, 1.0), (-10.0, 0.0), sigma=4.0)
CUDA = pytest.param(
    torch.device("cuda"), marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
)


def prepare(images: torch.Tensor) -> torch.Tensor:
    return flat_field(images, sigma=4.0)


def drawn() -> torch.Tensor:
    return torch.rand(6, 1, 24, 24, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=[pytest.param(META), CUDA], ids=str)
def images(request: pytest.FixtureRequest) -> Iterator[torch.Tensor]:
    """Return six images on a device that is not the CPU, watched."""
    placed = drawn().to(request.param)
    with watched() if request.param == META else NoWaiting():
        yield placed


@pytest.fixture
def mode() -> Iterator[Watched]:
    """Watch the meta device."""
    with watched() as mode:
        yield mode


def test_two_devices_are_refused(images: torch.Tensor) -> None:
    with pytest.raises(RuntimeError, match="device"):
        images + torch.zeros(6, 1, 24, 24)
    with pytest.raises(RuntimeError, match="device"):
        images.flatten(1) @ torch.zeros(576, 3)
    with pytest.raises(RuntimeError, match="device"):
        images[torch.tensor([0, 1])]


@pytest.mark.parametrize(
    "step",
    [
        lambda images: torch.zeros(6).to(images.device),
        lambda images: torch.zeros(6, device=images.device).copy_(torch.zeros(6)),
        lambda images: images[[0, 1]],
        lambda images: torch.tensor([1.0], device=images.device),
        lambda images: images[images[:, 0, 0, 0] > 0],
        lambda images: (images > 0).nonzero(),
        lambda images: images.unique(),
    ],
    ids=["copy", "copy into", "list as index", "list", "mask", "nonzero", "unique"],
)
@pytest.mark.usefixtures("mode")
def test_what_the_host_would_wait_for_is_refused(step: Callable[[torch.Tensor], object]) -> None:
    with pytest.raises(RuntimeError, match="wait"):
        step(torch.empty(6, 1, 24, 24, device=META))


def test_float64_is_refused_and_what_is_read_is_counted(mode: Watched) -> None:
    images = torch.empty(6, 1, 24, 24, device=META)
    with pytest.raises(RuntimeError, match="float64"):
        images.double()
    assert float(images.sum()) == 1.0 and (images.cpu() == 1).all()
    assert len(mode.waits) == 2
    assert mode.operations == {"aten.sum.default": 1}


def test_similarities_stay_on_the_device_of_the_images(images: torch.Tensor) -> None:
    first, rough = next(iter(coarse_similarity(images, images, TRIED, block=4)))
    assert (first, rough.device.type, tuple(rough.shape)) == (0, images.device.type, (4, 6))
    pairs = rough.topk(2, dim=1).indices
    exact = aligned_similarity(images[:4], images, pairs, TRIED)
    gain = noise_gain(images, 0.1, TRIED)
    halves = next(iter(half_similarity(images, images, sigma=4.0)))[1]
    found = (exact, gain, noise_variance(images), *halves.values())
    assert {value.device.type for value in found} == {images.device.type}


def test_blends_and_embedding_stay_on_the_device_of_the_images(images: torch.Tensor) -> None:
    codes = torch.zeros(6, dtype=torch.int64, device=images.device)
    patients = torch.arange(6) // 2
    _, isolation = next(
        iter(blend_isolation(images, images, patients=patients, in_train=patients < 2, own=codes, sigma=4.0))
    )
    network = CopyEmbedding().to(images.device, non_blocking=True)
    found = (isolation, embed(network, images, prepare))
    assert {value.device.type for value in found} == {images.device.type}


def test_components_are_found_on_the_cpu_and_used_on_the_device(mode: Watched) -> None:
    images = torch.empty(6, 1, 24, 24, device=META)
    features, fitted = principal_components(images, 0.3), redraw(images, 0.3)
    # Each copies the images, or their covariance, once.
    assert len(mode.waits) == 2
    noised, as_new = fitted.undone(images)
    likely = fitted.log_likelihood(noised, fitted.known(images))
    found = (features(images), as_new, spacing(likely, likely[:, 0]))
    assert {value.device for value in found} == {META}
    assert len(mode.waits) == 2
    assert features.to(torch.device("cpu")).basis.device.type == "cpu"


@pytest.mark.parametrize(("told", "looks"), [(False, 0), (True, 3)])
def test_an_embedding_is_trained_where_the_images_are(mode: Watched, told: bool, looks: int) -> None:
    generator = torch.Generator().manual_seed(0)
    steps: list[int] = []
    trained = train_on_pairs(
        copies_in_pairs(torch.empty(6, 1, 28, 28, device=META), 4, generator),
        prepare,
        num_steps=25,
        learning_rate=1e-3,
        temperature=0.1,
        generator=generator,
        on_step=(lambda step, _: steps.append(step)) if told else None,
        device=META,
    )
    assert {parameter.device for parameter in trained.parameters()} == {META}
    # The loss is looked at in the first step, in every twentieth, and in the last.
    assert len(mode.waits) == looks
    assert steps == list(range(25)) * told


def test_a_checkpoint_is_attacked_without_waiting_until_its_scores_are_there() -> None:
    spec = NetworkSpec(
        (16, 16), 2, channels=(8, 8), attention=(False, True), num_head_channels=8, num_norm_groups=8
    )
    denoiser = Denoiser(spec).to(META).eval()
    clean, codes = torch.empty(3, 1, 16, 16, device=META), torch.empty(3, dtype=torch.int64, device=META)
    denoiser.null_codes(1, META)  # made once
    with watched() as mode:
        scores = attack_scores(denoiser, clean, codes, (0.1, 0.8))
    assert scores.shape == (3, len(ATTACKS), 2) and scores.dtype == torch.float64
    assert len(mode.waits) == 1
