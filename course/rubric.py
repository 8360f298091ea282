"""The points: one row for each item of `check.py`. Staff edit this table."""

from dataclasses import dataclass

EDITIONS = ("assignment", "homework")  # the package with all questions, and the notebooks' shorter edition


@dataclass(frozen=True)
class Row:
    """What an item is worth. It is all or nothing: an item that is not ok scores 0.

    So a loss that fails its check scores 0, and so does whatever prints what nobody asked for.
    """

    item: str
    question: str
    title: str
    points: float
    editions: tuple[str, ...] = EDITIONS


RUBRIC = (
    Row("saliency_map", "1.1", "Saliency maps", 10),
    Row("saliency_captum", "1.1", "Saliency and others by Captum", 4, ("assignment",)),
    Row("custom_relu", "1.2", "Guided ReLU", 2, ("assignment",)),
    Row("guided_backprop", "1.2", "Guided backprop", 6, ("assignment",)),
    Row("grad_cam", "1.2", "Grad-CAM", 8, ("assignment",)),
    Row("guided_grad_cam", "1.2", "Guided Grad-CAM", 4, ("assignment",)),
    Row("gradcam_captum", "1.2", "Grad-CAM and others by Captum", 6, ("assignment",)),
    Row("fooling_image", "1.3", "Fooling images", 10),
    Row("class_visualization", "1.4", "Class visualization", 10),
    Row("content_loss", "2.1", "Content loss", 3),
    Row("gram_matrix", "2.2", "Gram matrix", 3),
    Row("style_loss", "2.3", "Style loss", 3),
    Row("tv_loss", "2.4", "Total variation", 3),
    Row("style_transfer", "2.5", "Style transfer", 6),
    Row("feature_inversion", "2.6", "Feature inversion", 2),
)


def rows(edition: str) -> list[Row]:
    """Return the rows of an edition."""
    return [row for row in RUBRIC if edition in row.editions]
