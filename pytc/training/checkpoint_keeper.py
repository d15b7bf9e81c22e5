"""Which checkpoints of a run are kept: last.pt, the best or the newest step-N.pt, and best.pt."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from pytc.config import LoopConfig
from pytc.models.checkpoint import Checkpoint, loss_of, save_checkpoint, save_if_best


@dataclass
class CheckpointKeeper:
    """Writes the checkpoints of a run, and deletes those that are not to be kept.

    last.pt is always written. Of step-N.pt, loop.keep_checkpoints files are kept:

    - If the run computes loop.monitor itself (loop.picks_best), the best of the scored ones.
      best.pt is the best of them.
    - If `pytc validate` computes it, the newest ones, for it to score. It writes best.pt.
    - If the run validates nothing, the newest ones. best.pt is the last of them.
    """

    folder: Path  # checkpoints/ of the run
    loop: LoopConfig
    scores: dict[int, float] = field(default_factory=dict)  # as in a `Checkpoint`
    validates: bool = True  # whether there is anything to validate on

    def save(self, state: Checkpoint, scores: dict[str, float]) -> None:
        """Write the checkpoint of a step.

        Args:
            state: all of it but the key `scores`.
            scores: what validation gave at this step, by name; it may lack loop.monitor.
        """
        self.folder.mkdir(exist_ok=True)
        step = state["step"]
        score = scores.get(self.loop.monitor, math.nan)
        earlier = self.scores
        self.scores = self._kept({**earlier, step: score})
        state = {**state, "scores": dict(self.scores)}
        if step in self.scores:
            save_checkpoint(self.folder / f"step-{step:08d}.pt", state)
            if not self.validates:
                save_if_best(self.folder, state, self.loop.monitor, score, others=())
            elif self.loop.picks_best:
                others = [self.scores[other] for other in self.scores if other != step]
                save_if_best(self.folder, state, self.loop.monitor, score, others)
        save_checkpoint(self.folder / "last.pt", state)
        for path in self.folder.glob("step-*.pt"):
            if int(path.stem.removeprefix("step-")) not in self.scores:
                path.unlink()

    def _kept(self, scores: dict[int, float]) -> dict[int, float]:
        """The steps whose checkpoints are kept, with their scores, the best or the newest first."""
        if self.loop.picks_best and self.validates:
            steps = [step for step, score in scores.items() if not math.isnan(score)]
            steps.sort(key=lambda step: loss_of(self.loop.monitor, scores[step]))
        else:
            steps = sorted(scores, reverse=True)
        return {step: scores[step] for step in steps[: self.loop.keep_checkpoints]}
