"""The questions' items: the one table behind check, starter, points and the Markdown tables.

Staff edit it: points, tolerances and hints; `python course/tables.py` then brings the Markdown
tables up to date.
"""

from dataclasses import dataclass

from checker.editions import ASSIGNMENT, HOMEWORK, TABLE, TAKES, Edition, Function

__all__ = [
    "ASSIGNMENT",
    "EDITIONS",
    "ELSEWHERE",
    "HOMEWORK",
    "ITEMS",
    "UNASKED",
    "Item",
    "of_edition",
    "place",
]

EDITIONS = tuple(TABLE)
UNASKED = "which nobody asked for"  # of what is printed


@dataclass(frozen=True)
class Item:
    """One thing to check. It is all or nothing: an item that is not ok scores 0."""

    name: str
    title: str
    file: str
    function: str  # that the student writes: function or Class.method
    points: float  # in an edition whose row does not say otherwise
    # Largest relative error ‖found − expected‖ / ‖expected‖: above what right solutions written
    # differently show, below the nearest known mistake. Both are listed in course/README.md.
    tolerance: float
    hint: str = ""  # above the starter's blank; without one, nothing is blanked
    # The homework's extra credit for students of this course: shown, left out of their maximum.
    extra: str = ""
    parts: bool = False  # only what stands between `# Question N: …` and `# End` is blanked
    measured: str = ""  # the function that is called, where it is not that one

    @property
    def question(self) -> str:
        """The assignment's number."""
        return self.editions[ASSIGNMENT][0]

    @property
    def editions(self) -> dict[str, tuple[str, float]]:
        """Edition → number of the question, points."""
        return {
            name: (edition.asks[self.name], edition.points.get(self.name, self.points))
            for name, edition in TABLE.items()
            if self.name in edition.asks
        }


def of_edition(edition: str) -> list[Item]:
    """Return the items of an edition."""
    return [item for item in (*ITEMS, *ELSEWHERE) if item.name in TABLE[edition].asks]


SALIENCY, GRADCAM, FOOLING = (
    f"visualizers/{name}.py" for name in ("saliency_map", "gradcam", "fooling_image")
)
CLASS, STYLE = "visualizers/class_visualization.py", "style_modules/style_loss.py"
CONTENT, VARIATION = "style_modules/content_loss.py", "style_modules/tv_loss.py"

ITEMS = (
    Item(
        "saliency_map",
        "Saliency maps",
        SALIENCY,
        "SaliencyMap.compute_saliency_maps",
        10,
        0.05,
        "Put the network into eval mode. Sum the scores of the labelled classes: no score "
        "depends on another image, so one gradient serves them all. Then of the three colours "
        "the largest absolute value.",
    ),
    Item(
        "saliency_captum",
        "Saliency and others by Captum",
        "saliency_map.py",
        "draw_captum",
        4,
        0.1,
        "saliency_captum.png: the row of the photos and a row of Captum's Saliency, the "
        "largest channel. attributions_captum.png: the photos, Saliency, IntegratedGradients and "
        "Occlusion (occlusion_windows), the latter two summed over the channels. "
        "page.compute(attribution(attr.Saliency, model)) lists the photos' attributions, "
        "attribution_row makes a row of them, save(name, rows, heading) writes the figure.",
    ),
    Item(
        "custom_relu",
        "Guided ReLU",
        GRADCAM,
        "CustomReLU.backward",
        2,
        1e-05,
        "What forward saved tells where the input was positive. Both conditions count.",
    ),
    Item(
        "guided_backprop",
        "Guided backprop",
        GRADCAM,
        "GradCam.guided_backprop",
        6,
        0.05,
        "CustomReLU has to stand in for every ReLU, also those inside the Fire modules, and "
        "the network is to be given back as it was: work on a copy (copy.deepcopy), or undo "
        "the change in a finally clause.",
    ),
    Item(
        "grad_cam",
        "Grad-CAM",
        GRADCAM,
        "GradCam.grad_cam",
        8,
        0.09,
        "Forward hooks show a layer's output; remove them afterwards. Without layer, take "
        "default_layer(gc_model).module. Keep what is positive, then enlarge to (H, W), which PIL "
        "counts as (W, H), then bring all to [0, 1] together.",
    ),
    Item(
        "guided_grad_cam",
        "Guided Grad-CAM",
        GRADCAM,
        "GradCam.guided_grad_cam",
        4,
        0.1,
        "Gradients of a first backward pass that stay in X_tensor.grad would be added to those of "
        "a second one.",
    ),
    Item(
        "gradcam_captum",
        "Grad-CAM and others by Captum",
        "gradcam.py",
        "draw_captum",
        6,
        0.1,
        "Five figures, NAME_captum.png, each the row of the photos and one attribution_row: "
        "guided_backprop (GuidedBackprop), guided_gradcam (GuidedGradCam at the first layer, "
        "bicubic), and at the second layer: layer_activation (LayerActivation, mean over the "
        "channels), layer_gradcam (LayerGradCam, relu_attributions) and layer_conductance "
        "(LayerConductance, n_steps, mean over the channels). "
        "page.compute(attribution(attr.LayerActivation, model, layer)) lists the photos' "
        "attributions; save(name, rows, heading) writes the figure.",
    ),
    Item(
        "fooling_image",
        "Fooling images",
        FOOLING,
        "FoolingImage.make_fooling_image",
        10,
        0.1,
        "Work on a copy of X. Look at the scores before each step and stop as soon as the target's "
        "is the highest.",
    ),
    Item(
        "class_visualization",
        "Class visualization",
        CLASS,
        "objective_gradient",
        10,
        0.25,
        "The gradient has two parts: the score's, by autograd, and that of the penalty, which you "
        "can write down.",
        extra="CS4803",
        measured="ClassVisualization.create_class_visualization",
    ),
    Item(
        "content_loss",
        "Content loss",
        CONTENT,
        "ContentLoss.forward",
        3,
        0.0001,
        "One line; the weight is a factor of the sum.",
    ),
    Item(
        "gram_matrix",
        "Gram matrix",
        STYLE,
        "StyleLoss.gram_matrix",
        3,
        0.0001,
        "Make a matrix (C, H·W) of each image's features; the batch dimension stays.",
    ),
    Item(
        "style_loss",
        "Style loss",
        STYLE,
        "StyleLoss.forward",
        3,
        0.0001,
        "style_layers says where in feats a layer is; style_targets and style_weights are "
        "counted along with it. Over no layers the loss is a tensor too.",
    ),
    Item(
        "tv_loss",
        "Total variation",
        VARIATION,
        "TotalVariationLoss.forward",
        3,
        0.0001,
        "No loops: differences of two shifted slices, once along the height and once along the "
        "width.",
    ),
    Item(
        "style_transfer",
        "Update rule of style transfer",
        "style_utils.py",
        "style_transfer",
        6,
        0.01,
        "Forward through the three criteria; then, unless all steps are done, clear the "
        "optimizer's gradients, go "
        "backward from the sum of the three terms, and step. opt = rule.optimizer(t) is the "
        "optimizer of step t: when "
        "20 steps are left, a new Adam with the smaller learning rate.",
        parts=True,
    ),
    Item("feature_inversion", "Feature inversion", STYLE, "StyleLoss.forward", 2, 0.0),
)

# Items that our own starter lacks.
ELSEWHERE = (
    Item("guided_gram_matrix", "Guided Gram matrix", "", "guided_gram_matrix", 3, 0.0001),
    Item("guided_style_loss", "Guided style loss", "", "guided_style_loss", 3, 0.0001),
)


def place(edition: str | Edition, name: str) -> Function:
    """Return where an item's function is, by the edition's row or by the item's own."""
    item = next(item for item in (*ITEMS, *ELSEWHERE) if item.name == name)
    row = TABLE[edition] if isinstance(edition, str) else edition
    return row.places.get(name) or Function(
        item.file, item.measured or item.function, TAKES.get(name, "")
    )
