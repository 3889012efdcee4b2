# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The convolution block and its gradient
#
# Three questions, in the order in which a network asks them:
#
# 1. **Forward.** Why does a layer have $K$ filters, and why does each of them span all $C$ channels?
# 2. **Backward.** What are $\partial L/\partial K$ and $\partial L/\partial X$? You derive them by hand for a 3 × 3
#    image and find that each is a convolution again.
# 3. **Trust.** How does one know that a gradient is right? By `gradcheck`; and you will see what it does, what its
#    tolerances mean, and which mistakes it cannot see.

# %%
import warnings

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from figures import BLUE, SIGNED, VERMILION, photograph, show_image, show_images, show_matrix, show_row, use_style
from torch.autograd import gradcheck, gradgradcheck

from torch_convops import conv2d, convolve2d, correlate2d, reference

close = torch.testing.assert_close
ops = torch.ops.torch_convops  # the plain operators, the gradients among them
torch.manual_seed(0)
use_style()

# %% [markdown]
# ## 1. K filters over C channels
#
# A colour photograph has $C = 3$ channels. **One** filter of a layer has a slice of weights for each of them; it slides
# all three over their channels together and adds up what they give, and a bias:
#
# $$ y_{k} = b_k + \sum_{c=1}^{C} x_c \star w_{k,c} $$
#
# Why the sum over channels? Because colour is a relation *between* channels. The filter below asks "more red than green
# or blue?": a positive mean over the red channel, half as large negative ones over the two others. Look at the
# responses of the three channels by themselves (red is positive, blue negative): each shows brightness above all, the
# checks of the background and the shadow with it. In the sum whatever is grey cancels, be it bright or dark, and what
# is left is the shirt.

# %%
photo = photograph(9)
red = torch.stack([torch.full((3, 3), value / 9) for value in (1.0, -0.5, -0.5)])  # (C, R, S), a slice a channel
parts = conv2d(photo, red[:, None], padding="same", groups=3)  # each channel with its own slice, not added up
whole = conv2d(photo, red[None], padding="same")[0]  # what a layer computes
close(parts.sum(0), whole)

figure, grid = plt.subplots(3, 4, figsize=(9, 6.2), height_ratios=(1, 0.5, 1))
for c, name in enumerate(("red", "green", "blue")):
    show_image(grid[0, c], photo[c], f"channel {name}, 0 to 1", limits=(0, 1))
    look = {"cmap": SIGNED, "limits": (-0.2, 0.2), "fontsize": 7, "text": [["1/9" if c == 0 else "−1/18"] * 3] * 3}
    show_matrix(grid[1, c], red[c], f"slice $w_{{k,{c + 1}}}$", **look)
    grid[1, c].set(xticks=[], yticks=[])
    show_image(grid[2, c], parts[c], f"$x_{c + 1} \\star w_{{k,{c + 1}}}$", cmap=SIGNED, limits=(-0.7, 0.7))
show_image(grid[0, 3], photo, "photograph $x$")
grid[1, 3].set_axis_off()
grid[1, 3].text(0.5, 0.5, "sum of the three\n↓", ha="center", va="center", fontsize=12)
show_image(grid[2, 3], whole, "$y_k$, from −0.4 to 0.4", cmap=SIGNED, limits=(-0.4, 0.4))
plt.show()

# %% [markdown]
# And why $K$ filters? One filter answers one question. The next layer wants the answers to many of them at each place:
# *is it red here? does an edge run down here? across? is there a spot?* $K$ filters make $K$ feature maps, the channels
# of the next layer. Below, $K = 4$; the photograph of 3 channels becomes an "image" of 4. Red answers yes, blue answers
# the opposite, and each map is drawn relative to its own largest magnitude.

# %%
grey = torch.full((3, 1, 1), 1 / 3)  # the same slice for every channel: blind to colour
across = torch.tensor([[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]]) / 8
spot = torch.tensor([[-1.0, -1, -1], [-1, 8, -1], [-1, -1, -1]]) / 16
weight = torch.stack([red, grey * across.T, grey * across, grey * spot])  # (K, C, R, S)
bias = torch.zeros(4)
maps = conv2d(photo, weight, bias, padding="same", padding_mode="reflect")

names = ("redder than green or blue", "dark on the right", "dark below", "unlike its neighbours")
show_images(list(maps / maps.abs().amax((1, 2), keepdim=True)), names, cmap=SIGNED, limits=(-0.6, 0.6))
plt.show()
print(f"x {tuple(photo.shape)}, weight {tuple(weight.shape)}, bias {tuple(bias.shape)} -> y {tuple(maps.shape)}")
print(f"parameters: K C R S + K = 4 * 3 * 3 * 3 + 4 = {weight.numel() + bias.numel()}, however large the image is")

# %% [markdown]
# The same block as **one matrix product**: write each filter as a row of $C R S$ numbers, each window of the image as a
# column of as many. This is how fast implementations think of it, ours included (without ever writing the large matrix
# to memory).
#
# $$ \underbrace{Y}_{K \times PQ} = \underbrace{W}_{K \times CRS} \;\underbrace{U}_{CRS \times PQ} $$

# %%
U = F.unfold(reference.padded(photo, (1, 1, 1, 1), "reflect")[None], kernel_size=3)[0]
W = weight.flatten(1)
close((W @ U).reshape(maps.shape), maps)
print(f"W {tuple(W.shape)} @ U {tuple(U.shape)}: U repeats each pixel up to {3 * 3} times")

# %% [markdown]
# ## 2. Backward, by hand
#
# Take the smallest case in which everything happens: an image of 3 × 3 and a kernel of 2 × 2, one channel, no padding.
# As on the blackboard, indices start at 1 here.
#
# $$ \begin{aligned}
# y_{11} &= x_{11}k_{11} + x_{12}k_{12} + x_{21}k_{21} + x_{22}k_{22} \\
# y_{12} &= x_{12}k_{11} + x_{13}k_{12} + x_{22}k_{21} + x_{23}k_{22} \\
# y_{21} &= x_{21}k_{11} + x_{22}k_{12} + x_{31}k_{21} + x_{32}k_{22} \\
# y_{22} &= x_{22}k_{11} + x_{23}k_{12} + x_{32}k_{21} + x_{33}k_{22}
# \end{aligned} $$

# %%
X = torch.tensor([[1.0, 2, 0], [3, 1, -1], [0, 2, 1]], dtype=torch.float64)
K = torch.tensor([[1.0, 2], [-1, 3]], dtype=torch.float64)
G = torch.tensor([[1.0, -1], [2, 1]], dtype=torch.float64)  # dL/dY, handed down by the layer above

(x11, x12, x13), (x21, x22, x23), (x31, x32, x33) = X.tolist()
(k11, k12), (k21, k22) = K.tolist()
Y = torch.tensor(
    [
        [x11 * k11 + x12 * k12 + x21 * k21 + x22 * k22, x12 * k11 + x13 * k12 + x22 * k21 + x23 * k22],
        [x21 * k11 + x22 * k12 + x31 * k21 + x32 * k22, x22 * k11 + x23 * k12 + x32 * k21 + x33 * k22],
    ],
    dtype=torch.float64,
)
show_row(
    [
        (X, "$X$", {"first": 1, "highlight": [(0, 0, 2, 2)]}),
        "⋆",
        (K, "$K$", {"first": 1, "cmap": SIGNED}),
        "=",
        (Y, "$Y$", {"first": 1, "highlight": [(0, 0)], "cmap": SIGNED}),
    ]
)
plt.show()

# %% [markdown]
# ### dL/dK: who multiplies $k_{11}$?
#
# Let the loss $L$ be any function of $Y$, and call its gradient $g_{ij} = \partial L / \partial y_{ij}$. The chain rule
# sums over all paths from $k_{11}$ to $L$, one for each output:
#
# $$ \frac{\partial L}{\partial k_{11}} = \sum_{i,j} g_{ij}\,\frac{\partial y_{ij}}{\partial k_{11}} $$
#
# In the four equations, $k_{11}$ stands next to $x_{11}, x_{12}, x_{21}, x_{22}$; $k_{12}$ next to the same moved one
# to the right, and so on:
#
# $$ \begin{aligned}
# \partial L/\partial k_{11} &= g_{11}x_{11} + g_{12}x_{12} + g_{21}x_{21} + g_{22}x_{22} \\
# \partial L/\partial k_{12} &= g_{11}x_{12} + g_{12}x_{13} + g_{21}x_{22} + g_{22}x_{23} \\
# \partial L/\partial k_{21} &= g_{11}x_{21} + g_{12}x_{22} + g_{21}x_{31} + g_{22}x_{32} \\
# \partial L/\partial k_{22} &= g_{11}x_{22} + g_{12}x_{23} + g_{21}x_{32} + g_{22}x_{33}
# \end{aligned} $$
#
# You have seen this pattern: it is the table of $y_{ij}$ with $g$ in place of $k$. **The gradient of the kernel is the
# valid cross-correlation of the input with the output gradient.**

# %%
(g11, g12), (g21, g22) = G.tolist()
dK = torch.tensor(
    [
        [g11 * x11 + g12 * x12 + g21 * x21 + g22 * x22, g11 * x12 + g12 * x13 + g21 * x22 + g22 * x23],
        [g11 * x21 + g12 * x22 + g21 * x31 + g22 * x32, g11 * x22 + g12 * x23 + g21 * x32 + g22 * x33],
    ],
    dtype=torch.float64,
)
show_row(
    [
        (X, "$X$", {"first": 1, "highlight": [(0, 1, 2, 2)]}),
        "⋆",
        (G, "$G = \\partial L/\\partial Y$", {"first": 1, "cmap": SIGNED}),
        "=",
        (dK, "$\\partial L/\\partial K$", {"first": 1, "highlight": [(0, 1)], "cmap": SIGNED}),
    ]
)
plt.show()

# %% [markdown]
# ### dL/dX: where does $x_{22}$ go?
#
# Now look for a pixel in the four equations. The corner $x_{11}$ occurs once, next to $k_{11}$ in $y_{11}$. The middle
# $x_{22}$ occurs in all four, each time next to *another* weight: in $y_{11}$ it lies under the last weight $k_{22}$,
# in $y_{22}$ under the first, $k_{11}$. As the window moves right, the pixel moves left in it. Hence
#
# $$ \frac{\partial L}{\partial x_{22}} = g_{11}k_{22} + g_{12}k_{21} + g_{21}k_{12} + g_{22}k_{11} $$
#
# The indices of $g$ run forwards, those of $k$ **backwards**: a true convolution. Pixels at the border are in fewer
# windows; put zeros around $G$ and one formula serves all nine. **The gradient of the input is the full convolution of
# the output gradient with the kernel**, that is, the cross-correlation of the padded gradient with the kernel turned by
# 180°.

# %%
dX = torch.tensor(
    [
        [g11 * k11, g11 * k12 + g12 * k11, g12 * k12],
        [g11 * k21 + g21 * k11, g11 * k22 + g12 * k21 + g21 * k12 + g22 * k11, g12 * k22 + g22 * k12],
        [g21 * k21, g21 * k22 + g22 * k21, g22 * k22],
    ],
    dtype=torch.float64,
)
ring = F.pad(G, (1, 1, 1, 1))
show_row(
    [
        (ring, "$G$, padded", {"first": 1, "padding": (1, 1, 1, 1), "cmap": SIGNED, "highlight": [(1, 1, 2, 2)]}),
        "⋆",
        (K.flip(0, 1), "$K$, turned", {"first": 1, "cmap": SIGNED}),
        "=",
        (dX, "$\\partial L/\\partial X$", {"first": 1, "highlight": [(1, 1)], "cmap": SIGNED}),
    ]
)
plt.show()

# %% [markdown]
# ### The same numbers, five times
#
# Nothing is proved by a derivation that nobody runs. Five witnesses that have nothing in common are to confirm it, and
# with it the two convolutions:
#
# 1. your hand, above;
# 2. the plain loops of `torch_convops.reference`;
# 3. the library's own gradient operators, compiled kernels that `backward` calls;
# 4. autograd, through `conv2d` and a loss $L = \sum g_{ij} y_{ij}$, whose gradient with respect to $Y$ is $G$;
# 5. finite differences: move one number by $\pm\varepsilon$ and see what becomes of $L$, knowing nothing of
#    derivatives.

# %%
x4, k4, g4 = (tensor[None, None] for tensor in (X, K, G))  # (N, C, H, W), (K, C, R, S), (N, K, P, Q)
x_leaf, k_leaf = x4.clone().requires_grad_(), k4.clone().requires_grad_()
(conv2d(x_leaf, k_leaf) * g4).sum().backward()


def finite_differences(loss, at: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """Central differences of a function of one tensor, number by number."""
    gradient = torch.zeros_like(at)
    for i in range(at.numel()):
        step = torch.zeros_like(at)
        step.view(-1)[i] = eps
        gradient.view(-1)[i] = (loss(at + step) - loss(at - step)) / (2 * eps)
    return gradient


witnesses = {
    "reference": (reference.conv2d_grad_weight(g4, x4, (2, 2)), reference.conv2d_grad_input(g4, k4, (3, 3))),
    "operators": (ops.conv2d_grad_weight(g4, x4, [2, 2]), ops.conv2d_grad_input(g4, k4, [3, 3])),
    "autograd": (k_leaf.grad, x_leaf.grad),
    "finite differences": (
        finite_differences(lambda k: (conv2d(x4, k) * g4).sum(), k4),
        finite_differences(lambda x: (conv2d(x, k4) * g4).sum(), x4),
    ),
    "convolutions": (correlate2d(X, G, "valid")[None, None], convolve2d(G, K, "full")[None, None]),
}

# %%
assert torch.equal(conv2d(x4, k4)[0, 0], Y)
print(f"{'':20}{'dL/dK':^20}{'dL/dX':^40}{'|difference| from hand':>24}")
print(f"{'by hand':20}{dK.flatten().int().tolist()!s:^20}{dX.flatten().int().tolist()!s:^40}")
for name, (by_kernel, by_input) in witnesses.items():
    error = max((by_kernel[0, 0] - dK).abs().max().item(), (by_input[0, 0] - dX).abs().max().item())
    assert error < 1e-8
    shown = [[round(value) for value in tensor.flatten().tolist()] for tensor in (by_kernel, by_input)]
    print(f"{name:20}{shown[0]!s:^20}{shown[1]!s:^40}{error:24.1e}")

# %% [markdown]
# ### Channels, images, strides
#
# The rest is bookkeeping. Each pair of a filter and a channel has a slice of its own, so sums appear where several
# paths meet: an input channel is read by all $K$ filters, a weight is used by all $N$ images, a bias by every output
# pixel of its filter.
#
# $$ \frac{\partial L}{\partial x_{n,c}} = \sum_{k} g_{n,k} *_{\text{full}} w_{k,c} \qquad
# \frac{\partial L}{\partial w_{k,c}} = \sum_{n} x_{n,c} \star_{\text{valid}} g_{n,k} \qquad
# \frac{\partial L}{\partial b_k} = \sum_{n,p,q} g_{n,k,p,q} $$
#
# A stride $s$ skips positions. To skip them in the gradient too, put $s - 1$ zeros between its pixels: then the same
# formulas hold. For $\partial L/\partial w$ that is a convolution with *dilation* $s$; for $\partial L/\partial x$ it
# is what is called a **transposed convolution**.

# %%
n_images, C, n_filters, s = 2, 3, 4, 2
x = torch.randn(n_images, C, 9, 9, dtype=torch.float64)
w = torch.randn(n_filters, C, 3, 3, dtype=torch.float64)
g = torch.randn(n_images, n_filters, 4, 4, dtype=torch.float64)

spread = torch.zeros(n_images, n_filters, 7, 7, dtype=torch.float64)
spread[:, :, ::s, ::s] = g  # zeros between the pixels

# Filters and channels change places, the kernel is turned, and "full" does the rest.
by_input = conv2d(spread, w.transpose(0, 1).flip(2, 3), padding="full")
# The sum runs over images now: they are the channels of this convolution.
by_weight = conv2d(x.transpose(0, 1), g.transpose(0, 1), dilation=s).transpose(0, 1)

close(by_input, ops.conv2d_grad_input(g, w, [9, 9], [s, s]))
close(by_weight, ops.conv2d_grad_weight(g, x, [3, 3], [s, s]))
close(g.sum((0, 2, 3)), ops.conv2d_grad_bias(g))
print("with channels, images and a stride of 2 the two convolutions are still the two gradients")

# %% [markdown]
# ## 3. Can you trust a gradient?
#
# A forward pass that is wrong gives wrong pictures, and somebody notices. A backward pass that is wrong trains a
# network a little worse, and nobody does. So it is tested against the definition of the derivative.
#
# ### The Jacobian
#
# `gradcheck` compares matrices. The **Jacobian** has a row for each output and a column for each input number, here
# $4 \times 9$: $J_{ij} = \partial y_i / \partial x_j$. Numerically it is filled column by column (move $x_j$, watch all
# outputs); analytically row by row (`backward` from one output at a time). For a convolution you can read the kernel in
# each row, moved along: the matrix whose product with the flattened image *is* the convolution.

# %%
numerical = torch.stack([finite_differences(lambda x, i=i: conv2d(x, k4).flatten()[i], x4).flatten() for i in range(4)])
analytical = torch.autograd.functional.jacobian(lambda x: conv2d(x, k4).flatten(), x4).reshape(4, 9)
close(analytical @ X.flatten(), Y.flatten())

figure, grid = plt.subplots(1, 2, figsize=(9, 2.5))
for axes, values, title in zip(grid, (numerical, analytical), ("numerical", "analytical (backward)"), strict=True):
    show_matrix(axes, values.round(decimals=6), f"{title} Jacobian", cmap=SIGNED, limits=(-4, 4), fontsize=9)
    axes.set_xticks(range(9), [f"$x_{{{h}{w}}}$" for h in (1, 2, 3) for w in (1, 2, 3)])
    axes.set_yticks(range(4), [f"$y_{{{p}{q}}}$" for p in (1, 2) for q in (1, 2)])
plt.show()
print(f"largest difference: {(numerical - analytical).abs().max():.1e}")

# %% [markdown]
# ### Why float64?
#
# A central difference is wrong in two ways. Cut the Taylor series and you lose a term of the order $\varepsilon^2$;
# subtract two almost equal numbers and their rounding, of relative size $u$, is divided by $\varepsilon$:
#
# $$ \text{error} \;\approx\; \underbrace{a\,\varepsilon^2}_{\text{truncation}} \;+\;
# \underbrace{b\,u/\varepsilon}_{\text{rounding}} $$
#
# The first falls and the second grows as $\varepsilon$ shrinks: a V. With float32 ($u \approx 6 \cdot 10^{-8}$) the
# bottom of the V lies at five right digits, for a step between $10^{-3}$ and $10^{-2}$; at `gradcheck`'s step hardly
# one digit is right, which cannot tell a mistake from rounding. With float64 ($u \approx 10^{-16}$) there are ten and
# more. That is why `gradcheck` wants float64, and why every kernel of this library exists in float64 as well.

# %%
direction = torch.randn(1, 1, 3, 3, dtype=torch.float64)


def bent(x: torch.Tensor) -> torch.Tensor:
    """A convolution alone is linear and has no truncation error, so a curve follows it."""
    return torch.tanh(conv2d(x, k4.to(x.dtype)) / 4).sum()


exact = torch.autograd.functional.jvp(bent, x4, direction)[1]
steps = torch.logspace(-12, 0, 49, dtype=torch.float64)
figure, axes = plt.subplots(figsize=(6.5, 3.2))
for dtype, colour in ((torch.float32, VERMILION), (torch.float64, BLUE)):
    at, along = x4.to(dtype), direction.to(dtype)
    slopes = [(bent(at + e.to(dtype) * along) - bent(at - e.to(dtype) * along)).double() / (2 * e) for e in steps]
    errors = ((torch.stack(slopes) - exact) / exact).abs()
    name = str(dtype).removeprefix("torch.")
    axes.loglog(steps, errors.clamp(min=1e-13), "o-", color=colour, markersize=3, label=name)
    print(f"{name}: best relative error {errors.min():.0e} at a step of {steps[errors.argmin()]:.0e}")
axes.axvline(1e-6, color="grey", linestyle="--", linewidth=1, label="gradcheck's step, $10^{-6}$")
axes.set(title="Error of a central difference", xlabel="step $\\varepsilon$", ylabel="relative error", ylim=(1e-13, 10))
axes.legend()
plt.show()

# %% [markdown]
# ### gradcheck
#
# `torch.autograd.gradcheck(f, inputs)` does what you just did: both Jacobians for every input that wants a gradient,
# and it passes where for each entry
#
# $$ |\text{analytical} - \text{numerical}| \;\le\; \texttt{atol} + \texttt{rtol} \cdot |\text{numerical}|
# \qquad \texttt{atol} = 10^{-5},\; \texttt{rtol} = 10^{-3} $$

# %%
x_leaf, k_leaf = x4.clone().requires_grad_(), k4.clone().requires_grad_()
print("conv2d, float64:   ", gradcheck(conv2d, (x_leaf, k_leaf)))
print("and its gradient:  ", gradgradcheck(conv2d, (x_leaf, k_leaf)))


def verdict(f, *inputs, **options) -> str:
    """What gradcheck says: passed, or the first line of its complaint."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # float32 is warned of first
            gradcheck(f, inputs, **options)
    except RuntimeError as error:
        return f"FAILED  {str(error).splitlines()[0]}"
    return "passed"


singles = [tensor.detach().float().requires_grad_() for tensor in (x_leaf, k_leaf)]
print("the same, float32: ", verdict(conv2d, *singles))

# %% [markdown]
# The same correct operator "fails" in float32: its numerical Jacobian is the one that is wrong.
#
# ### A wrong gradient
#
# The classic mistake: the author remembers that the input's gradient is a full convolution with the kernel and forgets
# to turn the kernel. Shapes fit, nothing crashes, training even goes somewhere.


# %%
class ForgotToFlip(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, k):
        ctx.save_for_backward(x, k)
        return conv2d(x, k)

    @staticmethod
    def backward(ctx, g):
        x, k = ctx.saved_tensors
        by_input = conv2d(g, k.transpose(0, 1), padding="full")  # right would be k.transpose(0, 1).flip(2, 3)
        return by_input, ops.conv2d_grad_weight(g, x, k.shape[-2:])


print("forgot to flip:", verdict(ForgotToFlip.apply, x_leaf, k_leaf))

# %%
wrong = torch.autograd.functional.jacobian(lambda x: ForgotToFlip.apply(x, k4).flatten(), x4).reshape(4, 9)
off = (wrong - numerical).abs().gt(1e-3).nonzero().tolist()
figure, grid = plt.subplots(1, 2, figsize=(9, 2.5))
panels = ((numerical, "numerical", []), (wrong, "analytical, forgot to flip", off))
for axes, (values, title, framed) in zip(grid, panels, strict=True):
    look = {"cmap": SIGNED, "limits": (-4, 4), "fontsize": 9}
    show_matrix(axes, values.round(decimals=6), title, highlight=framed, **look)
    axes.set_xticks(range(9), [f"$x_{{{h}{w}}}$" for h in (1, 2, 3) for w in (1, 2, 3)])
    axes.set_yticks(range(4), [f"$y_{{{p}{q}}}$" for p in (1, 2) for q in (1, 2)])
plt.show()
print(f"{len(off)} of 36 entries are wrong (framed): each row holds the kernel backwards")

# %% [markdown]
# ### What gradcheck cannot see
#
# It checks *one point*. Give it a kernel that is its own mirror image and the mistake has no effect there; give it a
# large tolerance and a small mistake hides in it. Below, a correct convolution's gradient is multiplied by
# $1 + \delta$: with the usual tolerances anything under about a thousandth passes. In float64 far tighter ones are
# affordable, because the V of the figure above goes down to $10^{-10}$.

# %%
symmetric = torch.ones(1, 1, 2, 2, dtype=torch.float64, requires_grad=True)
print("forgot to flip, symmetric kernel:", verdict(ForgotToFlip.apply, x_leaf, symmetric), "\n")


def off_by(delta: float):
    """conv2d with its value untouched and its gradient multiplied by 1 + delta."""

    def f(x, k):
        y = conv2d(x, k)
        return y.detach() + (1 + delta) * (y - y.detach())

    return f


print(f"{'delta':>8}   {'default tolerances':20}{'atol = 1e-8, rtol = 1e-7'}")
for delta in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 0.0):
    results = [verdict(off_by(delta), x_leaf, k_leaf, **options) for options in ({}, {"atol": 1e-8, "rtol": 1e-7})]
    print(f"{delta:8.0e}   {results[0].split()[0]:20}{results[1].split()[0]}")

# %% [markdown]
# ## What to take along
#
# - A filter spans all channels because patterns are relations between channels; a layer has many because one filter
#   answers one question. $K\,C\,R\,S + K$ parameters, whatever the size of the image.
# - $\partial L/\partial K$ = valid cross-correlation of input and output gradient. $\partial L/\partial X$ = full
#   convolution of output gradient and kernel. The backward pass of a convolution layer is two more convolutions, which
#   is why it costs about twice the forward pass.
# - Test gradients with `gradcheck`: in float64, at a point without symmetry, with tolerances that you can explain.
#
# **Try it yourself.** (a) Write out $\partial L/\partial x_{12}$ for a stride of 2: which terms are left? (b) Make
# `ForgotToFlip` right and run `gradcheck` again. (c) Forget the sum over images in $\partial L/\partial w$ instead:
# with which $N$ does `gradcheck` find out? (d) `convops check` on the command line runs these checks for every operator
# of the library; how many are there?
