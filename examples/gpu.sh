#!/usr/bin/env bash
# Neurons in thick sections (CREMI: adult fly brain, 40 x 4 x 4 nm) on all GPUs of a machine, with the
# full recipe: MedNeXt-S, 50,000 steps. Nothing of it has been timed on a GPU yet.
#
#     examples/gpu.sh
#     PROCESSES=2 examples/gpu.sh --loop.max-steps 1000     # two GPUs; words go to train.py
#
# Run it with the environment active (source .venv/bin/activate). Data lie in $PYTC_DATA, or data/;
# runs in $PYTC_RUNS, or runs/.
set -euo pipefail
cd "$(dirname "$0")/.."
processes="${PROCESSES:-gpu}"  # one for each GPU

# 1. Samples A and B for training, C for validation, with checksums.
for sample in a b c; do
    pytc data fetch "cremi_$sample"
done

# 2. What the machine has, and whether the data fit.
pytc hardware
pytc check configs/cremi.py --output cremi-check.png

# 3. One process for each GPU. Killed in any way, `--resume` in place of `--config` goes on from the
#    newest checkpoint.
torchrun --nproc-per-node "$processes" train.py --config configs/cremi.py --name cremi "$@"

# 4. The GPUs share the blocks of the volume. Affinities, then fragments section by section, joined by
#    average linkage. (The two dashes: torchrun would take --run for a flag of its own.)
torchrun --nproc-per-node "$processes" -- infer.py --run cremi

# 5. Scores at the threshold of the preset, which has not been chosen on any volume, and at every
#    threshold: choose one on volumes that you do not report.
python evaluate.py --run cremi
python evaluate.py --run cremi --sweep --metric dense_voi_sum

# 6. Look at the mistakes: the report, and (extra `view`) the viewer.
echo "open ${PYTC_RUNS:-runs}/cremi/evaluation/*/report.html, or call: pytc view cremi"
