# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Max-pooling: the gradient takes the way the maximum came
#
# Max-pooling has no weights and one rule: *of each window keep the largest value*. All that is interesting about it
# follows from that rule on the way **back**. In this notebook you see
#
# 1. forward and backward on a 4 × 4 example, by hand and by the operators;
# 2. windows that overlap, where gradients add up;
# 3. what happens where the rule does not decide: ties, NaN, −∞;
# 4. what has to be remembered for the way back, in bytes;
# 5. how average-pooling differs;
# 6. what max-pooling is worth as a way to make images smaller, beside a strided 1 × 1 convolution;
# 7. pooling over the whole image.

# %%
from itertools import product

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from figures import PALETTE, grey, outline, photograph, show_image, show_images, show_matrix, show_row, use_style

import torch_convops as tc
from torch_convops import reference

close = torch.testing.assert_close
ops = torch.ops.torch_convops  # the plain operators, the gradients among them
torch.manual_seed(0)
use_style()

# %% [markdown]
# ## 1. Four windows of 2 × 2
#
# $$ y_{p,q} = \max_{0 \le r,s < 2} x_{2p+r,\;2q+s} $$
#
# Where $x$ moves a little, $y_{p,q}$ moves with the *largest* pixel of its window and does not notice the three others:
#
# $$ \frac{\partial y_{p,q}}{\partial x_{h,w}} = \begin{cases} 1 & \text{if } (h,w) \text{ was picked by window } (p,q)
# \\ 0 & \text{otherwise} \end{cases} \qquad\Longrightarrow\qquad
# \frac{\partial L}{\partial x_{h,w}} = \sum_{(p,q)\text{ that picked }(h,w)} \frac{\partial L}{\partial y_{p,q}} $$
#
# So backward needs no arithmetic to speak of: it **routes** each output's gradient to the pixel that was picked. The
# framed pixels get it, all others get exactly 0.

# %%
X = torch.tensor([[1.0, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]], dtype=torch.float64)
G = torch.tensor([[10.0, 20], [30, 40]], dtype=torch.float64)  # dL/dY, handed down by the layer above

x = X[None, None].clone().requires_grad_()  # (N, C, H, W)
y, indices = tc.max_pool2d(x, 2, return_indices=True)
y.backward(G[None, None])
Y, dX = y[0, 0].detach(), x.grad[0, 0]

picked = [divmod(index, 4) for index in indices.flatten().tolist()]
forward = [(X, "$X$", {}), "→", (Y, "$Y$", {}), ""]
backward = [(G, "$\\partial L/\\partial Y$", {}), "→", (dX, "$\\partial L/\\partial X$", {})]
figure = show_row(forward + backward)
for (p, q), pixel, colour in zip(product((0, 1), repeat=2), picked, PALETTE[:4], strict=True):
    outline(figure.axes[0], 2 * p, 2 * q, 2, 2, colour=colour, inset=0.05, linewidth=1.5)
    for axes, cell in zip(figure.axes, (pixel, (p, q), (p, q), pixel), strict=True):
        outline(axes, *cell, colour=colour, inset=0.12)
plt.show()

# %%
# By hand: the largest of each window, and its gradient at that place.
assert Y.tolist() == [[6, 8], [3, 4]]
assert dX.tolist() == [[0, 0, 0, 0], [0, 10, 0, 20], [30, 0, 0, 0], [0, 0, 0, 40]]

# By plain loops, by torch, by finite differences.
values, places = reference.max_pool2d(X[None, None], (2, 2))
assert torch.equal(values, y) and torch.equal(places, indices)
assert torch.equal(reference.max_pool2d_grad_input(G[None, None], places, (4, 4)), x.grad)
x_torch = X[None, None].clone().requires_grad_()
F.max_pool2d(x_torch, 2).backward(G[None, None])
assert torch.equal(x_torch.grad, x.grad)
assert torch.autograd.gradcheck(lambda x: tc.max_pool2d(x, 2), torch.randn_like(x, requires_grad=True))
print(f"hand, reference, torch and gradcheck agree; {int(dX.count_nonzero())} of {dX.numel()} pixels get a gradient")

# %% [markdown]
# ## 2. Overlapping windows: gradients add up
#
# Windows of 3 × 3 with stride 1: four again, but now each pixel of the middle lies in all of them. The 7 is the maximum
# of *two* windows, the upper left and the lower left, and the 8 of the two on the right. The chain rule sums over
# paths: 7 gets $10 + 30$, and 8 gets $20 + 40$. Nothing is lost: the gradients of input and output have the same sum.

# %%
x = X[None, None].clone().requires_grad_()
y, indices = tc.max_pool2d(x, 3, stride=1, return_indices=True)
y.backward(G[None, None])
picked = [divmod(index, 4) for index in indices.flatten().tolist()]
figure = show_row(
    [
        (X, "$X$", {}),
        "→",
        (y[0, 0].detach(), "$Y$, windows of\n3 × 3, stride 1", {}),
        "",
        (G, "$\\partial L/\\partial Y$", {}),
        "→",
        (x.grad[0, 0], "$\\partial L/\\partial X$", {"highlight": set(picked)}),
    ]
)
for (p, q), colour, inset in zip(product((0, 1), repeat=2), PALETTE[:4], (0, 0.06, 0.12, 0.18), strict=True):
    outline(figure.axes[0], p, q, 3, 3, colour=colour, inset=inset, linewidth=1.5)
    for axes in figure.axes[1:3]:
        outline(axes, p, q, colour=colour, inset=0.1)
plt.show()

assert x.grad[0, 0, 1].tolist() == [0, 0, 40, 60]
assert x.grad.sum() == G.sum()

# %% [markdown]
# ## 3. Where the rule does not decide
#
# ### Ties
#
# After a ReLU whole windows are often 0. Which of four equal pixels is *the* largest? The maximum has a kink there:
# push one of the tied pixels up and $y$ follows, push it down and $y$ stays. No single derivative exists; every way to
# share the gradient among the tied pixels is a valid subgradient. One has to choose, and say so:
#
# > **The library's rule: the first of equal maxima in row-major order**, on every device, for every window, at every
# > number of threads.
#
# PyTorch's `max_pool2d` on the CPU does the same. `torch.amax` chooses otherwise, it gives equal shares.

# %%
T = torch.tensor([[0.0, 0, 5, 1], [0, 0, 1, 5], [2, 3, 0, 7], [3, 3, 7, 7]], dtype=torch.float64)
ones = torch.ones(1, 1, 2, 2, dtype=torch.float64)


def gradient(function, image, grad_output=ones):
    x = image[None, None].clone().requires_grad_()
    function(x).backward(grad_output)
    return x.grad[0, 0]


first = gradient(lambda x: tc.max_pool2d(x, 2), T)
shares = gradient(lambda x: x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5)), T)
assert torch.equal(first, gradient(lambda x: F.max_pool2d(x, 2), T))
figure = show_row(
    [
        (T, "$X$ with a tie in every window", {}),
        (first, "gradient of max_pool2d:\nthe first in row-major order", {"limits": (0, 1.5)}),
        (shares, "gradient of amax:\nequal shares", {"limits": (0, 1.5)}),
    ]
)
for p, q in product((0, 2), repeat=2):
    for axes in figure.axes:
        outline(axes, p, q, 2, 2, linewidth=1.2, colour="black")
plt.show()

# %% [markdown]
# The kink is visible to finite differences: they find slope 1 to the right of a tie, 0 to the left, and a central
# difference takes the middle, ½. So `gradcheck` refuses ties, rightly; tests of a max-pool draw inputs whose values are
# apart.

# %%
eps = 1e-6
tied = torch.zeros(2, 2, dtype=torch.float64)
bump = torch.tensor([[eps, 0], [0, 0]], dtype=torch.float64)
up, down = (tc.max_pool2d((tied + sign * bump)[None], 2).item() for sign in (1, -1))
print(f"slope to the right {up / eps:.1f}, to the left {0 - down / eps:.1f}, central {(up - down) / (2 * eps):.1f}")
for name, image in (("ties", torch.zeros(1, 1, 4, 4)), ("no ties", torch.randperm(16).reshape(1, 1, 4, 4))):
    ok = torch.autograd.gradcheck(lambda x: tc.max_pool2d(x, 2), image.double().requires_grad_(), raise_exception=False)
    print(f"gradcheck with {name}: {'passed' if ok else 'failed'}")

# %% [markdown]
# ### NaN and −∞
#
# $\text{NaN} > 3$ is false, and so is $3 > \text{NaN}$. A pooling that only compares would drop a NaN or keep it
# depending on where in the window it lies, and hide for a while that something went wrong. The rule: **a NaN beats
# every number**, and of several the *last* stays, as in PyTorch. A window of nothing but $-\infty$ (an attention mask,
# say) picks its first pixel.

# %%
nan, inf = float("nan"), float("inf")
S = torch.tensor([[nan, 1, 3, nan], [2, 9, nan, 2], [-inf, -inf, inf, 1], [-inf, -inf, 2, 3]], dtype=torch.float64)
y = tc.max_pool2d(S[None, None], 2)[0, 0]
routed = gradient(lambda x: tc.max_pool2d(x, 2), S)
figure = show_row([(S, "$X$", {}), "→", (y, "$Y$", {}), "", (routed, "gradient", {"limits": (0, 1.5)})])
for p, q in product((0, 2), repeat=2):
    for axes in figure.axes[::2]:
        outline(axes, p, q, 2, 2, linewidth=1.2, colour="black")
plt.show()

assert torch.equal(routed, gradient(lambda x: F.max_pool2d(x, 2), S))
assert routed.nonzero().tolist() == [[0, 0], [1, 2], [2, 0], [2, 2]]

# %% [markdown]
# ## 4. What has to be remembered
#
# The way back needs to know who was picked, and nothing else: neither the input nor the output. Within a window of
# 2 × 2 there are four possibilities, so *one byte* per output is plenty; it is for every window up to 16 × 16. The
# operator saves the **offset** $r\,S + s$ of the winner in its window; the usual plane index $h\,W + w$ follows from it
# when somebody asks.

# %%
_, offsets = ops.max_pool2d_with_offsets(X[None, None], [2, 2])
_, indices = tc.max_pool2d(X[None, None], 2, return_indices=True)
show_row(
    [
        (X, "$X$", {"highlight": [(1, 1), (1, 3), (2, 0), (3, 3)]}),
        (offsets[0, 0], f"offsets in the window,\n{offsets.dtype}".replace("torch.", ""), {}),
        (indices[0, 0], f"indices in the plane,\n{indices.dtype}".replace("torch.", ""), {}),
    ]
)
plt.show()

# %% [markdown]
# Do not take it on trust. PyTorch lets you watch every tensor that a forward pass saves:
# `torch.autograd.graph.saved_tensors_hooks`. Count the bytes, ours against `torch.nn.functional`, for a layer of 8
# images, 64 channels, 56 × 56 pixels in float32. (PyTorch's input may be alive anyway, if the layer before it keeps its
# output, as a ReLU does. Its eight bytes an index are not.)

# %%
layer = torch.randn(8, 64, 56, 56, requires_grad=True)
pools = {
    "max 2 × 2, stride 2": lambda m, x: m.max_pool2d(x, 2),
    "max 3 × 3, stride 2": lambda m, x: m.max_pool2d(x, 3, 2, 1),
    "average 2 × 2, stride 2": lambda m, x: m.avg_pool2d(x, 2),
    "adaptive max 7 × 7": lambda m, x: m.adaptive_max_pool2d(x, 7),
    "adaptive average 7 × 7": lambda m, x: m.adaptive_avg_pool2d(x, 7),
}


def saved_bytes(function) -> int:
    """What the function's forward pass keeps for backward; a storage that is saved twice counts once."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = function()  # alive until the count is done
    return sum(storages.values()) if output is not None else 0


ours, torchs = ([saved_bytes(lambda p=p, m=m: p(m, layer)) for p in pools.values()] for m in (tc, F))

# %%
figure, axes = plt.subplots(figsize=(7.5, 3))
rows = torch.arange(len(pools))
for saved, shift, colour, label in ((torchs, -0.2, PALETTE[3], "torch"), (ours, 0.2, PALETTE[0], "torch_convops")):
    bars = axes.barh(rows + shift, [b / 1e6 for b in saved], 0.38, color=colour, label=label)
    axes.bar_label(bars, [f"{b / 1e6:.2f}" for b in saved], padding=3, fontsize=9)
axes.set_yticks(rows, list(pools))
axes.invert_yaxis()
axes.set(title=f"Saved for backward; the input has {layer.nbytes / 1e6:.2f} MB", xlabel="saved (MB)", xlim=(0, 11))
axes.legend()
plt.show()

for name, a, b in zip(pools, ours, torchs, strict=True):
    print(f"{name:25} torch {b:9,} bytes   ours {a:9,} bytes   " + (f"{b / a:.0f} times" if a else "nothing to save"))
assert ours[0] == tc.max_pool2d(layer, 2).numel()  # one byte an output

# %% [markdown]
# ## 5. The average hands its gradient to everybody
#
# Average-pooling is linear, $y = \frac{1}{4}\sum x$. Its derivative is ¼ for every pixel of the window whatever the
# pixels are, so nothing needs to be saved, and each pixel gets a quarter of its window's gradient.
#
# Compare the two as *teachers*. Max-pooling tells one pixel of each window everything and the others nothing; averaging
# tells all of them the same, and little.

# %%
spread = gradient(lambda x: tc.avg_pool2d(x, 2), X, G[None, None])
assert torch.equal(spread, reference.avg_pool2d_grad_input(G[None, None], (4, 4), (2, 2))[0, 0])
assert spread.sum() == dX.sum() == G.sum()
show_row(
    [
        (G, "$\\partial L/\\partial Y$", {"limits": (0, 70)}),
        (dX, "$\\partial L/\\partial X$ of max_pool2d", {"limits": (0, 70)}),
        (spread, "$\\partial L/\\partial X$ of avg_pool2d", {"limits": (0, 70)}),
    ]
)
plt.show()

# %% [markdown]
# On a photograph, with windows of 8 × 8 and a gradient of 1 for every output: max-pooling's gradient goes to the dots,
# the brightest pixel of each window. In the cloth they sit on its light threads. In the plain background chance has a
# say: the brightest grain of noise wins.

# %%
scene = grey(photograph(5, 64))
last = torch.ones(1, 1, 8, 8)
grads = [gradient(pool, scene, last) for pool in (lambda x: tc.max_pool2d(x, 8), lambda x: tc.avg_pool2d(x, 8))]
figure, grid = plt.subplots(1, 3, figsize=(9, 3.4))
show_image(grid[0], scene, "brightest pixel of each 8 × 8 window")
rows, columns = grads[0].nonzero(as_tuple=True)
grid[0].plot(columns, rows, "o", color=PALETTE[1], markersize=3.5)
for edge in range(0, 65, 8):
    grid[0].axhline(edge - 0.5, color="white", linewidth=0.5)
    grid[0].axvline(edge - 0.5, color="white", linewidth=0.5)
show_image(grid[1], grads[0], "gradient of max_pool2d: 0 or 1", cmap="Blues", limits=(0, 1))
show_image(grid[2], grads[1], f"gradient of avg_pool2d: 1/64 = {1 / 64:.3f}", cmap="Blues", limits=(0, 1))
plt.show()
for name, g in zip(("max", "average"), grads, strict=True):
    print(f"{name:8} gradient reaches {int(g.count_nonzero()):4} of {g.numel()} pixels, sum {g.sum():.0f}")

# %% [markdown]
# ## 6. Making images smaller: max-pooling or a strided 1 × 1 convolution?
#
# Networks halve their resolution several times. A 2 × 2 max-pool does it, and so does a 1 × 1 convolution with stride
# 2, as on the shortcuts of ResNet. They cost differently:

# %%
C, height, width = 64, 56, 56
outputs = C * (height // 2) * (width // 2)
x = torch.randn(1, C, height, width, requires_grad=True)
w = torch.randn(C, C, 1, 1, requires_grad=True)
costs = {  # multiplications, comparisons or additions, of each output value; weights of the layer
    "max_pool2d 2 × 2": (0, 3, 0, lambda: tc.max_pool2d(x, 2)),
    "avg_pool2d 2 × 2": (1, 3, 0, lambda: tc.avg_pool2d(x, 2)),
    "conv2d 1 × 1, stride 2": (C, C - 1, C * C, lambda: tc.conv2d(x, w, stride=2)),
}
print(f"one image of {C} channels, {height} × {width} pixels; thousands of operations\n")
print(f"{'':24}{'multiply':>9}{'compare, add':>14}{'weights':>9}{'saved (kB)':>12}{'pixels that matter':>20}")
for name, (multiply, other, weights, run) in costs.items():
    (reached,) = torch.autograd.grad(run().square().sum(), x)
    share = reached.count_nonzero().item() / reached.numel()
    operations = f"{outputs * multiply / 1e3:9,.0f}{outputs * other / 1e3:14,.0f}"
    print(f"{name:24}{operations}{weights:9,}{saved_bytes(run) / 1e3:12,.0f}{share:20.0%}")

# %% [markdown]
# The convolution mixes channels, which is what its cost buys; poolings treat each channel alone. But look at the last
# column. The strided 1 × 1 convolution reads **one pixel of four, always the same ones**, and the other three quarters
# of the layer below were computed for nobody: they influence nothing and get no gradient, in any image. Max-pooling
# also reaches one pixel of four, but the *image* decides which. An average reaches all of them, and so does a blur,
# unevenly at the border, where it sees some pixels twice by reflection. (ResNet-D puts a 2 × 2 average in front of its
# 1 × 1 shortcuts for this very reason.)

# %%
noise = torch.randperm(64).reshape(8, 8).double()
one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
ways = {
    "conv2d 1 × 1, stride 2": lambda x: tc.conv2d(x, one.to(x.dtype), stride=2),
    "max_pool2d": lambda x: tc.max_pool2d(x, 2),
    "avg_pool2d": lambda x: tc.avg_pool2d(x, 2),
    "blur_pool2d 3 × 3": lambda x: tc.blur_pool2d(x, 3),
}
figure, grid = plt.subplots(1, 4, figsize=(9, 2.6))
for (name, down), axes in zip(ways.items(), grid, strict=True):
    reached = gradient(down, noise, torch.ones(1, 1, 4, 4, dtype=torch.float64))
    fractions = [[f"{value:.2g}".replace("0.", ".") if value else "" for value in row] for row in reached.tolist()]
    show_matrix(axes, reached, name, limits=(0, 1.6), text=fractions, fontsize=8)
    axes.set(xticks=[], yticks=[])
figure.suptitle("gradient of the sum of all outputs, over an image of 8 × 8 distinct values", fontsize=10)
plt.show()

# %% [markdown]
# ### What is lost
#
# Three test images, halved in four ways.
#
# - **Rings** become finer outwards, up to the finest that pixels can show. Half as many pixels cannot hold them; the
#   honest answer is grey. A stride without a filter shows *other rings instead*, which are not in the image: aliasing.
#   Max-pooling aliases too and brightens everything that is fine. The average damps; the blur of `blur_pool2d` (a
#   low-pass filter ahead of the stride) damps more.
# - **Lines** of one pixel, bright and dark, vertical ones on an even and on an odd column. The stride keeps what lies
#   on even columns and *loses the rest without a trace*. Max-pooling keeps every bright line, at double width, and
#   erases every dark one. The average keeps all of them, at half the contrast.
# - **The photograph** forgives much, which is why the others are worth looking at.

# %%
n = 128
axis = torch.arange(n) - (n - 1) / 2
rings = 0.5 + 0.5 * torch.cos(torch.pi * (axis[:, None] ** 2 + axis**2) / n)
lines = torch.full((n, n), 0.5)
BRIGHT, DARK = (20, 33), (94, 107)  # an even and an odd column each
for columns, value in ((BRIGHT, 1.0), (DARK, 0.0)):
    lines[8:-8, list(columns)] = value
steps_ = torch.arange(40)
lines[24 + 2 * steps_, 44 + steps_] = 1
lines[25 + 2 * steps_, 44 + steps_] = 1
picture = grey(photograph(2))

figure, grid = plt.subplots(3, 5, figsize=(9, 6.2))
for original, row in zip((rings, lines, picture), grid, strict=True):
    show_image(row[0], original, limits=(0, 1))
    for down, axes in zip(ways.values(), row[1:], strict=True):
        show_image(axes, down(original[None, None])[0, 0], limits=(0, 1))
for axes, name in zip(grid[0], ("original", *ways), strict=True):
    axes.set_title(name)
plt.show()

# %% [markdown]
# In numbers: how much of a line's contrast (0.5 in the original) is left, for each of the four vertical lines?

# %%
print(f"{'':24}{'bright, even':>14}{'bright, odd':>14}{'dark, even':>14}{'dark, odd':>14}")
left = {}
for name, down in ways.items():
    small = down(lines[None, None])[0, 0, 50]  # a row that no diagonal crosses near the lines
    left[name] = [(small[c // 2 - 1 : c // 2 + 2] - 0.5).abs().max().item() for c in (*BRIGHT, *DARK)]
    print(f"{name:24}" + "".join(f"{value:14.3f}" for value in left[name]))
assert left["conv2d 1 × 1, stride 2"] == [0.5, 0, 0.5, 0]
assert left["max_pool2d"] == [0.5, 0.5, 0, 0]
assert left["avg_pool2d"] == [0.25] * 4

# %% [markdown]
# ## 7. Global pooling, and what lies between average and maximum
#
# At the end of a classifier a window as large as the image turns each feature map into one number: `global_avg_pool2d`,
# `global_max_pool2d`. The output has $C$ numbers for an image of *any* size, which is what lets the same classifier
# read 96 × 96 and 128 × 160.

# %%
for size in ((96, 96), (128, 160)):
    features = torch.randn(1, 64, *size)
    print(size, "->", tuple(tc.global_avg_pool2d(features).shape), tuple(tc.global_max_pool2d(features).shape))

# %% [markdown]
# The average asks *how much of it is there*, the maximum *is it anywhere*. They are the ends of one family, the
# $p$-norms $y = (\sum x^p)^{1/p}$ of `lp_pool2d`: up to a factor $p = 1$ is the average, and $p \to \infty$ the
# maximum. The gradient $\partial y/\partial x_{h,w} = (x_{h,w}/y)^{p-1}$ goes from *everybody alike* to *winner takes
# all*. The feature map below is a photograph's redness; each gradient is divided by its largest value, and a frame
# marks the one pixel that the maximum reaches.

# %%
colour = photograph(9, 64)
redness = (colour[0] - colour[1:].mean(0)).clamp(min=0.02)
unit = torch.ones(1, 1, 1, 1)
norms = {f"$p = {p}$": gradient(lambda x, p=p: tc.lp_pool2d(x, p, 64), redness, unit) for p in (1, 2, 4, 16)}
shown = {"redness": redness / redness.max(), **norms, "maximum": gradient(tc.global_max_pool2d, redness, unit)}
figure = show_images([g / g.max() for g in shown.values()], list(shown), cmap="viridis", limits=(0, 1))
winner = divmod(int(redness.argmax()), 64)
outline(figure.axes[-1], winner[0] - 3, winner[1] - 3, 7, 7, colour="white", linewidth=1)
plt.show()

assert torch.allclose(norms["$p = 1$"], torch.ones(64, 64))
assert shown["maximum"].count_nonzero() == 1 and shown["maximum"].argmax() == redness.argmax()
average = gradient(tc.global_avg_pool2d, redness, unit)
close(average, norms["$p = 1$"] / 64**2)
for name, g in shown.items():
    print(f"{name:10} pixels with at least half of the largest gradient: {int((g >= g.max() / 2).sum()):5}")

# %% [markdown]
# ## What to take along
#
# - Max-pooling's backward pass is routing: each output's gradient goes to the pixel that was picked; overlapping
#   windows add up; everybody else gets 0.
# - A rule must say who is picked in a tie, and what NaN does. Here: the first maximum in row-major order; NaN wins.
# - One byte an output is all there is to remember. Average-pooling has nothing to remember.
# - A strided 1 × 1 convolution ignores three pixels of four wherever they are; max-pooling keeps what is bright;
#   averages and blurs keep what is large. Choose by what your images must not lose.
#
# **Try it yourself.** (a) In section 2, which gradient does the 8 get if the stride is 2 and `padding=1`? (b) Find an
# image on which max-pooling and the strided convolution give the same output but different gradients. (c) How many
# bytes an output does a window of 17 × 17 need, and why? Measure. (d) Replace the max in section 6 by a *minimum*
# without writing a new operator. Which lines survive?
