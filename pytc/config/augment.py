"""The augmentations of training patches, see `pytc.data.augment`."""

from dataclasses import dataclass, fields
from typing import Literal

from pytc.checks import Section, require


@dataclass(frozen=True)
class AugmentConfig(Section):
    """Probability (prob) and strength of each augmentation; a probability of 0 switches it off."""

    permute_prob: float = 0.5  # Random order of the axes of equal voxel size and patch extent.
    rot90_prob: float = 0.5  # Rotation by a multiple of 90 degrees in the plane of the sections.
    flip_prob: float = 0.5  # Mirroring, drawn for each axis.
    affine_prob: float = 0.0  # Random scale, shear and rotation, in one resampling.
    affine_scale: float = 0.2  # Largest relative change of scale along each axis.
    affine_shear: float = 0.5  # Largest shear of each axis along each other axis.
    # Largest rotation in degrees, in each plane whose two axes have equal voxel sizes.
    affine_rotation: float = 0.0
    elastic_prob: float = 0.0  # Smooth random deformation.
    # Distance of the control points of the deformation, in voxels of the finest axis.
    elastic_spacing: int = 24
    # Standard deviation of the displacement, in voxels of the finest axis.
    elastic_magnitude: float = 3.0
    # Move a random section, or all sections from it on, by a translation or a rotation in plane.
    misalign_prob: float = 0.0
    misalign_max: int = 8  # Largest translation of a misalignment in voxels.
    misalign_rotation: float = 2.0  # Largest rotation of a misalignment in degrees.
    # Probability that a patch gets slice damage at all, drawn for each kind: drop_slice,
    # shift_slice, blur_slice, slice_contrast.
    slices_prob: float = 1.0
    # Axis across which the damaged slices lie. thick: that of the largest voxels (the first one if
    # several are). random: drawn for each patch and kind. 0, 1 or 2: in stored order.
    slices_axis: Literal["thick", "random", 0, 1, 2] = "thick"
    drop_slice_prob: float = 0.0  # Probability that a slice of such a patch is blanked.
    shift_slice_prob: float = 0.0  # Probability that a slice of such a patch is shifted in plane.
    shift_slice_max: int = 10  # Largest shift of a slice in voxels.
    # What fills the gap: border repeats the border voxels, wrap takes the opposite side.
    shift_slice_fill: Literal["border", "wrap"] = "border"
    missing_section_prob: float = 0.0  # A run of a few neighbouring blank sections.
    missing_section_max: int = 3  # Most sections in such a run.
    blur_slice_prob: float = 0.0  # Probability that a slice of such a patch is out of focus.
    blur_sigma: float = 2.0  # Largest standard deviation of the blur in voxels.
    intensity_prob: float = 0.5  # Change of contrast and brightness.
    intensity_scale: float = 0.1  # Largest relative change of contrast.
    intensity_offset: float = 0.1  # Largest change of brightness, as a share of the grey range.
    gamma_prob: float = 0.0  # Gamma correction.
    gamma_range: tuple[float, float] = (0.7, 1.5)  # Smallest and largest gamma.
    # Probability that a slice of such a patch gets another contrast and brightness, within
    # intensity_scale and intensity_offset.
    slice_contrast_prob: float = 0.0
    noise_prob: float = 0.5  # Gaussian noise.
    # Largest standard deviation of the noise, as a share of the grey range.
    noise_max: float = 0.1
    cutout_prob: float = 0.0  # Boxes that are set to their mean grey value.
    cutout_size: float = 0.25  # Longest edge of such a box, as a share of the patch.

    def __post_init__(self) -> None:
        super().__post_init__()
        probabilities = [field.name for field in fields(self) if field.name.endswith("_prob")]
        self.require_fraction(*probabilities, "cutout_size")
        self.require_below_one("affine_scale")
        self.require_positive("elastic_spacing", "missing_section_max", "blur_sigma", "gamma_range")
        self.require_not_negative(
            "elastic_magnitude",
            "misalign_max",
            "shift_slice_max",
            "noise_max",
        )
        smallest, largest = self.gamma_range
        require(smallest <= largest, "smallest gamma <= largest", self.gamma_range)
