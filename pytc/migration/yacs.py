"""The dialect of PyTorch Connectomics until 2025: YAML for YACS, with names in capitals."""

from collections.abc import Sequence
from typing import Any

from pytc.config import VolumeConfig
from pytc.migration import terms
from pytc.migration.draft import Draft, Rename, Settings

PEER = "PyTorch Connectomics (YACS)"
SECTIONS = ("SYSTEM", "MODEL", "DATASET", "AUGMENTOR", "SOLVER", "MONITOR", "INFERENCE")

DEFAULTS: dict[str, Any] = {
    "MODEL.ARCHITECTURE": "unet_3d",
    "MODEL.FILTERS": [28, 36, 48, 64, 80],
    "MODEL.ISOTROPY": [False, False, False, True, True],
    "MODEL.TARGET_OPT": ["0"],
    "MODEL.LOSS_OPTION": [["WeightedBCE"]],
    "MODEL.LOSS_WEIGHT": [[1.0]],
    "MODEL.WEIGHT_OPT": [["1"]],
    "MODEL.MIXED_PRECESION": False,
    "MODEL.INPUT_SIZE": [8, 256, 256],
    "DATASET.INPUT_PATH": "",
    "AUGMENTOR.ENABLED": True,
    "AUGMENTOR.ROTATE.ENABLED": True,
    "AUGMENTOR.ROTATE.P": 1.0,
    "AUGMENTOR.RESCALE.ENABLED": True,
    "AUGMENTOR.RESCALE.P": 0.5,
    "AUGMENTOR.FLIP.ENABLED": True,
    "AUGMENTOR.FLIP.P": 1.0,
    "AUGMENTOR.FLIP.DO_ZTRANS": 0,
    "AUGMENTOR.ELASTIC.ENABLED": True,
    "AUGMENTOR.ELASTIC.P": 0.75,
    "AUGMENTOR.GRAYSCALE.ENABLED": True,
    "AUGMENTOR.GRAYSCALE.P": 0.75,
    "AUGMENTOR.MISSINGSECTION.ENABLED": True,
    "AUGMENTOR.MISSINGSECTION.P": 0.5,
    "AUGMENTOR.MISSINGSECTION.NUM_SECTION": 2,
    "AUGMENTOR.MISALIGNMENT.ENABLED": True,
    "AUGMENTOR.MISALIGNMENT.P": 0.5,
    "AUGMENTOR.MISALIGNMENT.DISPLACEMENT": 16,
    "AUGMENTOR.MOTIONBLUR.ENABLED": True,
    "AUGMENTOR.MOTIONBLUR.P": 0.5,
    "AUGMENTOR.MISSINGPARTS.ENABLED": True,
    "AUGMENTOR.CUTBLUR.ENABLED": True,
    "AUGMENTOR.CUTNOISE.ENABLED": True,
    "SOLVER.NAME": "SGD",
    "SOLVER.LR_SCHEDULER_NAME": "MultiStepLR",
    "SOLVER.ITERATION_STEP": 1,
    "SOLVER.ITERATION_SAVE": 5000,
    "SOLVER.ITERATION_TOTAL": 40000,
    "SOLVER.ITERATION_VAL": 5000,
    "SOLVER.BASE_LR": 0.001,
    "SOLVER.WEIGHT_DECAY": 0.0001,
    "SOLVER.WARMUP_ITERS": 1000,
    "SOLVER.SAMPLES_PER_BATCH": 2,
    "SOLVER.CLIP_GRADIENTS.ENABLED": False,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "value",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 1.0,
    "SOLVER.SWA.ENABLED": False,
    "INFERENCE.OUTPUT_ACT": ["sigmoid"],
    "INFERENCE.STRIDE": [4, 128, 128],
    "INFERENCE.BLENDING": "gaussian",
    "INFERENCE.SAMPLES_PER_BATCH": 4,
}

RENAMES: dict[str, Rename] = {
    "SYSTEM.NUM_CPUS": ("system.workers", int),
    "MODEL.IN_PLANES": ("model.in_channels", int),
    "MODEL.INPUT_SIZE": ("data.patch_size", tuple),
    "MODEL.PRE_MODEL": ("model.pretrained", str),
    "MODEL.MIXED_PRECESION": ("system.precision", lambda mixed: "fp16" if mixed else "fp32"),
    "SOLVER.ITERATION_TOTAL": ("loop.max_steps", int),
    "SOLVER.ITERATION_SAVE": ("loop.checkpoint_every", int),
    "SOLVER.ITERATION_VAL": ("loop.val_every", int),
    "SOLVER.ITERATION_STEP": ("optim.accumulate", int),
    "SOLVER.SAMPLES_PER_BATCH": ("loop.batch_size", int),
    "SOLVER.WARMUP_ITERS": ("optim.warmup_steps", int),
    "INFERENCE.INPUT_SIZE": ("inference.window", tuple),
    "INFERENCE.SAMPLES_PER_BATCH": ("inference.batch_size", int),
}
NETWORKS = {"unet_3d": "rsunet", "unetr": "monai_unetr", "swinunetr": "monai_swin_unetr"}

REASONS = {
    "SYSTEM.NUM_GPUS": "one GPU; all of a machine by torchrun --nproc-per-node gpu train.py",
    "SYSTEM.DISTRIBUTED": "several GPUs by torchrun --nproc-per-node gpu train.py",
    "SYSTEM.PARALLEL": "several GPUs by torchrun --nproc-per-node gpu train.py",
    "SYSTEM.DISTRIBUTED_BACKEND": "",
    "MODEL.OUTPUT_SIZE": "",
    "MODEL.OUT_PLANES": "",  # follows from the target
    "MODEL.OUTPUT_ACT": "",  # each loss has its own
    "MODEL.BLOCK_TYPE": "rsunet has plain residual blocks",
    "MODEL.NORM_MODE": "rsunet normalises each instance",
    "MODEL.ACT_MODE": "the activation of rsunet is fixed",
    "MODEL.PAD_MODE": "convolutions pad with zeros",
    "MODEL.POOLING_LAYER": "rsunet downsamples by strides",
    "MODEL.LABEL_DILATION": "labels are not dilated",
    "DATASET.OUTPUT_PATH": "runs are written below $PYTC_RUNS, or runs/",
    "DATASET.PAD_SIZE": "patches and windows lie inside the volume",
    "DATASET.PAD_MODE": "patches and windows lie inside the volume",
    "DATASET.VAL_PAD_SIZE": "patches and windows lie inside the volume",
    "DATASET.MEAN": "grey values are mapped to 0 to 1, see data.intensity",
    "DATASET.STD": "grey values are mapped to 0 to 1, see data.intensity",
    "DATASET.NORMALIZE_RANGE": "",
    "DATASET.IS_ABSOLUTE_PATH": "",
    "DATASET.IS_ISOTROPIC": "",
    "DATASET.REJECT_SAMPLING": "data.min_labelled: the least share of labelled voxels in a patch",
    "DATASET.VALID_RATIO": "data.min_labelled: the least share of labelled voxels in a patch",
    "DATASET.DISTRIBUTED": "",
    "DATASET.DO_CHUNK_TITLE": "volumes are read by chunks as they are; tiles: convert them to Zarr",
    "DATASET.DATA_CHUNK_NUM": "volumes are read by chunks as they are",
    "DATASET.DATA_CHUNK_ITER": "volumes are read by chunks as they are",
    "DATASET.DATA_SCALE": "data are read at the size that they are stored in",
    "DATASET.IMAGE_SCALE": "data are read at the size that they are stored in",
    "DATASET.LABEL_SCALE": "data are read at the size that they are stored in",
    "DATASET.DO_2D": "volumes only; mednext_custom has model.spatial_dims 2",
    "AUGMENTOR.SMOOTH": "labels are not smoothed",
    "AUGMENTOR.MISSINGPARTS": "augment.cutout_prob blanks boxes",
    "AUGMENTOR.CUTBLUR": "augment.blur_slice_prob blurs whole slices",
    "AUGMENTOR.CUTNOISE": "augment.noise_prob is for whole patches",
    "AUGMENTOR.COPYPASTE": "no counterpart",
    "AUGMENTOR.ELASTIC": "the field has its own scale: augment.elastic_spacing and its like",
    "AUGMENTOR.GRAYSCALE": "see augment.intensity_scale and its like",
    "AUGMENTOR.MOTIONBLUR": "see augment.blur_sigma",
    "AUGMENTOR.MISALIGNMENT.ROTATE_RATIO": "see augment.misalign_rotation",
    "AUGMENTOR.ROTATE": "",
    "SOLVER.MOMENTUM": "",
    "SOLVER.BETAS": "",
    "SOLVER.GAMMA": "a cosine instead of steps",
    "SOLVER.STEPS": "a cosine instead of steps",
    "SOLVER.WARMUP_FACTOR": "the rate rises from 0",
    "SOLVER.WARMUP_METHOD": "",
    "SOLVER.ITERATION_RESTART": "train.py --resume goes on exactly",
    "SOLVER.CLIP_GRADIENTS": "optim.clip_norm limits the norm",
    "SOLVER.SWA": "optim.ema_decay keeps a moving average",
    "MONITOR": "",
    "INFERENCE.INPUT_PATH": "",
    "INFERENCE.OUTPUT_SIZE": "",
    "INFERENCE.OUTPUT_PATH": "results are written below the run; infer.py --output names a folder",
    "INFERENCE.OUTPUT_NAME": "results are Zarr, below the run",
    "INFERENCE.PAD_SIZE": "windows lie inside the volume",
    "INFERENCE.DO_SINGLY": "",
    "INFERENCE.DO_EVAL": "",
    "INFERENCE.AUG_MODE": "mirrored predictions are averaged",
}


def translate(settings: Settings) -> Draft:
    """The draft of a config that does what a YACS config asks for."""
    draft = Draft()
    output = settings.get("DATASET.OUTPUT_PATH")
    if output:
        draft.set("name", output.rstrip("/").rpartition("/")[2], "DATASET.OUTPUT_PATH")
    draft.carry(settings, RENAMES)
    _network(draft, settings)
    _target_and_loss(draft, settings)
    _volumes(draft, settings)
    _augmentations(draft, settings)
    _solver(draft, settings)
    _inference(draft, settings)
    draft.change("DATASET.MEAN, DATASET.STD", "", "the network sees 0 to 1, see data.intensity")
    settings.leave("DATASET.MEAN", "DATASET.STD")
    draft.note_rest(settings, REASONS)
    return draft


def _network(draft: Draft, settings: Settings) -> None:
    theirs = settings.get("MODEL.ARCHITECTURE")
    ours = NETWORKS.get(theirs)
    filters = tuple(settings.get("MODEL.FILTERS"))
    is_isotropic = settings.get("DATASET.IS_ISOTROPIC")
    isotropy = settings.get("MODEL.ISOTROPY")
    if ours is None:
        draft.lack("MODEL.ARCHITECTURE", theirs, "rsunet is taken; others by pytc models list")
        ours = "rsunet"
    elif ours == "rsunet":
        draft.change("MODEL.ARCHITECTURE", theirs, "rsunet is close to it; weights do not load")
    draft.set("model.architecture", ours, settings.origin("MODEL.ARCHITECTURE"))
    if ours == "rsunet":
        draft.set("model.features", filters, settings.origin("MODEL.FILTERS"))
        cubic = [True] * len(filters) if is_isotropic else isotropy[: len(filters)]
        strides = tuple((2, 2, 2) if is_cubic else (1, 2, 2) for is_cubic in cubic[1:])
        draft.set("model.strides", strides, settings.origin("MODEL.ISOTROPY"))
    elif ours == "monai_unetr":
        draft.carry(
            settings,
            {
                "MODEL.UNETR_FEATURE_SIZE": ("model.feature_size", int),
                "MODEL.HIDDEN_SIZE": ("model.unetr.hidden_size", int),
                "MODEL.MLP_DIM": ("model.unetr.mlp_dim", int),
                "MODEL.UNETR_NUM_HEADS": ("model.unetr.num_heads", int),
                "MODEL.POS_EMBED": ("model.unetr.pos_embed", str),
                "MODEL.UNETR_DROPOUT_RATE": ("model.dropout", float),
            },
        )
    else:
        draft.carry(
            settings,
            {
                "MODEL.SWIN_UNETR_FEATURE_SIZE": ("model.feature_size", int),
                "MODEL.USE_CHECKPOINT": ("model.swin.use_checkpoint", bool),
                "MODEL.SWIN_UNETR_DROPOUT_RATE": ("model.dropout", float),
                "MODEL.ATTN_DROP_RATE": ("model.swin.attn_drop_rate", float),
                "MODEL.DROPOUT_PATH_RATE": ("model.swin.dropout_path_rate", float),
            },
        )


def _target_and_loss(draft: Draft, settings: Settings) -> None:
    """One target is learned: affinities before classes, boundaries and a mask."""
    options = [str(option) for option in settings.get("MODEL.TARGET_OPT")]
    ranks = {"2": 0, "9": 1, "4": 2, "0": 3}
    known = [number for number, option in enumerate(options) if option[0] in ranks]
    settings.get("MODEL.OUT_PLANES")
    picked = min(known, key=lambda number: ranks[options[number][0]], default=None)
    for number, option in enumerate(options):
        if number != picked:
            text = "a network learns one target" if number in known else "no such target: a mask"
            draft.lack("MODEL.TARGET_OPT", option, text)
    draft.set("target.kind", "binary", "MODEL.TARGET_OPT")
    if picked is not None:
        _target(draft, settings, options[picked])
    erosion = settings.get("MODEL.LABEL_EROSION")
    if isinstance(erosion, list):
        erosion = erosion[picked or 0] if erosion else None
    if erosion:
        draft.set("target.erosion", int(erosion), "MODEL.LABEL_EROSION")
    names = settings.get("MODEL.LOSS_OPTION")
    weights = settings.get("MODEL.LOSS_WEIGHT")
    balances = settings.get("MODEL.WEIGHT_OPT")
    index = picked if picked is not None and picked < len(names) else 0
    losses = []
    for number, name in enumerate(names[index]):
        weight = float(_entry(weights, index, number, 1.0))
        is_balanced = str(_entry(balances, index, number, "0"))[0] == "1"
        losses.append(("MODEL.LOSS_OPTION", name, weight, is_balanced))
    kind = draft.fields.get("target.kind", "binary")
    terms.losses(draft, losses, kind == "classes", kind in ("binary", "boundary"))


def _target(draft: Draft, settings: Settings, option: str) -> None:
    if option[0] == "2":
        draft.set("target.kind", "affinity", "MODEL.TARGET_OPT")
        z, y, x = (1, 1, 1) if len(option) == 1 else map(int, option.split("-")[1:4])
        draft.set("target.offsets", ((z, 0, 0), (0, y, 0), (0, 0, x)), "MODEL.TARGET_OPT")
    elif option[0] == "9":
        draft.set("target.kind", "classes", "MODEL.TARGET_OPT")
        count = option.partition("-")[2] or settings.get("MODEL.OUT_PLANES") or 2
        draft.set("target.classes", int(count), "MODEL.TARGET_OPT")
    elif option[0] == "4":
        draft.set("target.kind", "boundary", "MODEL.TARGET_OPT")
    elif len(option) > 1:
        draft.lack("MODEL.TARGET_OPT", option, "every label above 0 is foreground")


def _entry(nested: Any, index: int, number: int, default: Any) -> Any:
    """nested[index][number], or the default where a list is too short."""
    try:
        return nested[index][number]
    except (IndexError, TypeError):
        return default


def _volumes(draft: Draft, settings: Settings) -> None:
    train = _split(draft, settings, "")
    if train:
        draft.set("data.train", train, "DATASET.IMAGE_NAME")
    else:
        draft.lack("DATASET.IMAGE_NAME", "", "not stated: name volumes by --data.train.0.image")
    validation = _split(draft, settings, "VAL_")
    if validation:
        draft.set("data.val", validation, "DATASET.VAL_IMAGE_NAME")
    tested = settings.get("INFERENCE.IMAGE_NAME")
    folder = settings.get("INFERENCE.INPUT_PATH") or settings.get("DATASET.INPUT_PATH")
    for path in _paths(folder, tested):
        draft.change("INFERENCE.IMAGE_NAME", path, f"infer.py --input {path}")


def _split(draft: Draft, settings: Settings, prefix: str) -> tuple[VolumeConfig, ...]:
    base = "" if settings.get("DATASET.IS_ABSOLUTE_PATH") else settings.get("DATASET.INPUT_PATH")
    parts = [
        _paths(base, settings.get(f"DATASET.{prefix}{part}_NAME"))
        for part in ("IMAGE", "LABEL", "VALID_MASK")
    ]
    return terms.volumes(draft, f"DATASET.{prefix}IMAGE_NAME", *parts)


def _paths(base: Any, names: Any) -> Sequence[str]:
    """Paths from "a.h5@b.h5" or a list, in one folder or in one each ("x@y")."""
    if not names:
        return []
    listed = names if isinstance(names, list) else str(names).split("@")
    folders = base if isinstance(base, list) else str(base or "").split("@")
    if len(folders) != len(listed):
        folders = folders[:1] * len(listed)
    return [
        f"{folder.rstrip('/')}/{name}" if folder else str(name)
        for folder, name in zip(folders, listed)
    ]


def _augmentations(draft: Draft, settings: Settings) -> None:
    """An augmentation that is off has the probability 0."""
    if not settings.get("AUGMENTOR.ENABLED"):
        settings.leave("AUGMENTOR")
        for name in ("permute", "rot90", "flip", "intensity", "noise"):
            draft.set(f"augment.{name}_prob", 0.0, "AUGMENTOR.ENABLED")
        return
    probability = {
        "ROTATE": "rot90",
        "FLIP": "flip",
        "RESCALE": "affine",
        "ELASTIC": "elastic",
        "GRAYSCALE": "intensity",
        "MISSINGSECTION": "missing_section",
        "MISALIGNMENT": "misalign",
    }
    for theirs, ours in probability.items():
        name = f"AUGMENTOR.{theirs}"
        is_on = settings.get(f"{name}.ENABLED")
        value = float(settings.get(f"{name}.P")) if is_on else 0.0
        if theirs == "FLIP":
            value /= 2  # theirs draws one of all mirrorings, ours each axis
        draft.set(f"augment.{ours}_prob", value, settings.origin(f"{name}.P"))
        if not is_on:
            settings.leave(name)
    draft.set("augment.noise_prob", 0.0)
    is_cubic = settings.get("AUGMENTOR.FLIP.DO_ZTRANS")
    draft.set("augment.permute_prob", 0.5 if is_cubic else 0.0, "AUGMENTOR.FLIP.DO_ZTRANS")
    if settings.get("AUGMENTOR.RESCALE.ENABLED"):
        draft.set("augment.affine_shear", 0.0, "AUGMENTOR.RESCALE")
        settings.leave("AUGMENTOR.RESCALE")
    draft.carry(
        settings,
        {
            "AUGMENTOR.MISSINGSECTION.NUM_SECTION": ("augment.missing_section_max", int),
            "AUGMENTOR.MISALIGNMENT.DISPLACEMENT": ("augment.misalign_max", int),
        },
    )
    if settings.get("AUGMENTOR.MOTIONBLUR.ENABLED"):
        chosen = float(settings.get("AUGMENTOR.MOTIONBLUR.P"))
        draft.set("augment.blur_slice_prob", round(chosen / 10, 4), "AUGMENTOR.MOTIONBLUR.P")
        draft.change("AUGMENTOR.MOTIONBLUR.P", chosen, "of a patch there, of each slice here")
    else:
        settings.leave("AUGMENTOR.MOTIONBLUR")
    for name in ("MISSINGPARTS", "CUTBLUR", "CUTNOISE"):
        if settings.get(f"AUGMENTOR.{name}.ENABLED"):
            draft.lack(f"AUGMENTOR.{name}", "on", REASONS[f"AUGMENTOR.{name}"])
        settings.leave(f"AUGMENTOR.{name}")


def _solver(draft: Draft, settings: Settings) -> None:
    optimizer = settings.get("SOLVER.NAME")
    rate, decay = settings.get("SOLVER.BASE_LR"), settings.get("SOLVER.WEIGHT_DECAY")
    if optimizer in terms.ADAMS:
        draft.set("optim.learning_rate", float(rate), settings.origin("SOLVER.BASE_LR"))
        draft.set("optim.weight_decay", float(decay), settings.origin("SOLVER.WEIGHT_DECAY"))
    else:
        draft.change("SOLVER.NAME", f"{optimizer}, SOLVER.BASE_LR = {rate}", terms.NO_ADAM)
    scheduler = settings.get("SOLVER.LR_SCHEDULER_NAME")
    terms.schedule(draft, "SOLVER.LR_SCHEDULER_NAME", scheduler)
    if not scheduler.startswith("Warmup"):
        draft.set("optim.warmup_steps", 0, "SOLVER.LR_SCHEDULER_NAME")
    clips = settings.get("SOLVER.CLIP_GRADIENTS.ENABLED")
    kind = settings.get("SOLVER.CLIP_GRADIENTS.CLIP_TYPE")
    limit = float(settings.get("SOLVER.CLIP_GRADIENTS.CLIP_VALUE"))
    origin = settings.origin("SOLVER.CLIP_GRADIENTS.ENABLED")
    draft.set("optim.clip_norm", limit if clips and kind == "norm" else 0.0, origin)
    if clips and kind != "norm":
        draft.lack("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", kind, "optim.clip_norm limits the norm")
    if not settings.get("SOLVER.SWA.ENABLED"):
        settings.leave("SOLVER.SWA")


def _inference(draft: Draft, settings: Settings) -> None:
    window = settings.get("INFERENCE.INPUT_SIZE", "MODEL.INPUT_SIZE")
    stride = settings.get("INFERENCE.STRIDE")
    overlaps = [1 - step / size for step, size in zip(stride, window) if step < size]
    overlap = round(max(overlaps, default=0.0), 3)
    draft.set("inference.overlap", overlap, settings.origin("INFERENCE.STRIDE"))
    is_gaussian = settings.get("INFERENCE.BLENDING") == "gaussian"
    blending = "gaussian" if is_gaussian else "distance"
    draft.set("inference.blending", blending, settings.origin("INFERENCE.BLENDING"))
    mirrorings = settings.get("INFERENCE.AUG_NUM")
    if mirrorings not in (None, 0, 1, "None"):
        draft.set("inference.flips", True, "INFERENCE.AUG_NUM")
        if mirrorings != 8:
            draft.change("INFERENCE.AUG_NUM", mirrorings, "the eight mirrorings are averaged")
    activation = settings.get("INFERENCE.OUTPUT_ACT")
    if "sigmoid" in activation:
        draft.set("inference.activation_scale", 1.0, settings.origin("INFERENCE.OUTPUT_ACT"))
    elif activation not in ("none", ["none"]):
        draft.lack("INFERENCE.OUTPUT_ACT", activation, "a sigmoid, or a softmax of classes")
    draft.set("inference.checkpoint", "last")
