"""A viewer with a slider: the state in the browser moves the threshold, and the segments follow.

browser --state--> Neuroglancer's server --callback--> _Follower (a thread)
   ^                                                      | cut, once for many moves
   '-------- chunks, looked up <--- invalidate -----------'
"""

import logging
import threading
from typing import Any

import neuroglancer
from neuroglancer.random_token import make_random_token

from pytc.evaluation.errors import read_errors
from pytc.view import layers
from pytc.view.layers import CONTROL, LIVE, STEP, Look
from pytc.view.served import SegmentValues, ServedSkeletons, ServedVolume, StoredValues
from pytc.view.sources import Sources
from pytc.view.threshold import Numbers, SegmentsAtThreshold, Selection

LOGGER = logging.getLogger(__name__)

# keys of the browser, and by how much they move the threshold; None: to the next merge
FIRST_LOOK = Look()
KEYS = {
    "bracketleft": ("threshold-down", -2 * STEP),
    "bracketright": ("threshold-up", 2 * STEP),
    "shift+bracketleft": ("next-merge", None),
    "shift+bracketright": ("undo-merge", None),
}


class LiveViewer:
    """Neuroglancer on this machine, at an address with a secret token.

    url: to open in a browser.
    segments: what is shown at the present threshold; None without a merge tree.
    """

    def __init__(
        self,
        sources: Sources,
        *,
        threshold: float | None = None,
        numbers: Numbers = "stable",
        look: Look = FIRST_LOOK,
        port: int = 0,
    ) -> None:
        neuroglancer.set_server_bind_address("127.0.0.1", port)
        # A token of our own, as the library would else hand out credentials of this machine.
        self.viewer = neuroglancer.Viewer(token=make_random_token(), allow_credentials=False)
        self.segments: SegmentsAtThreshold | None = None
        self.live: ServedVolume | None = None
        self._follower: _Follower | None = None
        if sources.fragments is not None:
            fragments = sources.fragments
            begin = fragments.threshold if threshold is None else threshold
            self.segments = SegmentsAtThreshold(
                fragments.tree, begin, min_size=fragments.min_size, numbers=numbers
            )
            values = SegmentValues(fragments.volume, self.segments)
            self.live = ServedVolume(
                values, "segmentation", fragments.volume.axes, sources.voxel_size
            )
        with self.viewer.txn() as state:
            self._add_layers(state, sources, look)
        if self.segments is not None and self.live is not None:
            self._follower = _Follower(self.viewer, self.segments, self.live)
            self._bind_keys()

    @property
    def url(self) -> str:
        address: str = self.viewer.get_viewer_url()
        return address

    def close(self) -> None:
        """End the server, also for the browsers that still show it."""
        if self._follower is not None:
            self._follower.stop()
        neuroglancer.stop()

    def move(self, threshold: float) -> None:
        """Move the slider, as a user would in the browser."""
        with self.viewer.txn() as state:
            _control_layer(state).shader_controls[CONTROL] = min(max(threshold, 0.0), 1.0)

    def _add_layers(self, state: Any, sources: Sources, look: Look) -> None:
        layers.begin_state(state, sources, look)
        greys = [*sources.named("image"), *sources.named("affinities")]
        slider = ""
        if self.segments is not None:
            slider = layers.slider(self.segments.threshold)
        for shown in greys:
            is_first = shown is greys[0]
            layers.add_image(
                state,
                shown,
                self._served(shown, sources),
                slider if is_first else "",
                visible=is_first,
            )
        if self.live is not None:
            live = layers.add_ids(state, LIVE, self.live, visible=True)
            live.segments = list(look.select)
        for shown in [*sources.named("labels"), *sources.named("segmentation")]:
            is_main = self.live is None and shown in sources.named("segmentation")[:1]
            layer = layers.add_ids(state, shown.name, self._served(shown, sources), visible=is_main)
            if is_main:
                layer.segments = list(look.select)
        if sources.skeleton is not None:
            source = ServedSkeletons(sources.skeleton, sources.axes, sources.voxel_size)
            layers.add_skeletons(state, source)
        if sources.errors is not None:
            layers.add_errors(state, read_errors(sources.errors, sources.axes), sources)
        if self.segments is not None:
            layers.add_slider_panel(state, greys[0].name)

    def _served(self, shown: Any, sources: Sources) -> ServedVolume:
        values = StoredValues(shown.volume, shown.role)
        voxel_size = shown.volume.voxel_size or sources.voxel_size
        return ServedVolume(values, shown.role, shown.volume.axes, voxel_size)

    def _bind_keys(self) -> None:
        bindings = {}
        for key, (action, step) in KEYS.items():
            self.viewer.actions.add(action, self._mover(action, step))
            bindings[key] = action
        with self.viewer.config_state.txn() as config:
            for key, action in bindings.items():
                config.input_event_bindings.viewer[key] = action
                config.input_event_bindings.data_view[key] = action

    def _mover(self, action: str, step: float | None) -> Any:
        segments = self.segments
        assert segments is not None

        def move(_: Any) -> None:
            if step is None:
                self.move(segments.next_change(upwards=action == "undo-merge"))
            else:
                self.move(_threshold_of(self.viewer.state, segments.threshold) + step)

        return move


class _Follower:
    """A thread that cuts the tree anew when the slider has moved, and lets browsers know.

    A drag makes many states a second: those that come while one is cut are taken together.
    """

    def __init__(self, viewer: Any, segments: SegmentsAtThreshold, live: ServedVolume) -> None:
        self.viewer, self.segments, self.live = viewer, segments, live
        self._first = segments.threshold
        self._selection = Selection()
        self._changed = threading.Event()
        self._ended = False
        self._say()
        viewer.shared_state.add_changed_callback(self._changed.set)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended = True
        self._changed.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._changed.wait()
            self._changed.clear()
            if self._ended:
                return
            self._follow()

    def _follow(self) -> None:
        """Take the state of the browser over."""
        state = self.viewer.state
        if LIVE not in state.layers:
            return
        selected = {int(segment) for segment in state.layers[LIVE].segments}
        self._selection.note(selected, self.segments.table)
        threshold = _threshold_of(state, self._first)
        if threshold == self.segments.threshold:
            return
        self.segments.move(threshold)
        self.live.invalidate()
        self._say()
        if selected:
            followed = self._selection.segments_in(self.segments.table)
            with self.viewer.txn() as new:
                new.layers[LIVE].segments = sorted(followed)

    def _say(self) -> None:
        """The threshold and the number of segments, below the panels of the browser."""
        words = (
            f"threshold {self.segments.threshold:.4f}: {self.segments.n_segments:,} segments.  "
            "[ ]: move it.  shift+[ ]: to the next merge.  shift+T: the slider."
        )
        with self.viewer.config_state.txn() as config:
            config.status_messages[CONTROL] = words


def _control_layer(state: Any) -> Any:
    """The layer whose shader has the slider: the first one."""
    return state.layers[0].layer


def _threshold_of(state: Any, default: float) -> float:
    """Where the slider stands; a state leaves it out where it stands at its default."""
    for managed in state.layers:
        controls = getattr(managed.layer, "shader_controls", None)
        if controls is not None and CONTROL in controls:
            return float(controls[CONTROL])
    return default
