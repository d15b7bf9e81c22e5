"""Configs of other programs become presets. The configs here are written for the tests."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from documents import commands, text_of
from small_volumes import ROOT

from pytc import cli
from pytc.config_files import load_config_file
from pytc.io.synthetic import make_neurites
from pytc.main import main
from pytc.migration import banis, connectomics_tables, nnunet, yacs
from pytc.migration.migrate import fit_to_network, migrate, read_source
from pytc.yaml_files import read_yaml

YACS_BASE = """
SYSTEM:
  NUM_GPUS: 2
  NUM_CPUS: 3
MODEL:
  INPUT_SIZE: [17, 129, 129]
  FILTERS: [16, 24, 32]
  ISOTROPY: [False, False, True]
  TARGET_OPT: ["0", "2-1-2-2-v2", "5"]
  LOSS_OPTION: [["DiceLoss"], ["WeightedBCEWithLogitsLoss", "DiceLoss"], ["WeightedMSE"]]
  LOSS_WEIGHT: [[1.0], [1.0, 0.5], [2.0]]
  WEIGHT_OPT: [["0"], ["1", "0"], ["0"]]
  LABEL_EROSION: 1
SOLVER:
  BASE_LR: 0.04
  LR_SCHEDULER_NAME: WarmupCosineLR
  ITERATION_TOTAL: 9000
"""
YACS = """
MODEL:
  MIXED_PRECESION: True
DATASET:
  INPUT_PATH: data/here/
  OUTPUT_PATH: out/affinities
  IMAGE_NAME: a.h5@b.h5
  LABEL_NAME: a_seg.h5@b_seg.h5
  VAL_IMAGE_NAME: c.h5
  VAL_LABEL_NAME: c_seg.h5
AUGMENTOR:
  ELASTIC:
    ENABLED: False
  CUTBLUR:
    ENABLED: False
SOLVER:
  SAMPLES_PER_BATCH: 4
INFERENCE:
  INPUT_SIZE: [17, 257, 257]
  STRIDE: [8, 128, 128]
  AUG_NUM: 8
  IMAGE_NAME: d.h5
"""

HYDRA = """
experiment_name: vesicles
system:
  training: {num_gpus: 1, num_workers: 4, batch_size: 8}
  seed: 7
model:
  architecture: monai_unet
  in_channels: 1
  out_channels: 1
  filters: [16, 32, 64]
  strides: [2, 2]
  num_res_units: 1
  norm: batch
  dropout: 0.1
  loss_functions: [DiceLoss, BCEWithLogitsLoss]
  loss_weights: [1.0, 0.5]
data:
  train_image: raw.tif
  train_label: seg.tif
  train_mask: valid.tif
  train_resolution: [30, 8, 8]
  patch_size: [16, 64, 64]
  iter_num_per_epoch: 80
  label_transform:
    targets: [{name: binary}]
  augmentation:
    flip: {enabled: true, prob: 0.4}
    intensity: {enabled: true, gaussian_noise_prob: 0.2, gaussian_noise_std: 0.05,
      contrast_prob: 0.3, contrast_range: [0.7, 1.4],
      shift_intensity_prob: 0.1, shift_intensity_offset: 0.2}
    mixup: {enabled: true}
    cut_blur: {enabled: false}
optimization:
  max_epochs: 50
  precision: bf16-mixed
  gradient_clip_val: 0.5
  optimizer: {name: AdamW, lr: 2e-3, weight_decay: 0.02}
  scheduler: {name: CosineAnnealingLR, warmup_epochs: 5}
monitor:
  checkpoint: {monitor: val_loss_total, save_top_k: 2, save_every_n_epochs: 10}
  early_stopping: {enabled: true, patience: 9}
inference:
  data: {test_image: test.tif}
  sliding_window: {window_size: [16, 128, 128], overlap: 0.25, blending: gaussian}
  test_time_augmentation: {enabled: true, flip_axes: all}
"""

# three files, as they lie in a clone
STAGES = {
    "library/profiles.yaml": """
arch_profiles:
  small:
    arch: {type: mednext}
    mednext: {size: B, kernel_size: 5}
augmentation_profiles:
  strong:
    flip: {enabled: true, prob: 0.5}
    axis_permute: {enabled: true, prob: 0.9}
    slice_drop: {enabled: true, prob: 0.5, slice_prob: 0.02, spatial_axis: [0, 1, 2]}
    slice_shift_z: {enabled: true, prob: 0.3, displacement: 12}
decoding_templates:
  cut:
    steps: [{name: decode_waterz, kwargs: {thresholds: 0.4, dust_remove_size: 50}}]
""",
    "recipe.yaml": """
_base_: [library/profiles.yaml]
default:
  model:
    arch: {profile: small}
    out_channels: 6
    loss:
      deep_supervision: true
      losses:
      - {function: PerChannelBCEWithLogitsLoss, weight: 1.0,
         kwargs: {auto_pos_weight: true, max_pos_weight: 5.0}}
  data:
    dataloader: {patch_size: [64, 64, 64], batch_size: 4}
    label_transform:
      erosion: 2
      targets:
      - name: affinity
        kwargs: {offsets: [1-0-0, 0-1-0, 0-0-1, 9-0-0, 0-9-0, 0-0-9], affinity_mode: banis}
    augmentation: {profile: strong}
  decoding:
    steps: [{template: cut}]
train:
  optimization:
    max_steps: 700
    val_check_interval: 100
    val_check_interval_unit: step
    precision: 16-mixed
    ema: {enabled: true, decay: 0.99, warmup_steps: 50}
""",
    "mine.yaml": """
_base_: recipe.yaml
experiment_name: mine
default:
  data:
    dataloader: {batch_size: 2}
  inference:
    window: {overlap: 0.4, blending: distance_transform}
train:
  data:
    train: {path: /cubes/train, image: data.zarr/img, label: data.zarr/seg, resolution: [20, 9, 9]}
    data_transform: {train_transpose: [2, 1, 0]}
test:
  inference:
    model:
      channel_activations: [{channels: ":", activation: scale_sigmoid}]
tune:
  n_trials: 5
  study_name: x
""",
}

PLANS = {
    "dataset_name": "Dataset007_Mitos",
    "plans_name": "nnUNetPlans",
    "transpose_forward": [0, 1, 2],
    "configurations": {
        "2d": {"patch_size": [512, 512], "batch_size": 12},
        "3d_fullres": {
            "batch_size": 2,
            "patch_size": [32, 128, 128],
            "spacing": [30.0, 8.0, 8.0],
            "normalization_schemes": ["ZScoreNormalization"],
            "resampling_fn_data": "resample_data_or_seg_to_shape",
            "architecture": {
                "network_class_name": "architectures.unet.PlainConvUNet",
                "arch_kwargs": {
                    "features_per_stage": [32, 64, 128, 256, 320, 320],
                    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]],
                },
            },
        },
        "bigger": {"inherits_from": "3d_fullres", "batch_size": 5},
    },
}
DATASET = {"labels": {"background": 0, "mito": 1, "edge": 2}, "channel_names": {"0": "EM"}}


def written(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


def notes(made):
    return "\n".join(note.line() for note in (*made.draft.missing, *made.draft.changed))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in STAGES.items():
        written(tmp_path, name, text)
    written(tmp_path, "base.yaml", YACS_BASE)
    written(tmp_path, "yacs.yaml", YACS)
    written(tmp_path, "hydra.yaml", HYDRA)
    written(tmp_path, "plans.json", PLANS)
    written(tmp_path, "dataset.json", DATASET)
    return tmp_path


def test_yacs(folder):
    made = fit_to_network(read_source("yacs.yaml", folder / "base.yaml"))
    config = made.config
    assert config.name == "affinities"
    assert [volume.image for volume in config.data.train] == ["data/here/a.h5", "data/here/b.h5"]
    assert config.data.val[0].labels == "data/here/c_seg.h5"
    assert config.data.patch_size == (16, 128, 128)  # (17, 129, 129), which the network refuses
    assert config.target.offsets == ((1, 0, 0), (0, 2, 0), (0, 0, 2)) and config.target.erosion == 1
    assert config.loss.terms == ("balanced_bce", "dice") and config.loss.weights == (1.0, 0.5)
    assert (config.model.architecture, config.model.features) == ("rsunet", (16, 24, 32))
    assert config.model.strides == ((1, 2, 2), (2, 2, 2)) and config.model.out_channels == 3
    assert (config.optim.learning_rate, config.optim.warmup_steps) == (
        1e-3,
        1000,
    )  # not that of SGD
    assert (config.loop.max_steps, config.loop.batch_size) == (9000, 4)
    assert config.augment.elastic_prob == 0 and config.augment.misalign_prob == 0.5
    assert config.inference.overlap == pytest.approx(1 - 8 / 17, abs=1e-3)
    assert config.inference.flips and config.system.precision == "fp16"
    said = notes(made)
    for words in (
        "MODEL.TARGET_OPT = 0: a network learns one target",
        "MODEL.TARGET_OPT = 5: no such target",
        "SOLVER.NAME = SGD, SOLVER.BASE_LR = 0.04: AdamW",
        "infer.py --input data/here/d.h5",
        "AUGMENTOR.MISSINGPARTS = on",
        "SYSTEM.NUM_GPUS = 2: one GPU",
        "MODEL.INPUT_SIZE = (17, 129, 129): the network takes (16, 128, 128)",
    ):
        assert words in said
    assert "CUTBLUR" not in said  # it is off there, too


def test_hydra(folder):
    made = fit_to_network(read_source("hydra.yaml"))
    config = made.config
    (volume,) = config.data.train
    assert (volume.image, volume.labels, volume.mask) == ("raw.tif", "seg.tif", "valid.tif")
    assert volume.voxel_size == (30, 8, 8) and config.loop.seed == 7
    assert config.model.features == (16, 32, 64) and config.model.dropout == 0.1
    assert (
        config.model.strides == ((2, 2, 2), (2, 2, 2)) and config.model.monai_unet.norm == "batch"
    )
    assert config.target.kind == "binary" and config.model.out_channels == 1
    assert config.loss.terms == ("dice", "bce") and config.loss.weights == (1.0, 0.5)
    assert config.loop.batch_size == 8
    assert config.loop.max_steps == 50 * 80 // 8 and config.optim.warmup_steps == 5 * 80 // 8
    assert config.loop.checkpoint_every == 100 and config.loop.keep_checkpoints == 2
    assert config.optim.learning_rate == 2e-3 and config.optim.clip_norm == 0.5
    assert config.augment.flip_prob == 0.4 and config.augment.permute_prob == 0
    assert config.augment.intensity_scale == 0.4 and config.augment.intensity_prob == 0.3
    assert config.inference.window == (16, 128, 128) and config.inference.flips
    said = notes(made)
    for words in (
        "mixup = on: no counterpart",
        "monitor.early_stopping",
        "infer.py --input test.tif",
    ):
        assert words in said
    assert "cut_blur" not in said


def test_yaml_with_bases_profiles_and_stages(folder):
    made = fit_to_network(read_source("mine.yaml"))
    config = made.config
    assert (config.model.mednext_size, config.model.kernel_size) == ("B", 5)
    assert config.model.deep_supervision and config.loop.batch_size == 2  # of the last file
    assert config.loss.terms == ("balanced_bce",) and config.loss.max_positive_weight == 5
    assert config.target.offsets[3:] == ((9, 0, 0), (0, 9, 0), (0, 0, 9))
    assert config.target.erosion == 2
    assert config.augment.permute_prob == 0.9 and config.augment.drop_slice_prob == 0.02
    assert config.augment.misalign_prob == 0.3 and config.augment.noise_prob == 0
    (volume,) = config.data.train
    assert volume.image == "/cubes/train/data.zarr/img"
    assert (volume.axes, volume.transpose, volume.voxel_size) == ("xyzc", "zyx", (9, 9, 20))
    assert config.optim.ema_decay == 0.99 and config.loop.max_steps == 700
    assert config.loop.val_every == 100 and config.system.precision == "fp16"
    assert config.inference.activation_scale == 0.2 and config.inference.overlap == 0.4
    assert config.segmentation.method == "waterz"
    assert config.segmentation.threshold == 0.6 and config.segmentation.min_size == 50
    assert "tune = n_trials, study_name: evaluate.py --sweep" in notes(made)


COMMAND = (
    "python BANIS.py --seed 3 --batch_size 2 --n_steps 50000 --data_setting liconn "
    "--base_data_path cubes --model_id L --kernel_size=5 --no-compile --save_path out"
)


def test_a_command_line_of_banis(folder):
    for seed in (0, 1):
        (folder / f"cubes/liconn/train/seed{seed}").mkdir(parents=True)
    made = read_source(COMMAND)
    config = made.config
    assert [volume.image for volume in config.data.train] == [
        f"cubes/liconn/train/seed{seed}/data.zarr/img" for seed in (0, 1)
    ]
    assert [volume.weight for volume in config.data.train] == [0.5, 0.5]
    assert config.data.val[0].skeleton == "cubes/liconn/val/seed100/skeleton.pkl"
    assert (config.loop.seed, config.loop.batch_size, config.loop.max_steps) == (3, 2, 50_000)
    assert (config.model.mednext_size, config.model.kernel_size) == ("L", 5)
    assert not config.system.compile
    said = notes(made)
    assert "save_path = out: runs are written below $PYTC_RUNS" in said
    assert "not on this machine: seed100 alone is named" in said


def test_banis_by_its_defaults_is_the_preset_of_that_name(folder):
    ours = load_config_file(ROOT / "configs" / "banis.py")
    made = read_source("python BANIS.py --n_steps 50000").config
    for section in ("augment", "target", "model", "loss", "optim", "system", "inference"):
        assert getattr(made, section) == getattr(ours, section), section
    assert (made.loop, made.segmentation) == (ours.loop, ours.segmentation)


def test_a_job_script_and_the_grid_of_banis(folder):
    written(
        folder,
        "job.sh",
        "#!/bin/bash\n# BANIS.py is called below\nsrun python -u BANIS.py \\\n"
        "  --n_steps 100 --no-augment > log.txt &\nwait\n",
    )
    config = read_source("job.sh").config
    assert config.loop.max_steps == 100 and config.augment.flip_prob == 0
    written(folder, "grid.yaml", "params:\n  learning_rate: [1e-3, 1e-4]\n  n_steps: [20]\n")
    made = read_source("grid.yaml")
    assert made.config.optim.learning_rate == 1e-3 and made.config.loop.max_steps == 20
    assert "learning_rate = [0.0001]: one value for a preset" in notes(made)


def test_plans_of_nnunet(folder):
    made = fit_to_network(read_source("plans.json"))
    config = made.config
    assert config.name == "dataset007_mitos" and config.data.patch_size == (32, 128, 128)
    # the strides that nnunet plans here are those of the file
    assert (config.model.architecture, config.model.base_channels) == ("nnunet", 32)
    assert config.model.voxel_size == (30, 8, 8) and config.model.deep_supervision
    assert config.target.classes == 3 and config.loss.terms == ("dice", "cross_entropy")
    assert config.loop.batch_size == 2 and config.loop.max_steps == 250_000
    assert read_source("plans.json", configuration="bigger").config.loop.batch_size == 5
    assert "normalization_schemes" in notes(made) and "name volumes by --data.train" in notes(made)
    other = json.loads(json.dumps(PLANS))
    kwargs = other["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    kwargs["strides"], kwargs["features_per_stage"] = [[1, 1, 1], [2, 2, 2]], [8, 16]
    written(folder, "plans.json", other)
    model = read_source("plans.json").config.model
    assert (model.architecture, model.features, model.strides) == ("unet", (8, 16), ((2, 2, 2),))


@pytest.mark.parametrize(
    "source, options",
    [
        ("yacs.yaml", ["--base", "base.yaml"]),
        ("hydra.yaml", []),
        ("mine.yaml", []),
        (COMMAND, []),
        ("plans.json", ["--configuration", "bigger"]),
    ],
)
def test_the_command_writes_a_preset_that_loads(folder, capsys, source, options):
    main(["migrate", source, *options, "--output", "preset.py"])
    base = folder / "base.yaml" if "--base" in options else None
    wanted = fit_to_network(read_source(source, base, "bigger" if "bigger" in options else None))
    assert asdict(load_config_file(folder / "preset.py")) == asdict(wanted.config)
    text = (folder / "preset.py").read_text()
    said = capsys.readouterr().out
    assert "No counterpart; left out:" in said and "# No counterpart; left out:" in text
    for note in wanted.draft.missing:
        assert note.line() in said
    assert max(map(len, text.splitlines())) < 160


def test_the_commands_of_the_page(folder):
    """On a small volume, for one step."""
    written(folder, "old.yaml", (folder / "hydra.yaml").read_text())
    small = "--data.train.0.image raw.npy --data.train.0.labels seg.npy --data.train.0.mask None"
    small += " --data.patch-size 16 16 16 --data.val-samples 1 --loop.batch-size 1"
    small += " --loop.max-steps 1 --system.workers 0 --system.threads 1 --system.no-cpu-variant"
    volume = make_neurites((24, 32, 32), seed=1)
    np.save("raw.npy", volume.image)
    np.save("seg.npy", volume.labels)
    migrate_it, train_it = commands("docs/migrating.md")
    main(migrate_it.split()[1:])
    cli.train([*train_it.split()[2:], *small.split()])
    assert list(folder.glob("runs/*/checkpoints/last.pt"))


def test_a_preset_is_not_replaced_unless_asked(folder):
    migrate("hydra.yaml")
    with pytest.raises(ValueError, match="expected --overwrite to replace a file"):
        migrate("hydra.yaml")
    migrate("hydra.yaml", overwrite=True)


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("a.yaml", "_base_: nowhere.yaml\nmodel: {}\n", "expected the file .*nowhere.yaml"),
        ("a.yaml", "_base_: a.yaml\nmodel: {}\n", "not to be its own _base_"),
        ("a.yaml", "model:\n  x: [1, 2\ndata: 3\n", "a.yaml, line 3"),
        ("a.yaml", "- 1\n", "a table of names and values"),
        ("a.yaml", "one: 2\n", "expected a config of PyTorch Connectomics"),
        ("a.yaml", "x: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        ("a.json", "{}", "expected the plans.json of nnU-Net 2"),
        ("a.json", "{", "a.json: Expecting"),
        ("a.pkl", "", "not pickled plans"),
        ("a.sh", "python train.py\n", "a script that calls BANIS.py"),
        ("a.sh", "python BANIS.py --batchsize 3\n", "did you mean 'batch_size'"),
        ("a.sh", "python BANIS.py --n_steps many\n", "a number for --n_steps"),
        ("plans.json", {"configurations": {"2d": {"patch_size": [9, 9]}}}, "got '3d_fullres'"),
    ],
)
def test_what_is_refused(folder, name, text, words):
    written(folder, name, text)
    with pytest.raises(ValueError, match=words):
        read_source(name)


def test_a_two_dimensional_configuration_is_refused(folder):
    with pytest.raises(ValueError, match="of three dimensions"):
        read_source("plans.json", configuration="2d")
    with pytest.raises(ValueError, match="a file, or a command that calls BANIS.py"):
        read_source("nowhere.yaml")


def test_numbers_in_yaml_are_numbers(folder):
    path = written(folder, "n.yaml", "a: 1e-3\nb: 2E+4\nc: '1e-3'\nd: 1.5\ne: v1e3\n")
    assert read_yaml(path) == {"a": 1e-3, "b": 2e4, "c": "1e-3", "d": 1.5, "e": "v1e3"}


def test_the_page_names_every_setting_that_is_carried_over():
    page = text_of("docs/migrating.md")
    tables = [banis.RENAMES, banis.AUGMENTATIONS, yacs.RENAMES, connectomics_tables.RENAMES]
    for name, (field, _) in (row for table in tables for row in table.items()):
        row = next((line for line in page.splitlines() if f"`{name}`" in line), "")
        assert f"`{field}`" in row, f"no row of docs/migrating.md says {name} -> {field}"
    for name in nnunet.TRAINER:
        assert f"`{name}`" in page, name
