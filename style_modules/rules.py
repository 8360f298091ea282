"""How style transfer changes the picture, step by step: the course's rule, and two faster ones."""

import torch


class CourseRule:
    """Adam on the pixels with learning rate 3.0, and a fresh Adam with 0.1 for the last 20 steps.

    Until 10 steps before the end, the pixels are clipped to ±1.5 before each step.
    """

    def __init__(self, start: torch.Tensor, count: int):
        """Begin with the picture `start` (1, 3, H, W); `count` steps will be taken."""
        self.pixels, self.count = start.clone().requires_grad_(), count
        self.adam = torch.optim.Adam([self.pixels], lr=3.0, fused=start.is_cuda)

    def picture(self, t: int) -> torch.Tensor:
        """Return the picture before step t."""
        if t < self.count - 10:
            self.pixels.detach().clamp_(-1.5, 1.5)
        return self.pixels

    def content_share(self, t: int) -> float:
        """Return the factor of the content loss in step t."""
        return 1.0

    def optimizer(self, t: int) -> torch.optim.Optimizer:
        """Return the optimizer of step t."""
        if t == max(0, self.count - 20):
            self.adam = torch.optim.Adam([self.pixels], lr=0.1, fused=self.pixels.is_cuda)
        return self.adam


class FourierRule:
    """Steps on the picture's Fourier coefficients times frequency^exponent.

    They move the low frequencies further, which steps on the pixels reach last (Olah, Mordvintsev
    and Schubert, "Feature Visualization", Distill 2017, section "Preconditioning and
    Parameterization"). Until 5 steps before the end the content loss is weighted 0.7, so that the
    slower style loss catches up.
    """

    exponent: float
    descent: torch.optim.Optimizer

    def __init__(self, start: torch.Tensor, count: int):
        """Begin with the picture `start` (1, 3, H, W); `count` steps will be taken."""
        self.count, self.size = count, start.shape[2:]
        height, width = self.size
        frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width))
        scale = frequency.clamp(min=1 / max(height, width)).pow(-self.exponent)
        # No FFT in half
        self.dtype, start = start.dtype, start.to(torch.promote_types(start.dtype, torch.float32))
        self.scale = (scale / scale.square().mean().sqrt()).to(start)
        spectrum = torch.fft.rfft2(start, norm="ortho") / self.scale
        self.coefficients = torch.view_as_real(spectrum).requires_grad_()

    def picture(self, t: int) -> torch.Tensor:
        """Return the picture before step t."""
        spectrum = torch.view_as_complex(self.coefficients) * self.scale
        return torch.fft.irfft2(spectrum, s=self.size, norm="ortho").to(self.dtype)

    def content_share(self, t: int) -> float:
        """Return the factor of the content loss in step t."""
        return 0.7 if t < self.count - 5 else 1.0

    def optimizer(self, t: int) -> torch.optim.Optimizer:
        """Return the optimizer of step t."""
        self.descent.param_groups[0]["lr"] = self.learning_rate(t)
        return self.descent

    def learning_rate(self, t: int) -> float:
        """Return the learning rate of step t."""
        raise NotImplementedError


class AdamRule(FourierRule):
    """Adam with learning rate 0.2, and 0.05 for the last 5 steps."""

    exponent = 1.25

    def __init__(self, start: torch.Tensor, count: int):
        """Begin with the picture `start` (1, 3, H, W); `count` steps will be taken."""
        super().__init__(start, count)
        self.descent = torch.optim.Adam([self.coefficients], fused=start.is_cuda)

    def learning_rate(self, t: int) -> float:
        """Return the learning rate of step t."""
        return 0.2 if t < self.count - 5 else 0.05


class LBFGSRule(FourierRule):
    """L-BFGS as in the paper, with one evaluation per step and no line search.

    The first step changes a coefficient by 0.02 on average: torch's own choice is so short that the
    curvature measured with it is rounding noise.
    """

    exponent = 0.5

    def __init__(self, start: torch.Tensor, count: int):
        """Begin with the picture `start` (1, 3, H, W); `count` steps will be taken."""
        super().__init__(start, count)
        self.descent = torch.optim.LBFGS([self.coefficients], max_iter=1, history_size=10)

    def learning_rate(self, t: int) -> float:
        """Return the learning rate of step t."""
        return 0.02 * self.coefficients.numel() if t == 0 else 1.0


Rule = CourseRule | FourierRule
RULES: dict[str, tuple[type[Rule], int]] = {  # name → rule, steps by default
    "course": (CourseRule, 200),
    "adam": (AdamRule, 45),
    "lbfgs": (LBFGSRule, 40),
}
