"""The questions' items: the one table that check, starter, points and the Markdown tables are made
from.

Staff edit it: points, tolerances and hints; `python course/tables.py` then brings the Markdown
tables up to date.
"""

from dataclasses import dataclass

# The package with root scripts (the hand-out's numbers), and the notebooks' shorter edition.
ASSIGNMENT, HOMEWORK = EDITIONS = ("assignment", "homework")
UNASKED = "which nobody asked for"  # of what is printed


@dataclass(frozen=True)
class Item:
    """One thing to check. It is all or nothing: an item that is not ok scores 0."""

    name: str
    title: str
    file: str
    function: str  # that the student writes: function or Class.method
    editions: dict[str, tuple[str, float]]  # edition → number of the question, points
    # Largest relative error ‖found − expected‖ / ‖expected‖: above what right solutions written
    # differently show, below the nearest known mistake. Both are listed in course/README.md.
    tolerance: float
    hint: str = ""  # above the starter's blank; without one, nothing is blanked
    extra: bool = False  # extra credit: shown, left out of the sum of the points that can be had
    parts: bool = False  # only what stands between `# Question N: …` and `# End` is blanked

    @property
    def question(self) -> str:
        """The assignment's number."""
        return self.editions[ASSIGNMENT][0]


def _both(assignment: str, homework: str, points: float) -> dict[str, tuple[str, float]]:
    return {ASSIGNMENT: (assignment, points), HOMEWORK: (homework, points)}


def _alone(question: str, points: float) -> dict[str, tuple[str, float]]:
    return {ASSIGNMENT: (question, points)}


def of_edition(edition: str) -> list[Item]:
    """Return the items of an edition."""
    return [item for item in ITEMS if edition in item.editions]


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
        _both("1.1", "1.1", 10),
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
        _alone("1.1", 4),
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
        _alone("1.2", 2),
        1e-05,
        "What forward saved tells where the input was positive. Both conditions count.",
    ),
    Item(
        "guided_backprop",
        "Guided backprop",
        GRADCAM,
        "GradCam.guided_backprop",
        _alone("1.2", 6),
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
        _alone("1.2", 8),
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
        _alone("1.2", 4),
        0.1,
        "Gradients of a first backward pass that stay in X_tensor.grad would be added to those of "
        "a second one.",
    ),
    Item(
        "gradcam_captum",
        "Grad-CAM and others by Captum",
        "gradcam.py",
        "draw_captum",
        _alone("1.2", 6),
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
        _both("1.3", "1.2", 10),
        0.1,
        "Work on a copy of X. Look at the scores before each step and stop as soon as the target's "
        "is the highest.",
    ),
    Item(
        "class_visualization",
        "Class visualization",
        CLASS,
        "objective_gradient",
        _both("1.4", "1.3", 10),
        0.2,
        "The gradient has two parts: the score's, by autograd, and that of the penalty, which you "
        "can write down.",
    ),
    Item(
        "content_loss",
        "Content loss",
        CONTENT,
        "ContentLoss.forward",
        _both("2.1", "2.1", 3),
        0.0001,
        "One line; the weight is a factor of the sum.",
    ),
    Item(
        "gram_matrix",
        "Gram matrix",
        STYLE,
        "StyleLoss.gram_matrix",
        _both("2.2", "2.2", 3),
        0.0001,
        "Make a matrix (C, H·W) of each image's features; the batch dimension stays.",
    ),
    Item(
        "style_loss",
        "Style loss",
        STYLE,
        "StyleLoss.forward",
        _both("2.2", "2.2", 3),
        0.0001,
        "style_layers says where in feats a layer is; style_targets and style_weights are "
        "counted along with it. Over no layers the loss is a tensor too.",
    ),
    Item(
        "tv_loss",
        "Total variation",
        VARIATION,
        "TotalVariationLoss.forward",
        _both("2.3", "2.3", 3),
        0.0001,
        "No loops: differences of two shifted slices, once along the height and once along the "
        "width.",
    ),
    Item(
        "style_transfer",
        "Update rule of style transfer",
        "style_utils.py",
        "style_transfer",
        _both("2.4", "2.4", 6),
        0.01,
        "Forward through the three criteria; then, unless all steps are done, clear the "
        "optimizer's gradients, go "
        "backward from the sum of the three terms, and step. opt = rule.optimizer(t) is the "
        "optimizer of step t: when "
        "20 steps are left, a new Adam with the smaller learning rate.",
        parts=True,
    ),
    Item(
        "feature_inversion",
        "Feature inversion",
        STYLE,
        "StyleLoss.forward",
        _both("2.5", "2.5", 2),
        0.0,
    ),
)
