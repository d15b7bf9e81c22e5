"""The state of a viewer: layers, shaders, the slider and where to look."""

from collections.abc import Iterable
from dataclasses import dataclass

import neuroglancer
import numpy as np
from neuroglancer.viewer_state import ToolPalette

from pytc.config import Triple
from pytc.evaluation.errors import DenseError
from pytc.io.volume import Volume
from pytc.view.served import ServedSkeletons, coordinate_space
from pytc.view.sources import Shown, Sources

LIVE = "segments at threshold"
SKELETONS = "skeletons"
CONTROL = "threshold"  # name of the slider
STEP = 0.005  # of the slider
PANEL = 450  # pixels along a side of a panel, about
MOST_ERRORS = 50  # of each kind are shown
MOST_SKELETONS = 500  # are selected at the start, as only those that are selected are drawn
COLOURS = {"split": "#2878ff", "merger": "#eb2846", "missing": "#ffc800"}
TITLES = {"split": "splits", "merger": "mergers", "missing": "missing"}

SLIDER = "#uicontrol float {name} slider(min=0, max=1, step={step}, default={value})\n"
GREY = """#uicontrol invlerp normalized(range=[{low:g}, {high:g}])
void main() {{ emitGrayscale(normalized()); }}
"""
# The three edges to the next voxels as a colour; dark is a membrane.
EDGES = """void main() {
  emitRGB(vec3(getDataValue(0), getDataValue(1), getDataValue(2)));
}
"""
ONE_CHANNEL = "void main() { emitGrayscale(getDataValue(0)); }\n"


@dataclass(frozen=True)
class Look:
    """What a user asks of the first view."""

    position: Triple | None = None  # voxel in stored axis order
    select: tuple[int, ...] = ()


def grey_range(volume: Volume) -> tuple[float, float]:
    """The 1st and 99th percentile of the middle plane."""
    axis = volume.axes.index(volume.spatial_axes[0])
    index: list[slice | int] = [slice(None)] * len(volume.shape)
    index[axis] = volume.shape[axis] // 2
    low, high = np.percentile(volume[tuple(index)].astype(np.float32), (1, 99))
    return float(low), float(max(high, low + 1e-6))


def image_shader(volume: Volume) -> str:
    low, high = grey_range(volume)
    return GREY.format(low=low, high=high)


def affinity_shader(volume: Volume) -> str:
    return EDGES if volume.n_channels >= 3 else ONE_CHANNEL


def slider(threshold: float) -> str:
    """The line of a shader that makes the slider. Segmentation layers have no shader for slices."""
    return SLIDER.format(name=CONTROL, step=STEP, value=f"{threshold:.6f}")


def begin_state(state: "neuroglancer.ViewerState", sources: Sources, look: Look) -> None:
    """Dimensions, position and layout: x to the right and y down, as is usual."""
    along = dict(zip(sources.axes, sources.voxel_size))
    order = "xyz"
    state.dimensions = coordinate_space(order, (along[order[0]], along[order[1]], along[order[2]]))
    shape = sources.volumes[0].volume.spatial_shape
    voxel = look.position or tuple(length // 2 for length in shape)
    at = dict(zip(sources.axes, voxel))
    state.position = [at[axis] + 0.5 for axis in order]
    state.title = sources.title
    state.layout = "4panel"
    # the first axis counts: in these voxels, one screen pixel, and the height of the 3D view
    extent = max(n * length for n, length in zip(shape, sources.voxel_size)) / along[order[0]]
    state.cross_section_scale = min(extent / PANEL, 4.0)
    state.projection_scale = 1.5 * extent


def add_image(
    state: "neuroglancer.ViewerState", shown: Shown, source: object, head: str, *, visible: bool
) -> None:
    """An image or a prediction; `head` comes before its shader."""
    is_image = shown.role == "image"
    shader = image_shader(shown.volume) if is_image else affinity_shader(shown.volume)
    state.layers.append(
        name=shown.name,
        layer=neuroglancer.ImageLayer(source=source, shader=head + shader, opacity=1.0),
        visible=visible,
    )


def add_ids(
    state: "neuroglancer.ViewerState", name: str, source: object, *, visible: bool
) -> "neuroglancer.SegmentationLayer":
    """A layer of labels or segments. As long as none is selected, all are shown."""
    layer = neuroglancer.SegmentationLayer(source=source, selected_alpha=0.35)
    state.layers.append(name=name, layer=layer, visible=visible)
    return layer


def add_skeletons(state: "neuroglancer.ViewerState", source: ServedSkeletons) -> None:
    layer = neuroglancer.SegmentationLayer(source=source)
    layer.segments = source.ids[:MOST_SKELETONS]
    layer.skeleton_rendering.line_width2d = 3
    state.layers.append(name=SKELETONS, layer=layer)


def add_errors(
    state: "neuroglancer.ViewerState", errors: Iterable[DenseError], sources: Sources
) -> None:
    """Splits and mergers as points, the worst first, each with a line of text."""
    errors = list(errors)
    for kind, title in TITLES.items():
        points = [
            neuroglancer.PointAnnotation(
                id=error.id,
                point=np.array(error.position) + 0.5,
                description=error.in_words,
            )
            for error in errors
            if error.kind == kind
        ][:MOST_ERRORS]
        if not points:
            continue
        state.layers.append(
            name=title,
            layer=neuroglancer.LocalAnnotationLayer(
                dimensions=coordinate_space(sources.axes, sources.voxel_size),
                annotations=points,
                annotation_color=COLOURS[kind],
                shader="void main() { setColor(defaultColor()); setPointMarkerSize(9.0); }",
            ),
        )


def add_slider_panel(state: "neuroglancer.ViewerState", layer: str) -> None:
    """A panel at the right with the slider alone, and shift+T to bring it up over the panels."""
    tool = neuroglancer.ShaderControlTool(control=CONTROL)
    state.layers[layer].tool_bindings["T"] = tool
    state.tool_palettes[CONTROL] = ToolPalette(
        side="right",
        row=0,
        size=300,
        tools=[neuroglancer.ShaderControlTool(layer=layer, control=CONTROL)],
    )
