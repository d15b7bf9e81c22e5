"""Several classes, from labels on disk through training, inference and evaluation.

The volumes are generated in the layout of real ones: a file with the image and the class ids.
"""

import json
import re
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from documents import examples, text_of

from pytc.commands import EvaluateConfig, InferConfig
from pytc.config import (
    AugmentConfig,
    Config,
    DataConfig,
    InferenceConfig,
    LoopConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    SystemConfig,
    TargetConfig,
    VolumeConfig,
)
from pytc.data.patches import train_dataset
from pytc.evaluate import evaluate
from pytc.evaluation.pictures import ClassMatching
from pytc.inference.flips import averaged as mean_over_sides
from pytc.inference.pipeline import infer
from pytc.io.volume import create_volume, open_volume
from pytc.losses import LOSSES
from pytc.metrics.semantic import class_ids, class_metrics, confusion_matrix
from pytc.metrics.table import metric
from pytc.training.loop import train

SHAPE = (6, 48, 48)
CLASSES = 4


def make_volume(path, seed, classes=CLASSES, low=0):
    """Squares of three classes on class 0, each class with a grey value of its own."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, np.int16)
    for number in range(14):
        z, y, x = (int(rng.integers(n - 8)) if n > 8 else 0 for n in SHAPE)
        labels[z : z + 6, y : y + 12, x : x + 12] = 1 + number % (classes - 1)
    grey = 40 + 60 * labels + rng.normal(0, 6, SHAPE)
    with h5py.File(path, "w") as file:
        for name, array in (
            ("raw", grey.clip(0, 255).astype(np.uint8)),
            ("classes", (labels + low).astype(np.int16)),
        ):
            data = file.create_dataset(name, data=array)
            data.attrs["axes"] = "zyx"
            data.attrs["resolution"] = (50.0, 5.0, 5.0)
            data.attrs["unit"] = "nm"
    return VolumeConfig(image=f"{path}:raw", labels=f"{path}:classes", name=path.stem)


def tiny(folder, **loop):
    return Config(
        name="classes",
        data=DataConfig(
            train=(make_volume(folder / "train.h5", 0),),
            val=(make_volume(folder / "val.h5", 1),),
            patch_size=(4, 32, 32),
            val_samples=2,
        ),
        augment=AugmentConfig(intensity_prob=0.0, noise_prob=0.0),
        target=TargetConfig(kind="classes", classes=CLASSES),
        model=ModelConfig(
            architecture="rsunet", features=(8, 16), out_channels=CLASSES, deep_supervision=False
        ),
        loss=LossConfig(terms=("dice", "cross_entropy"), weights=(1.0, 1.0)),
        optim=OptimConfig(learning_rate=1e-2),
        loop=LoopConfig(
            **{
                "max_steps": 80,
                "batch_size": 2,
                "val_every": 40,
                "volumes_every": 40,
                "monitor": "val/jaccard",
                "checkpoint_every": 40,
                "log_every": 20,
                "images_every": 40,
                **loop,
            }
        ),
        system=SystemConfig(device="cpu", precision="fp32", threads=1, workers=0),
    )


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder in which a run over four classes is finished, and its volume predicted."""
    folder = tmp_path_factory.mktemp("classes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run = train(tiny(folder))
        infer(InferConfig(run=str(run)))
    return folder


@pytest.fixture
def run(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    return workplace / "runs" / "classes"


def test_whole_volumes_are_scored_by_class_while_a_run_trains(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    scored = [line for line in lines if "val/jaccard" in line]
    assert [line["step"] for line in scored] == [40, 80]
    assert 0.8 < scored[-1]["val/jaccard"] <= 1
    for name in ("val/dice", "val/jaccard_all", "val/jaccard_class_0", "val/dice_class_3"):
        assert 0 <= scored[-1][name] <= 1
    means = [scored[-1][f"val/jaccard_class_{number}"] for number in range(1, CLASSES)]
    assert scored[-1]["val/jaccard"] == pytest.approx(np.mean(means))
    assert (run / "checkpoints" / "best.pt").is_file()
    trained = next(line for line in lines if "train/loss_total" in line)
    parts = trained["train/loss_dice"] + trained["train/loss_cross_entropy"]
    assert trained["train/loss_total"] == pytest.approx(parts, rel=1e-5)
    assert "train/loss_channel_0" not in trained


def test_probabilities_are_kept_and_the_segmentation_is_the_most_probable_class(run):
    folder = run / "predictions" / "val"
    probabilities = open_volume(folder / "probabilities.zarr")
    assert probabilities.shape == (CLASSES, *SHAPE) and probabilities.dtype == np.float16
    assert probabilities.attributes["activation"] == "softmax(1 x)"
    values = probabilities[...].astype(np.float32)
    np.testing.assert_allclose(values.sum(0), 1, atol=2e-3)
    segmentation = open_volume(folder / "segmentation.zarr")
    assert segmentation.dtype == np.uint8 and segmentation.attributes["classes"] == CLASSES
    np.testing.assert_array_equal(segmentation[...], values.argmax(0))


def test_evaluation_gives_the_scores_of_each_class_and_their_means(run, capsys):
    scored = evaluate(EvaluateConfig(run=str(run)))["val"]
    with h5py.File(run.parent.parent / "val.h5") as file:
        truth = file["classes"][...]
    found = open_volume(run / "predictions" / "val" / "segmentation.zarr")[...]
    by_class = []
    for number in range(CLASSES):
        true, predicted = truth == number, found == number
        jaccard = (true & predicted).sum() / (true | predicted).sum()
        by_class.append(jaccard)
        assert scored[f"jaccard_class_{number}"] == pytest.approx(jaccard)
        dice = 2 * (true & predicted).sum() / (true.sum() + predicted.sum())
        assert scored[f"dice_class_{number}"] == pytest.approx(dice)
    assert scored["jaccard"] == pytest.approx(np.mean(by_class[1:]))
    assert scored["jaccard_all"] == pytest.approx(np.mean(by_class))
    assert scored["jaccard"] > 0.8 and scored["metric"] == "jaccard"
    page = (run / "evaluation" / "val" / "report.html").read_text()
    assert "By class" in page and "the classes present but class 0" in page
    assert "Jaccard of class 3 against the rest" in page and "in another class" in page
    assert "class" in capsys.readouterr().out
    chosen = evaluate(EvaluateConfig(run=str(run), metric="jaccard_class_3", require=0.5))["val"]
    assert chosen["metric"] == "jaccard_class_3"


def test_a_segmentation_of_classes_is_scored_by_its_files_alone(run, tmp_path):
    scored = evaluate(EvaluateConfig(run=str(run)))["val"]
    alone = evaluate(
        EvaluateConfig(
            segmentation=str(run / "predictions" / "val" / "segmentation.zarr"),
            labels=f"{run.parent.parent}/val.h5:classes",
            target="classes",
            output=str(tmp_path),
        )
    )
    (again,) = alone.values()
    assert again["jaccard"] == scored["jaccard"] and again["dice_all"] == scored["dice_all"]


def test_what_classes_do_not_have_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="without --sweep or --thresholds: each voxel has its"):
        evaluate(EvaluateConfig(run=str(run), sweep=True))
    with pytest.raises(ValueError, match="of a class that is in the labels or in"):
        evaluate(EvaluateConfig(run=str(run), metric="jaccard_class_9", output=str(tmp_path)))
    path = str(run / "predictions" / "val" / "segmentation.zarr")
    labels = f"{run.parent.parent}/val.h5:classes"
    wrong = {"segmentation": path, "labels": labels, "target": "binary", "output": str(tmp_path)}
    with pytest.raises(ValueError, match="--target classes with --metric jaccard_class_1"):
        evaluate(EvaluateConfig(**wrong, metric="jaccard_class_1"))
    with pytest.raises(ValueError, match="loop.monitor of a class below 4"):
        train(tiny(run.parent.parent, monitor="val/jaccard_class_4"))


def test_labels_that_are_no_class_are_refused(tmp_path):
    config = tiny(tmp_path)
    wrong = make_volume(tmp_path / "wrong.h5", 2, low=1)
    dataset = train_dataset(replace(config, data=replace(config.data, train=(wrong,))))
    with pytest.raises(ValueError, match=r"class ids below 4 \(target.classes\).*wrong.h5.*got 4"):
        dataset[0]
    # what a mask leaves out may hold anything
    with h5py.File(tmp_path / "wrong.h5") as file:
        np.save(tmp_path / "mask.npy", (file["classes"][...] < CLASSES).astype(np.uint8))
    masked = replace(wrong, mask=f"{tmp_path}/mask.npy")
    dataset = train_dataset(replace(config, data=replace(config.data, train=(masked,))))
    crop = dataset[0]["labels"]
    assert crop.max() < CLASSES and (crop == -1).any()
    labels = np.array([[[0, 3], [4, -1]]])
    with pytest.raises(ValueError, match="labels that are class ids below 4, got 4"):
        class_ids(labels, labels >= 0, CLASSES)


def test_a_mask_of_two_classes_and_averaged_mirrorings(run, tmp_path, monkeypatch):
    """Labels 0 and 255, part of them unlabelled; what is above 0 is class 1."""
    config = tiny(run.parent.parent)
    volume = make_volume(tmp_path / "mask.h5", 3, classes=2)
    with h5py.File(tmp_path / "mask.h5", "a") as file:
        labels = file["classes"][...] * 255
        labels[:, :4] = -1
        file["classes"][...] = labels
    monkeypatch.chdir(tmp_path)
    two = replace(
        config,
        data=replace(config.data, train=(volume,), val=(volume,)),
        target=TargetConfig(kind="classes", classes=2),
        model=ModelConfig(
            architecture="unet", features=(8, 8, 16), out_channels=2, deep_supervision=True
        ),
        loop=replace(config.loop, max_steps=30, val_every=30, volumes_every=0, monitor="val/loss"),
        inference=InferenceConfig(flips=True, checkpoint="last"),
    )
    trained = train(two)
    infer(InferConfig(run=str(trained), inference=two.inference))
    scored = evaluate(EvaluateConfig(run=str(trained)))["mask"]
    found = open_volume(trained / "predictions" / "mask" / "segmentation.zarr")[...]
    labelled = labels >= 0
    true, predicted = (labels > 0)[labelled], (found == 1)[labelled]
    jaccard = (true & predicted).sum() / (true | predicted).sum()
    assert scored["jaccard"] == scored["jaccard_class_1"] == pytest.approx(jaccard)
    assert jaccard > 0.7


def test_mirrored_classes_are_averaged_as_probabilities():
    """The softmax of what comes out is the mean over all sides."""
    x = torch.randn(1, 1, 4, 5, 6, generator=torch.Generator().manual_seed(0))

    def network(x):
        return torch.cat((x, -x, 0.5 * x.square()), 1)

    averaged = mean_over_sides(network, ((0, 0, 0),) * 3, activation="softmax")(x)
    torch.testing.assert_close(averaged.softmax(1), network(x).softmax(1))
    # one that sees the left side only: the mean over both sides
    ramp = torch.arange(6.0).expand(1, 1, 4, 5, 6)

    def one_sided(x):
        return torch.cat((ramp, torch.zeros_like(ramp)), 1)

    averaged = mean_over_sides(one_sided, ((0, 0, 0),) * 2, activation="softmax")(x)
    side = one_sided(x).softmax(1)
    torch.testing.assert_close(averaged.softmax(1), (side + side.flip(4)) / 2)


def test_the_confusion_matrix_counts_what_is_labelled(tmp_path, monkeypatch):
    monkeypatch.setattr("pytc.metrics.semantic.CHUNK", 2)
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(-1, 3, (5, 6, 7)), rng.integers(0, 3, (5, 6, 7))
    expected = np.zeros((3, 3), int)
    for true, predicted in zip(truth.ravel(), prediction.ravel()):
        if true >= 0:
            expected[true, predicted] += 1
    np.testing.assert_array_equal(confusion_matrix(truth, prediction, 3), expected)
    with create_volume(tmp_path / "p.zarr", prediction.shape, np.uint8) as stored:
        stored[...] = prediction.astype(np.uint8)
    from_disk = confusion_matrix(truth, open_volume(tmp_path / "p.zarr"), 3)
    np.testing.assert_array_equal(from_disk, expected)
    with pytest.raises(ValueError, match="predictions of 2 classes, ids below that, got 2"):
        confusion_matrix(np.minimum(truth, 1), prediction, 2)


def test_a_class_counts_in_the_means_if_it_is_in_the_truth_or_in_the_prediction():
    # class 1 is missed, class 2 invented, class 3 in neither
    confusion = np.array([[90, 0, 6, 0], [4, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    scores = class_metrics(confusion)
    assert scores["jaccard"] == 0 and scores["jaccard_class_1"] == scores["dice_class_2"] == 0
    assert scores["jaccard_class_0"] == pytest.approx(0.9)
    assert scores["jaccard_all"] == pytest.approx(0.3)
    assert "jaccard_class_3" not in scores
    only_background = class_metrics(np.array([[5, 0], [0, 0]]))
    assert only_background["jaccard"] == only_background["jaccard_all"] == 1


def test_a_class_has_a_row_in_the_table_of_metrics():
    row = metric("dice_class_12")
    assert row.better == "higher" and "class 12" in row.meaning and row.name == "dice_class_12"
    with pytest.raises(ValueError, match="expected a metric, got 'recall_class_1'"):
        metric("recall_class_1")


def test_pictures_show_where_the_class_is_another():
    labels = np.array([[0, 1, 2, -1, 3]])
    found = np.array([[0, 2, 0, 1, 3]])
    assert ClassMatching().errors(labels, found).tolist() == [[0, 1, 3, 0, 0]]


def test_the_page_of_classes_is_true():
    page, named = text_of("docs/classes.md"), {}
    (example,) = examples("docs/classes.md")
    exec(example, named)
    assert named["config"].target.kind == "classes"
    table = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert set(table) == {row.name for row in LOSSES.values() if row.of_classes}
