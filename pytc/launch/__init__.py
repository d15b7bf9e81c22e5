"""pytc launch: one job array of Slurm trains every combination of swept fields.

`grid` makes the combinations, `scripts` writes the batch scripts, `slurm` submits them and asks the
queue, `status` reads what the runs have written, `launcher` is the verb. `array.sh` is what each
task of an array does around its run: it passes signals on, and puts the job back into the queue.

Nothing here imports torch: the launcher runs on a login node.
"""
