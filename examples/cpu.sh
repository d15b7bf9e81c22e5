#!/usr/bin/env bash
# From a clone to the mistakes of a segmentation, on real tissue: FIB-25 (fly medulla, 10 nm), on two
# CPU cores in about 20 minutes.
#
#     examples/cpu.sh                           # the whole recipe, 5,000 steps
#     examples/cpu.sh --loop.max-steps 200      # words go to train.py: a first look in a minute
#
# Run it with the environment active (source .venv/bin/activate). Data lie in $PYTC_DATA, or data/;
# runs in $PYTC_RUNS, or runs/.
set -euo pipefail
cd "$(dirname "$0")/.."

# 1. The data, 15 MB, with checksums. Volumes that are there are left as they are.
pytc data fetch fib25

# 2. What the machine has, and whether the data fit: warnings, and one page of patches as the network
#    will see them.
pytc hardware
pytc check configs/fib25.py --output fib25-check.png

# 3. A U-Net of 1.5 million parameters learns six affinities. Ctrl-C stops it with a checkpoint;
#    `python train.py --resume runs/fib25` goes on.
python train.py --config configs/fib25.py --name fib25 "$@"

# 4. The validation volume: affinities, then fragments joined by average linkage at the threshold of
#    the preset (0.53, chosen on planes that are not in this volume).
python infer.py --run fib25

# 5. The scores of that segmentation: a figure that may be quoted.
python evaluate.py --run fib25

# 6. All thresholds: how wide the plateau is. Its best score is one at the best threshold of the very
#    volume that is scored.
python evaluate.py --run fib25 --sweep --metric dense_voi_sum

# 7. For other programs: OME-Zarr, which napari and Neuroglancer open.
results="${PYTC_RUNS:-runs}/fib25/predictions/fib25_val_raw"
pytc convert "$results/segmentation.zarr" "$results/segmentation.ome.zarr"

# 8. The report has pictures, and a table of the errors. With the extra `view`,
#    `pytc view fib25` opens them in a browser, with a slider for the threshold.
echo "open ${PYTC_RUNS:-runs}/fib25/evaluation/fib25_val_raw/report.html"
