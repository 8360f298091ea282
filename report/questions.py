"""The report's chapters: the questions in the hand-out's order, captions and prompts.

Staff who want other prompts edit `prompts` here, a line each; nothing else depends on them.
"""

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Question:
    """A chapter of the report."""

    name: str  # for --only and --answers
    numbers: tuple[str, ...]  # the hand-out's
    title: str
    scripts: tuple[str, ...]  # that make its figures
    about: str  # the technique in a few sentences, with its source
    prompts: tuple[str, ...]  # what an answer is asked to say
    figures: Mapping[str, str]  # file → caption; {option} is the value the figure was made with
    folder: str = "visualization"
    tables: Mapping[str, str] = field(default_factory=dict)  # CSV file → caption
    by_default: bool = True  # whether it is run without --only

    @property
    def heading(self) -> str:
        """The chapter's heading: number and title."""
        last = f"–{self.numbers[-1]}" if len(self.numbers) > 1 else ""
        return f"{self.numbers[0]}{last} {self.title}"

    def caption(self, name: str, made_with: Mapping[str, str]) -> str:
        """Return the caption of a figure, with the values of the options that its PNG text records.

        A sentence about an option that the text lacks is left out, as in figures that do not come
        from the scripts.
        """
        first = name if name in self.figures else re.sub(r"_\d+\.png$", ".png", name)
        options: dict = {}
        with contextlib.suppress(ValueError):
            options = json.loads(made_with.get("Options", ""))
            alone = options.get("per_image") or options.get("whole")
            options["scaled"] = "each alone" if alone else "over the photos together"
        values = {key: _stated(value) for key, value in options.items()}
        sentences = []
        for sentence in re.split(r"(?<=\.) ", self.figures[first]):
            with contextlib.suppress(KeyError):
                sentences.append(sentence.format_map(values))
        return " ".join(sentences)


def _stated(value: object) -> object:
    """Return an option's value as a caption says it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, list) else value


QUESTIONS = (
    Question(
        "saliency_map",
        ("1.1",),
        "Saliency maps",
        ("saliency_map",),
        "How strongly the raw score of a photo's class reacts to each pixel: the largest absolute "
        "gradient over the "
        "three colours (Simonyan, Vedaldi and Zisserman 2014, section 3).",
        (
            "Which parts of each photo decide the class, and where is the map bright outside the "
            "subject?",
            "What does a bright pixel say, and what does it not say about covering that part of "
            "the photo?",
        ),
        {
            "saliency_map.png": "Photos and their saliency maps. The range of each map fills its "
            "colour scale."
        },
    ),
    Question(
        "gradcam",
        ("1.2",),
        "Guided backprop, Grad-CAM, Guided Grad-CAM",
        ("gradcam",),
        "Guided backprop passes back only what is positive at each ReLU (Springenberg et al. 2015, "
        "section 3.4). "
        "Grad-CAM sums the channels of a layer, each weighted by the mean gradient of the class's "
        "score there, and "
        "keeps what is positive (Selvaraju et al. 2017, section 3). Guided Grad-CAM is the product "
        "of the two.",
        (
            "Why is guided backprop sharper than the saliency map, and what does Grad-CAM know "
            "that it does not?",
            "Why is a Grad-CAM map coarse, and what does multiplying the two maps add?",
        ),
        {
            "guided_backprop.png": "Guided backprop. Mid-grey is zero; the largest half per cent "
            "of the values "
            "saturates.",
            "gradcam.png": "Grad-CAM over the photos. Computed at {layer}, upscaled bicubically, "
            "and scaled {scaled}.",
            "figure1.png": "All maps of the first two questions. Under each class's name is its "
            "probability. "
            "Grad-CAM is taken at {layer}.",
            "guided_gradcam.png": "Guided Grad-CAM. Grad-CAM is taken at {layer}.",
        },
    ),
    Question(
        "captum",
        ("1.1", "1.2"),
        "The same with Captum",
        ("saliency_map", "gradcam"),
        "Attributions by the library Captum (Kokhlikyan et al. 2020): gradient, integrated "
        "gradients (Sundararajan, "
        "Taly and Yan 2017), occlusion (Zeiler and Fergus 2014), and how much the channels of a "
        "layer take part: "
        "their activation, Grad-CAM and conductance (Dhamdhere, Sundararajan and Yan 2019). Each "
        "map is shown by its "
        "distance from its mean in standard deviations.",
        (
            "How do maps from gradients differ from those that perturb the photo (occlusion), and "
            "why?",
            "Where do the library's maps agree with yours, and what explains the differences?",
        ),
        {
            "saliency_captum.png": "Saliency maps, the largest over the colours.",
            "guided_backprop_captum.png": "Guided backprop.",
            "attributions_captum.png": "Saliency maps, integrated gradients and occlusion. The "
            "gradients are "
            "integrated in {steps} steps from the mean colour.",
            "guided_gradcam_captum.png": "Guided Grad-CAM. Grad-CAM is taken at {layer} and "
            "upscaled bicubically.",
            "layer_activation_captum.png": "Activation, averaged over the channels. The layer is "
            "{captum_layer}.",
            "layer_gradcam_captum.png": "Grad-CAM, its positive part. The layer is {captum_layer}.",
            "layer_conductance_captum.png": "Conductance, averaged over the channels. The layer is "
            "{captum_layer}, "
            "the number of steps {steps}.",
        },
    ),
    Question(
        "fooling_image",
        ("1.3",),
        "Fooling images",
        ("fooling_image",),
        "Gradient ascent on the score of another class, until the network takes the photo for it "
        "(Szegedy et al. "
        "2014). Each step has the same length.",
        (
            "What does the difference between photo and fooling image look like, and would you see "
            "it?",
            "What does it say about the network that so small a change is enough?",
        ),
        {
            "fooling_image.png": "The photo, the fooling image, and what was added. The photo is "
            "number {index}, the "
            "class to reach {target}. Steps have an L2 norm of {learning_rate:g} in normalised "
            "pixels; there are "
            "{max_iter} of them at most.",
            "fooling_image_valid.png": "A fooling image that can be stored. All pixels are whole "
            "numbers from 0 to "
            "255, and loaded from this file they still fool the network.",
        },
    ),
    Question(
        "class_visualization",
        ("1.4",),
        "Class visualization",
        ("class_visualization",),
        "Gradient ascent from noise on a class's score less a penalty on the squared L2 norm of "
        "the picture "
        "(Simonyan, Vedaldi and Zisserman 2014, section 2), seen shifted at random and blurred now "
        "and then "
        "(Yosinski et al. 2015).",
        (
            "What of the class do you recognise, and what does the network seem to look for?",
            "What do the penalty, the blur and the shifts each do to the picture?",
        ),
        {
            "class_visualization.png": "The picture as it grows. Classes: {target}. There are "
            "{iterations} steps of "
            "L2 norm {learning_rate:g} in normalised pixels, with a penalty of {l2_reg:g} times "
            "the squared norm, "
            "shifts of up to {max_jitter} pixels, and a blur every {blur_every} iterations. It is "
            "shown every "
            "{show_every} iterations."
        },
    ),
    Question(
        "sanity_checks",
        ("1.5",),
        "How far to trust the maps",
        ("sanity_checks",),
        "A map can look right and have nothing to do with what the network has learned. The layers "
        "are made random "
        "from the output down, and the maps compared with the original ones (Adebayo et al. 2018). "
        "Pixels are taken "
        "away and put back in the order of the map, while the class's probability is watched "
        "(Petsiuk, Das and Saenko"
        " 2018). The photo is changed so little that nobody sees it (sensitivity), and squares of "
        "it are covered to "
        "see whether the map foretells what the score loses (infidelity; both Yeh et al. 2019). Of "
        "a grid of four "
        "photos, the map should lie on the one that shows the class (Arias-Duart et al. 2022). "
        "Three controls never "
        "ask the network: an edge detector, a blob in the middle, a random order. Compare with "
        "their numbers.",
        ("Which of the maps depend on what the network has learned, and how do you see it?",),
        {
            "sanity_randomization.png": "The absolute maps of one photo while the layers are made "
            "random from the "
            "output down, each tile on its own scale, which ends at the 99th percentile. "
            "Gradients: {steps} steps.",
            "sanity_curves.png": "Agreement with the original maps down the cascade: medians over "
            "photos and random "
            "networks, bands between the quartiles. Random networks: {seeds}. {found} Structural "
            "similarity of a "
            "sparse map is mostly that of its empty background, so compare it within a method "
            "only.",
            "faithfulness.png": "Probability of the class while pixels go, and while they come "
            "back: medians over the "
            "photos, bands between the quartiles; the numbers are median areas. Deleted pixels are "
            "replaced by: "
            "{deletion_baseline}; insertion begins with the blurred photo. {found}",
        },
        tables={
            "sanity_summary.csv": "Medians, in brackets the quartiles, over photos and, of the "
            "first two columns, "
            "random networks. Rank correlation and SSIM with the original map when all layers are "
            "random: low is good, "
            "and an edge detector has 1. Areas: low is good for deletion, high for insertion. "
            "Sensitivity, the largest "
            "relative change of the map when each pixel changes by about one grey level: low is "
            "good, and what never "
            "asks the network is best. Infidelity, the share of the score's losses that the map "
            "does not foretell: low "
            "is good. Localisation, the share of the map on the right photo of four: high is good, "
            "0.25 is chance. "
            "Means, counts and settings are in sanity_checks.csv, single photos in "
            "faithfulness.csv."
        },
        by_default=False,  # it takes longer than all others together
    ),
    Question(
        "style_transfer",
        ("2.1", "2.2", "2.3", "2.4"),
        "Style transfer",
        ("style_transfer",),
        "A picture with the features of one image and the Gram matrices of another's features "
        "(Gatys, Ecker and "
        "Bethge 2016, section 2).",
        (
            "What do the weights of content, style and total variation do? Change one and compare.",
            "What of the painting does a Gram matrix keep, and what does it lose?",
        ),
        {
            "style_transfer.png": "Content, style and result. {pictures}. Optimizer: {optimizer}, "
            "{iterations} "
            "steps. Colours of the content kept: {preserve_color}.",
            "style_losses.png": "The weighted terms of the loss over the steps. Optimizer: "
            "{optimizer}, {iterations} "
            "steps.",
        },
    ),
    Question(
        "feature_inversion",
        ("2.5",),
        "Feature inversion",
        ("style_transfer",),
        "Starting from noise, a picture is sought whose features at one layer are those of a "
        "photo: what is lost on "
        "the way to that layer stays open (Mahendran and Vedaldi 2015, section 2). It is style "
        "transfer without a "
        "style.",
        ("What of the photo is lost on the way to the layer, and what is kept?",),
        {
            "inverted_features.png": "The photo, and what its features bring back. {pictures}. "
            "Optimizer: "
            "{optimizer}, {iterations} steps."
        },
    ),
)
