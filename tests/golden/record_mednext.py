"""Make mednext.json from the official MedNeXt, which must be importable.

The official one is MIC-DKFZ/MedNeXt, Apache 2.0, commit 0b78ed8.

    PYTHONPATH=MedNeXt:tests python tests/golden/record_mednext.py
"""

import json
from pathlib import Path

import torch
from nnunet_mednext.network_architecture.mednextv1.create_mednext_v1 import create_mednext_v1
from nnunet_mednext.network_architecture.mednextv1.MedNextV1 import MedNeXt
from nnunet_mednext.run.load_weights import upkern_load_weights
from reference_models import (
    count_parameters,
    fill_parameters,
    hash_parameters,
    make_image,
    summarise,
)

SMALL = {
    "base_channels": 4,
    "out_channels": 3,
    "expansion": [2, 3, 4, 2, 3, 2, 4, 3, 2],
    "block_counts": [1] * 9,
}
CUSTOM = {
    "plain": {},
    "blocks": {"block_counts": [1, 2, 3, 1, 2, 1, 3, 2, 1], "deep_supervision": True},
    "no residual": {"do_res": False},
    "no residual up down": {"do_res_up_down": False, "deep_supervision": True},
    "no residual at all": {"do_res": False, "do_res_up_down": False},
    "layer norm": {"norm": "layer", "deep_supervision": True},
    "grn": {"grn": True},
    "kernel 5": {"kernel_size": 5, "deep_supervision": True},
    "kernel 7": {"kernel_size": 7, "grn": True, "norm": "layer"},
    "two channels": {"in_channels": 2},
    "checkpointed": {"checkpoint_style": "outside_block", "deep_supervision": True},
    "2-D": {"spatial_dims": 2, "deep_supervision": True},
    "2-D grn": {"spatial_dims": 2, "grn": True, "kernel_size": 5},
}


def official_custom(config: dict) -> MedNeXt:
    style = config.get("checkpoint_style", "none")
    return MedNeXt(
        config.get("in_channels", 1),
        config["base_channels"],
        config["out_channels"],
        exp_r=config["expansion"],
        kernel_size=config.get("kernel_size", 3),
        deep_supervision=config.get("deep_supervision", False),
        do_res=config.get("do_res", True),
        do_res_up_down=config.get("do_res_up_down", True),
        checkpoint_style=None if style == "none" else style,
        block_counts=config["block_counts"],
        norm_type=config.get("norm", "group"),
        dim=f"{config.get('spatial_dims', 3)}d",
        grn=config.get("grn", False),
    )


def record(config: dict, network: MedNeXt, shape: list[int] | None, gradients: bool = True) -> dict:
    entry = {
        "config": config,
        "hash": hash_parameters(network),
        "parameters": count_parameters(network),
    }
    if shape:
        fill_parameters(network)
        with torch.set_grad_enabled(gradients):
            outputs = network(make_image(tuple(shape)).requires_grad_())
        outputs = outputs if config.get("deep_supervision") else [outputs]
        entry |= {"input": shape, "outputs": [summarise(output) for output in outputs]}
    if shape and gradients:
        sum(output.square().mean() for output in outputs).backward()
        entry["gradients"] = {
            name: float(f"{p.grad.norm().item():.8g}")
            for name, p in network.named_parameters()
            if name in ("stem.weight", "down_1.conv1.weight", "up_1.conv2.bias")
        }
    return entry


def main() -> None:
    cases = {}
    for size in "SBML":
        for kernel in (3, 5, 7):
            for supervised in (False, True):
                config = {
                    "mednext_size": size,
                    "kernel_size": kernel,
                    "deep_supervision": supervised,
                }
                shape = [1, 1, 32, 16, 32] if supervised else None
                network = create_mednext_v1(1, 6, size, kernel, supervised)
                # the official backward pass is slow
                quick = kernel == 3 or (kernel == 5 and size in "SB")
                cases[f"{size} k{kernel}{' supervised' * supervised}"] = record(
                    config, network, shape, quick
                )
    for name, changes in CUSTOM.items():
        config = {"architecture": "mednext_custom", **SMALL, **changes}
        shape = [
            1,
            config.get("in_channels", 1),
            *([64, 32] if config.get("spatial_dims") == 2 else [32, 16, 48]),
        ]
        cases[name] = record(config, official_custom(config), shape)
    for kernel in (5, 7):
        small = {"architecture": "mednext_custom", **SMALL}
        start, network = official_custom(small), official_custom({**small, "kernel_size": kernel})
        fill_parameters(start)
        with torch.no_grad():
            output = upkern_load_weights(network, start)(make_image((1, 1, 32, 16, 48)))
        cases[f"upkern k{kernel}"] = {
            "config": small,
            "kernel_size": kernel,
            "outputs": [summarise(output)],
        }
    path = Path(__file__).with_name("mednext.json")
    path.write_text(
        "{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in cases.items()) + "\n}\n"
    )


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
