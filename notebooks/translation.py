# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Translation: what moves with the picture, and what stays
#
# A cat is a cat on the left of the picture and on the right. Two properties make a network see that, and they are easy
# to mix up. Write $T_d$ for "move the picture by $d$ pixels":
#
# - **equivariance**: $f(T_d\,x) = T_d\,f(x)$. The answer *moves along*. That is what a convolution does.
# - **invariance**: $f(T_d\,x) = f(x)$. The answer *stays*. That is what a classifier should do in the end.
#
# Textbooks say that convolutional networks have both. Here you measure how far that is true: to the last digit for a
# convolution, up to the border of the image, not at all across a stride, unless somebody takes care. At the end a
# detector finds a cat wherever it hides.
#
# The measure is the relative error
#
# $$ e(d) = \frac{\lVert f(T_d\,x) - T_{d/s}\,f(x) \rVert}{\lVert f(x) \rVert} $$
#
# where $s$ is the stride of $f$: of an output with half as many pixels, a picture that moves by one moves the answer by
# half a pixel. Moving by half a pixel is not a figure of speech: `fourier_shift` reads the image's own waves off
# between the pixels.

# %%
import math

import figures
import matplotlib.pyplot as plt
import numpy as np
import torch
from figures import BLUE, GREEN, GREY, ORANGE, SIGNED, VERMILION, outline, show_image, show_matrix
from PIL import Image, ImageDraw
from torch import nn

from torch_convops import avg_pool2d, blur_pool2d, conv2d, correlate2d, max_pool2d
from torch_convops import nn as layers
from torch_convops.apparel import synthetic_data
from torch_convops.apparel.data import Split, normalize
from torch_convops.equivariance import (
    consistency_curve,
    equivariance_errors,
    equivariance_map,
    shift,
    shift_consistency,
)
from torch_convops.equivariance.plots import draw_consistency_curves, draw_error_curves

torch.manual_seed(0)
figures.use_style()

# %% [markdown]
# ## 1. A convolution moves with its input
#
# Two ways lead from the photograph to the same answer. Along the top: first filter, then move. Along the bottom: first
# move, then filter. What leaves on the right comes in again on the left (`padding_mode="circular"`), so that no border
# disturbs.

# %%
photo = figures.grey(figures.photograph(5, 96)).double()[None, None]
t = torch.arange(-3.0, 4.0, dtype=torch.float64)
bell = torch.exp(-(t**2) / 4)
edge = torch.outer(bell, t * bell)[None, None]
edge /= edge.abs().sum()


def filtered(x: torch.Tensor, padding_mode: str = "circular") -> torch.Tensor:
    return conv2d(x, edge.to(x), padding="same", padding_mode=padding_mode)


d = (12, 30)
moved = shift(photo, d)
one_way, other_way = filtered(moved), shift(filtered(photo), d)
figure, grid = plt.subplots(2, 3, figsize=(9, 6.2))
show_image(grid[0, 0], photo[0], "$x$, a photograph")
show_image(grid[0, 1], filtered(photo)[0], "$f(x)$: first filter …", cmap=SIGNED, limits=(-0.2, 0.2))
show_image(grid[0, 2], other_way[0], "… then move: $T\\,f(x)$", cmap=SIGNED, limits=(-0.2, 0.2))
show_image(grid[1, 0], moved[0], f"$T\\,x$: first move, {d[0]} down, {d[1]} right …")
show_image(grid[1, 1], one_way[0], "… then filter: $f(T\\,x)$", cmap=SIGNED, limits=(-0.2, 0.2))
show_image(grid[1, 2], (one_way - other_way)[0], "difference of the two", cmap=SIGNED, limits=(-0.2, 0.2))
plt.show()
assert (one_way - other_way).abs().max() < 1e-14

# %% [markdown]
# The difference is empty. Is it *exactly* empty? And what about half a pixel? Each row below is one shift, each column
# one precision, and every number is a relative error, to be compared with the rounding of that precision: $10^{-16}$
# for float64, $6\cdot 10^{-8}$ for float32.

# %%
SHIFTS = [(1, 0), (0, 7), (-20, 33), (0.5, 0), (0.25, -3.75), (math.pi, math.e)]
exact = equivariance_errors(filtered, photo, SHIFTS).errors
single = equivariance_errors(filtered, photo.float(), SHIFTS).errors
print(f"{'down':>8}{'right':>8}{'float64':>12}{'float32':>12}")
for (down, right), a, b in zip(SHIFTS, exact, single, strict=True):
    print(f"{down:8.2f}{right:8.2f}{a:12.1e}{b:12.1e}")
assert max(exact) < 1e-14 and max(single) < 1e-5

# %% [markdown]
# For whole pixels not even a rounding differs: the same products are added in the same order, one place further on.
# And it holds for parts of a pixel too. The reason is one line: in the Fourier domain a convolution *multiplies* each
# wave by a number, and so does a shift; and numbers may be multiplied in either order.
#
# ## 2. Where borders break it
#
# Real photographs do not continue on the other side. Every other border makes something up, and what it makes up does
# not move along. The maps show *where* in the output the error of one shift (8 down, 14 right) arises, for a filter
# that answers to spots and edges of every direction: along the border, and along the seam that the shift brought into
# the picture, each as far as the filter reaches, 3 pixels.

# %%
by, reach = (8, 14), 3
spot = torch.outer(bell, bell) / bell.sum() ** 2
spot -= spot.mean()
MODES = ("zeros", "replicate", "reflect", "circular")


def spots(padding_mode: str):
    return lambda x: conv2d(x, spot[None, None], padding="same", padding_mode=padding_mode)


maps = [equivariance_map(spots(mode), photo, by) for mode in MODES]
figure, grid = plt.subplots(1, 4, figsize=(9, 2.9))
for mode, error, axes in zip(MODES, maps, grid, strict=True):
    show_image(axes, error, mode, cmap="magma", limits=(0, 3))
    frame = (by[0] + reach, by[1] + reach, 96 - by[0] - 2 * reach, 96 - by[1] - 2 * reach)
    outline(axes, *frame, colour=GREEN, linewidth=1)
bar = figure.colorbar(grid[0].images[0], ax=grid, shrink=0.7, extend="max")
bar.set_label("error over the output's\nroot mean square")
plt.show()

# %%
for mode, error in zip(MODES, maps, strict=True):
    inside = error[by[0] + reach : -reach, by[1] + reach : -reach]
    kept = equivariance_errors(spots(mode), photo, [by], margin=reach + max(by)).worst
    whole = float(error.square().mean().sqrt())
    print(f"{mode:10} error {whole:.3f}; inside the frame at most {inside.max():.0e}; with a margin of 17 {kept:.0e}")
    assert inside.max() < 1e-13 and kept < 1e-13 and (whole > 0.1) == (mode != "circular")

# %% [markdown]
# Inside the green frame, whose every window sees nothing but the photograph, all four are exact. Zeros are the worst:
# a black frame is an edge like any other, and the filter looks for edges. (With circular borders the seam is an edge
# too, but it *moves along*.) The border is a small part of a large picture, and a large part of a small one: after a
# few layers with strides, a feature map of 4 × 4 pixels is nearly all border.
#
# ## 3. Max-pooling: invariant within its window
#
# The maximum of a window does not say where in the window it was. So when a bright pixel moves, and stays within its
# 2 × 2 window, the output does not notice. When it steps over the edge, the output moves by a whole pixel at once.

# %%
figure, grid = plt.subplots(2, 5, figsize=(9, 2.8))
before = None
for step, (above, below) in enumerate(grid.T):
    x = torch.zeros(1, 1, 4, 8)
    x[..., 1, 1 + step] = 1
    y = max_pool2d(x, 2)
    show_matrix(above, x[0, 0], f"pixel in column {1 + step}", limits=(0, 1.4), text=[[""] * 8] * 4)
    same = before is not None and torch.equal(y, before)
    title = "output" if before is None else "output: unchanged" if same else "output: moved"
    show_matrix(below, y[0, 0], title, limits=(0, 1.4), text=[[""] * 4] * 2)
    below.title.set_color("black" if before is None else GREEN if same else VERMILION)
    for row in range(0, 4, 2):
        for column in range(0, 8, 2):
            outline(above, row, column, 2, 2, colour=GREY, linewidth=1)
    before = y
    assert step == 0 or same == (step % 2 == 0)
plt.show()

# %% [markdown]
# Count it: put a pixel anywhere, move it one to the right, and ask whether the output changed. With windows $w$ wide it
# should survive in $w - 1$ of $w$ places. A photograph is less patient, because *every* pixel of it moves: an output
# stays only if its maximum lies where the window at its old place and the one at its new place overlap, and is the
# maximum of both.

# %%
print(f"{'window':>8}{'one pixel':>12}{'(w-1)/w':>10}{'photograph':>12}{'noise':>9}{'(w-1)/(w+1)':>13}")
noise = torch.rand(1, 1, 240, 240, dtype=torch.float64)
for w in (2, 3, 4, 6):
    dots = torch.eye(48).view(48, 1, 1, 48)  # one picture for each place
    kept = (max_pool2d(shift(dots, (0, 1)), (1, w)) == max_pool2d(dots, (1, w))).all(3).double().mean().item()
    shares = []
    for x in (photo, noise):
        shares.append((max_pool2d(shift(x, (0, 1)), (1, w)) == max_pool2d(x, (1, w))).double().mean().item())
    print(f"{w:8}{kept:12.3f}{(w - 1) / w:10.3f}{shares[0]:12.3f}{shares[1]:9.3f}{(w - 1) / (w + 1):13.3f}")
    assert abs(kept - (w - 1) / w) < 1e-12 and abs(shares[1] - (w - 1) / (w + 1)) < 0.02

# %% [markdown]
# So pooling buys *some* invariance for moves smaller than its window. It does not buy equivariance. What spoils that is
# not the maximum but the **stride**: taking windows two pixels apart.

# %%
photos = torch.stack([figures.grey(figures.photograph(n, 64)).double() for n in range(6)])[:, None]
photos -= photos.mean((2, 3), keepdim=True)


def wrapped(x: torch.Tensor, n: int = 1) -> torch.Tensor:
    """n columns and rows of the other side, below and to the right."""
    return nn.functional.pad(x, (0, n, 0, n), mode="circular")


STEPS = [(0, 1), (0, 2), (0, 3), (0, 4)]
rows = {
    "max-pool 2 × 2, stride 1": equivariance_errors(lambda x: max_pool2d(wrapped(x), 2, 1), photos, STEPS),
    "max-pool 2 × 2, stride 2": equivariance_errors(lambda x: max_pool2d(x, 2), photos, STEPS),
    "every second pixel": equivariance_errors(lambda x: x[..., ::2, ::2], photos, STEPS),
}
print(f"{'equivariance error, moved right by':36}" + "".join(f"{right:>6} px" for _, right in STEPS))
for name, result in rows.items():
    print(f"{name:36}" + "".join(f"{error:9.3f}" for error in result.errors))
assert rows["max-pool 2 × 2, stride 1"].worst == 0
for name in ("max-pool 2 × 2, stride 2", "every second pixel"):
    assert rows[name].errors[1] == rows[name].errors[3] == 0 < 0.05 < min(rows[name].errors[::2])

# %% [markdown]
# With stride 1: exactly zero, for every whole pixel. With stride 2: exactly zero for *even* moves and wrong for odd
# ones. The grid of the output has two ways to lie on the picture, and they show different pictures.
#
# ## 4. Why: aliasing
#
# What does a stride of 2 do to a wave? Left: a wave of 0.4 oscillations per pixel. Keep every second sample, and the
# samples lie on a wave of 0.1 just as well. From what is left nobody can tell which it was; this *alias* moves
# differently from what it stands for. Middle: stripes of period 2, the fastest that pixels can show. Every second pixel
# sees either only white or only black: one step of one pixel turns the whole output over. Right: how much of each wave
# gets through. All that is right of the dashed line (0.25 oscillations per pixel) has no place on the coarse grid and
# comes out as something else.


# %%
def draw_alias(axes) -> None:
    i, fine = torch.arange(21), torch.linspace(0, 20, 600)
    fast, alias = (lambda at, f=f: torch.cos(2 * math.pi * f * at) for f in (0.4, 0.1))
    torch.testing.assert_close(fast(i[::2]), alias(i[::2]))
    axes.plot(fine, fast(fine), color=GREY, linewidth=0.8, label="0.4 per pixel")
    axes.plot(fine, alias(fine), color=VERMILION, label="its alias, 0.1")
    axes.plot(i, fast(i), ".", color=GREY, markersize=5)
    axes.plot(i[::2], fast(i[::2]), "o", color=BLUE, markersize=5, label="every second pixel")
    axes.set(title="A wave and its alias", xlabel="pixel", ylabel="value", ylim=(-1.15, 2.6), xticks=range(0, 21, 4))
    axes.legend(loc="upper left", fontsize=8)


def draw_stripes(axes) -> None:
    stripes = torch.tensor([1.0, 0.0]).repeat(5)
    rows = [row for x in (stripes, stripes.roll(1)) for row in (x, x[::2].repeat_interleave(2))]
    axes.imshow(torch.stack(rows), aspect="auto", cmap="cividis")
    for between in (0.5, 1.5, 2.5):
        axes.axhline(between, color="white", linewidth=4 if between == 1.5 else 1.5)
    axes.set_yticks(range(4), ["stripes", "stride 2", "moved\nby 1 pixel", "stride 2"])
    axes.set(title="Stripes that vanish", xlabel="pixel", xticks=range(0, 10, 2))


# %%
def draw_passing(axes, n: int = 128) -> None:
    """What is left of a wave, measured on all waves that n pixels hold, each at two phases a quarter apart."""
    frequency = torch.arange(n // 2 + 1, dtype=torch.float64) / n
    angle = 2 * math.pi * frequency[:, None] * torch.arange(n)
    waves = torch.stack([angle.cos(), angle.sin()], 1)[:, :, None].expand(-1, -1, 4, -1).contiguous()
    for label, colour, size in (("every second pixel", GREY, 1), ("blur of 3", ORANGE, 3), ("blur of 4", BLUE, 4)):
        left = blur_pool2d(waves, size, 2, "circular")[:, :, 0].square().sum(1).mean(1).sqrt()
        torch.testing.assert_close(left, torch.cos(math.pi * frequency) ** (size - 1), atol=1e-12, rtol=0)
        axes.plot(frequency, left, color=colour, label=label)
    axes.plot([0.25, 0.25], [0, 1.02], color="black", linestyle="--", linewidth=0.8)
    axes.text(0.26, 0.03, "aliases", fontsize=8)
    axes.set(title="What a stride of 2 lets through", xlabel="oscillations per pixel", ylabel="amplitude left (of 1)")
    axes.set_ylim(0, 1.45)
    axes.legend(loc="upper right", fontsize=8)


figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9, 3.2), width_ratios=(1.3, 1, 1.2))
draw_alias(left)
draw_stripes(middle)
draw_passing(right)
plt.show()

# %% [markdown]
# The remedy is as old as digital sound: take the fast waves out *before* the stride. `blur_pool2d` does so with a small
# binomial filter, $(1, 3, 3, 1)/8$ along each axis for a size of 4, and the measured curves are
# $\cos(\pi\nu)^{\,\text{size} - 1}$ for $\nu$ oscillations per pixel, as the algebra says. It is a compromise: some of
# what could stay is dimmed, some of what should go gets through.
#
# In two dimensions there is a picture for it. The zone plate's rings get finer outwards until, at the middle of each
# side, they change with every pixel. Take every second pixel, and new rings appear that were never there:

# %%
at = torch.arange(-80, 80, dtype=torch.float64)
plate = (0.5 + 0.5 * torch.cos(math.pi * (at[:, None] ** 2 + at**2) / 160))[None, None]
figure, grid = plt.subplots(1, 3, figsize=(9, 3.4))
show_image(grid[0], plate[0], "zone plate", limits=(0, 1))
show_image(grid[1], plate[0, :, ::2, ::2], "every second pixel", limits=(0, 1))
show_image(grid[2], blur_pool2d(plate, 4)[0], "blur_pool2d, size 4", limits=(0, 1))
plt.show()

# %% [markdown]
# The spectrum tells where such ghosts come from. Here is a woven cloth: broad folds, and a fine diagonal thread of
# (0.36, 0.14) oscillations per pixel down and across, all counted in pixels of the cloth. A disc is a wave, its area
# the wave's amplitude, and each wave of a real image has a twin on the other side. The coarse grid has room for what is
# inside the dashed square. Every second pixel: the thread folds back to (−0.14, 0.14), where nothing was, and the cloth
# has coarse stripes that run the *other* way. With the blur before the stride they all but vanish.

# %%
rows, columns = torch.meshgrid(torch.arange(100.0), torch.arange(100.0), indexing="ij")
folds = torch.cos(2 * math.pi * (0.02 * rows + 0.03 * columns))
thread = torch.cos(2 * math.pi * (0.36 * rows + 0.14 * columns))
cloth = (0.5 + 0.2 * folds + 0.25 * thread).double()[None, None]
PANELS = {
    "cloth": cloth,
    "every second pixel": cloth[..., ::2, ::2],
    "blur_pool2d, size 4": blur_pool2d(cloth, 4, 2, "circular"),
}
figure, grid = plt.subplots(2, 3, figsize=(9, 6.4))
ghosts = []
for (title, image), (above, below) in zip(PANELS.items(), grid.T, strict=True):
    show_image(above, image[0], title, limits=(0, 1))
    n = image.shape[-1]
    amplitude = torch.fft.fftshift(torch.fft.fft2(image[0, 0] - image.mean()).abs()) * 2 / n**2
    for down, right in (amplitude > 0.005).nonzero().tolist():
        value, at = amplitude[down, right].item(), ((right - n // 2) / 100, (down - n // 2) / 100)
        below.scatter(*at, s=600 * value, color=VERMILION if min(map(abs, at)) > 0.1 else BLUE, alpha=0.8)
        where = (0, 8 if down < n // 2 else -15)
        below.annotate(f"{value:.2f}", at, where, textcoords="offset points", ha="center", fontsize=8)
    outline(below, 0.25, 0.25, 0.5, 0.5, colour=GREY, linewidth=1, linestyle="--")
    below.set(xlim=(-0.5, 0.5), ylim=(0.5, -0.5), aspect="equal", xlabel="across (oscillations per pixel)")
    ghosts.append(amplitude[n // 2 - 14, n // 2 + 14].item())
grid[1, 0].set_ylabel("down (oscillations per pixel)")
plt.show()
expected = 0.25 * (math.cos(0.36 * math.pi) * math.cos(0.14 * math.pi)) ** 3
torch.testing.assert_close(torch.tensor(ghosts), torch.tensor([0, 0.25, expected]), atol=1e-6, rtol=0)

# %% [markdown]
# ## 5. Pooling with and without a blur
#
# Now photographs, moved by every quarter of a pixel. `MaxBlurPool2d` is what Zhang (2019) puts in the place of a
# strided max-pool: the maximum with stride 1, then the blur with the stride.

# %%
max_blur = layers.MaxBlurPool2d(2, 2, filter=4, padding_mode="circular")
POOLS = {
    "every second pixel": lambda x: x[..., ::2, ::2],
    "max-pool": lambda x: max_pool2d(x, 2),
    "average-pool": lambda x: avg_pool2d(x, 2),
    "max-blur-pool": lambda x: max_blur(wrapped(x)),
    "blur-pool": lambda x: blur_pool2d(x, 4, 2, "circular"),
}
RIGHT = [(0, quarter / 4) for quarter in range(17)]
curves = {name: equivariance_errors(pool, photos, RIGHT) for name, pool in POOLS.items()}
figure, axes = plt.subplots(figsize=(8, 3.8))
draw_error_curves(axes, curves, "Equivariance error of poolings with stride 2; six photographs of 64 × 64 pixels")
axes.set_ylim(0, 0.44)
axes.legend(loc="upper center", ncols=3, fontsize=8)
plt.show()
worst = {name: curves[name].worst for name in POOLS}
print("\n".join(f"{name:20} worst error {error:.3f}" for name, error in worst.items()))
assert 4 * worst["max-blur-pool"] < worst["max-pool"] < worst["every second pixel"]
assert 2 * worst["blur-pool"] < worst["average-pool"] < worst["max-pool"]

# %% [markdown]
# Max-pooling is hardly better than throwing three pixels of four away. Averaging is itself a blur, of size 2, and
# halves the error; the longer filter brings it to a fifth. All are zero at even shifts, where the grid falls onto
# itself. Over shifts in both directions the error is a landscape like an egg box, with a hollow wherever the coarse
# grid falls onto itself:

# %%
STEPS = [step / 2 for step in range(-5, 6)]
figure, grid = plt.subplots(1, 3, figsize=(9, 3.1))
for name, axes in zip(("max-pool", "average-pool", "max-blur-pool"), grid, strict=True):
    result = equivariance_errors(POOLS[name], photos, [(down, right) for down in STEPS for right in STEPS])
    field = torch.tensor(result.errors).view(len(STEPS), -1)
    drawn = axes.imshow(field, cmap="magma", vmin=0, vmax=0.4, extent=(-2.75, 2.75, 2.75, -2.75))
    axes.set(title=f"{name}\nworst {result.worst:.2f}", xlabel="shift right (pixels)", xticks=range(-2, 3))
    axes.set_yticks(range(-2, 3))
    assert field[1::4, 1::4].max() < 1e-12
grid[0].set_ylabel("shift down (pixels)")
figure.colorbar(drawn, ax=grid, shrink=0.8, label="relative error")
plt.show()

# %% [markdown]
# ## 6. Does a classifier care?
#
# Two small networks learn the ten kinds of garments on 1000 drawn pictures of 32 × 32 pixels, from the same weights, on
# the same batches. They differ in one thing: the first has max-pools of stride 2, the second max-blur-pools. Both end
# in the mean over all places, so whatever depends on the position comes from the strides: with circular borders there
# is nothing else.

# %%
data = synthetic_data(train=1000, validation=0, test=200)


def small(split: Split) -> torch.Tensor:
    """float32 [N, 3, 32, 32], from -1 to 1."""
    return avg_pool2d(normalize(split.images), 4).contiguous()


def network(pool) -> nn.Sequential:
    blocks: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        convolution = layers.Conv2d(inputs, outputs, 3, padding="same", padding_mode="circular")
        blocks += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), pool()]
    return nn.Sequential(*blocks, layers.GlobalAvgPool2d(), nn.Flatten(), nn.Linear(64, len(data.classes)))


def fit(pool, images: torch.Tensor, labels: torch.Tensor, epochs: int = 10) -> nn.Sequential:
    torch.manual_seed(0)
    model = network(pool)
    optimizer = torch.optim.Adam(model.parameters())
    steps = epochs * math.ceil(len(images) / 32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


# %%
POOLINGS = {
    "max-pool": lambda: layers.MaxPool2d(2),
    "max-blur-pool": lambda: nn.Sequential(
        nn.CircularPad2d((0, 1, 0, 1)), layers.MaxBlurPool2d(2, 2, filter=4, padding_mode="circular")
    ),
}
images, labels = small(data.train), data.train.labels
classifiers = {name: fit(pool, images, labels) for name, pool in POOLINGS.items()}
test = small(data.test)

print(f"{'':16}{'accuracy':>10}   consistency up to 8 pixels")
consistency = {}
for name, model in classifiers.items():
    with torch.no_grad():
        accuracy = (model(test).argmax(1) == data.test.labels).double().mean()
    consistency[name] = shift_consistency(model, test, 8, border="circular", repeats=3)
    print(f"{name:16}{accuracy:10.1%}   {consistency[name].consistency:.1%} ± {consistency[name].standard_error:.1%}")
assert consistency["max-blur-pool"].consistency > consistency["max-pool"].consistency + 0.05

# %% [markdown]
# **Shift-consistency** (Zhang 2019) is the share of pairs of random shifts of one picture that get the same class. It
# does not ask whether the class is *right*, only whether the network makes up its mind. By distance, it shows the grid
# once more: three strides of 2 make one of 8, and a move by 8 pixels is none to either network. In between the one with
# plain pools changes its mind about one picture in seven or eight, **after a move by a single pixel**.

# %%
DISTANCES = range(13)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
for axes, border in ((left, "circular"), (right, "reflect")):
    curves = {name: consistency_curve(model, test, DISTANCES, border=border) for name, model in classifiers.items()}
    draw_consistency_curves(axes, curves, f"border: {border}")
    axes.set(ylim=(0.4, 1.02), xticks=range(0, 13, 2))
    if border == "circular":
        plain, blurred = (curves[name].consistency for name in POOLINGS)
right.set_ylabel("")
plt.show()
assert min(plain[8], blurred[8]) > 0.99 and plain[1] < 0.93
assert sum(blurred[1:8]) / 7 > sum(plain[1:8]) / 7 + 0.03
print("pictures that get another class after a move by one pixel:")
print(f"max-pool {1 - plain[1]:.0%}, max-blur-pool {1 - blurred[1]:.0%}")

# %% [markdown]
# On the left pictures move in a circle, and nothing but the strides can change an answer. On the right the mirrored
# picture moves in, as in a photograph that is cropped elsewhere: now content changes, too, and for long moves that
# matters more than the pooling. A blur mends the network's part of the trouble, not the picture's.
#
# How much of each layer moves along? `convops equivariance --weights runs/apparel/weights.pt` measures all that for a
# classifier that you trained yourself.
#
# ## 7. A detector that finds the cat wherever it hides
#
# Now use the equivariance. A filter that looks like a cat's face answers most where a cat's face is; move the cat, and
# the answer moves along. To make it deaf to bright and dark places, each window is compared after its mean is taken off
# and its contrast divided out: **normalised cross-correlation**, from −1 to 1,
#
# $$ c_p = \frac{\sum_i m_i\,(x_{p+i} - \bar x_p)(t_i - \bar t)}
# {\sqrt{\sum_i m_i\,(x_{p+i} - \bar x_p)^2}\;\sqrt{\sum_i m_i\,(t_i - \bar t)^2}} $$
#
# where $t$ is the face, $m$ its outline (1 on the face, 0 beside it), and the means run over the outline. Written out,
# it is three cross-correlations: of the image with $m\,(t - \bar t)$ and with $m$, and of its square with $m$.


# %%
def both(kind: str, shade: int, *points: tuple[float, float]) -> list[tuple]:
    """A shape and its mirror image; faces are 40 × 40, and x counts from their middle line."""
    sides = [[(20 + side * x, y) for x, y in points] for side in (-1, 1)]
    if kind == "ellipse":  # in a box, whose first corner is the top left one
        sides = [list(zip(*(sorted(values) for values in zip(*side, strict=True)), strict=True)) for side in sides]
    return [(kind, shade, side) for side in sides]


HEAD = [("ellipse", 150, [(3, 8), (37, 38)]), ("ellipse", 205, [(12, 24), (28, 36)])]
CAT = [
    *both("polygon", 150, (17, 1), (2, 12), (16, 20)),  # ears, outside and inside
    *both("polygon", 90, (14, 6), (7, 10), (13, 14)),
    *HEAD,
    *both("ellipse", 240, (3.2, 15), (11, 23.5)),  # eyes, with slits
    *both("ellipse", 20, (5.9, 15.5), (8.3, 23)),
    *both("line", 30, (4, 29.5), (17, 27)),  # whiskers
    *both("line", 30, (4, 31), (17, 32)),
    ("polygon", 30, [(17.5, 26), (22.5, 26), (20, 29)]),  # nose
]
BEAR = [
    *both("ellipse", 150, (7, 2), (18, 13)),
    *both("ellipse", 90, (10, 5), (15, 10)),
    *HEAD,
    *both("ellipse", 20, (4.5, 16), (9, 20.5)),
    ("ellipse", 30, [(15.5, 24), (24.5, 30)]),
]


# %%
def face(shapes: list[tuple]) -> tuple[torch.Tensor, torch.Tensor]:
    """The grey values of a face and how much of each pixel it covers, (40, 40) each, 0..1."""
    results = []
    for covering in (False, True):
        image = Image.new("L", (320, 320))  # eight times as large, for smooth lines
        for kind, shade, points in shapes:
            options = {"width": 8} if kind == "line" else {}
            at = [8 * value for point in points for value in point]
            getattr(ImageDraw.Draw(image), kind)(at, fill=255 if covering else shade, **options)
        small = image.resize((40, 40), Image.Resampling.BOX)
        results.append(torch.from_numpy(np.array(small, dtype=np.float64) / 255))
    return results[0], results[1]


def clutter(height: int, width: int, seed: int) -> torch.Tensor:
    """Discs, boxes and sticks of every grey, one upon the other."""
    rng = np.random.default_rng(seed)
    image = Image.new("L", (width, height), 120)
    for number in range(160):
        (x, y), (w, h) = rng.uniform((-20, -20), (width, height)), rng.uniform(4, 36, 2)
        draw, shade = ImageDraw.Draw(image), int(rng.integers(20, 236))
        if number % 3 == 0:
            draw.line((x, y, x + 2 * w - 36, y + 2 * h - 36), fill=shade, width=3)
        else:
            (draw.ellipse if number % 3 == 1 else draw.rectangle)((x, y, x + w, y + h), fill=shade)
    return torch.from_numpy(np.array(image) / 255)


# %%
def hide(scene: torch.Tensor, shapes: list[tuple], at: tuple[int, int], contrast: float = 1, light: float = 0) -> None:
    """Puts a face into the scene, its top left corner at the row and column given."""
    (shown, cover), (row, column) = face(shapes), at
    place = scene[row : row + 40, column : column + 40]
    place += cover * (0.5 + contrast * (shown / cover.clamp(min=1e-9) - 0.5) + light - place)


def likeness(scene: torch.Tensor, shapes: list[tuple]) -> torch.Tensor:
    """Normalised cross-correlation of the scene with a face, at every place where the face fits in: see above."""
    t, cover = face(shapes)
    m = (cover == 1).double()
    n = m.sum()
    filter = m * (t - (m * t).sum() / n)
    mean = correlate2d(scene, m, "valid") / n
    spread = correlate2d(scene.square(), m, "valid") - n * mean.square()
    return correlate2d(scene, filter, "valid") / (spread * filter.square().sum()).sqrt()


def peaks(score: torch.Tensor, least: float = 0.7) -> list[tuple[int, int]]:
    """Places of a score of at least so much, and none better within 10 pixels: max-pooling again."""
    best = max_pool2d(score[None], 21, 1, 10)[0]
    return [tuple(place) for place in ((score == best) & (score >= least)).nonzero().tolist()]


# %% [markdown]
# Three cats hide among two bears: one in plain sight, one in the dark, one in the fog.

# %%
CATS = {(12, 190): (1, 0), (88, 96): (0.45, -0.25), (50, 20): (0.35, 0.3)}  # where: contrast, light
BEARS = ((20, 100), (85, 180))
scene = clutter(140, 240, seed=5)
for at, (contrast, light) in CATS.items():
    hide(scene, CAT, at, contrast, light)
for at in BEARS:
    hide(scene, BEAR, at)
scene += 0.04 * torch.randn(scene.shape, generator=torch.Generator().manual_seed(0))  # a noisy camera
score = likeness(scene, CAT)
found = peaks(score)
assert sorted(found) == sorted(CATS) and max(score[at].item() for at in BEARS) < 0.7

figure, (above, below) = plt.subplots(2, 2, figsize=(9, 6.2), width_ratios=(1, 3.2))
show_image(above[0], face(CAT)[0], "the filter: a cat …", limits=(0, 1))
show_image(below[0], face(BEAR)[0], "… and what it is\nnot to find", limits=(0, 1))
show_image(above[1], scene, "the scene, and what was found", limits=(0, 1))
show_image(
    below[1], score, "likeness of each place to a cat, −0.5 (dark) to 1 (bright)", cmap="magma", limits=(-0.5, 1)
)
for row, column in found:
    outline(above[1], row, column, 40, 40, colour=ORANGE)
    below[1].plot(column, row, "o", markersize=13, markerfacecolor="none", markeredgecolor=GREEN, markeredgewidth=2)
for word, places in (("cat", found), ("bear", BEARS)):
    for row, column in places:
        side, where = ("right", (-10, -3)) if column > 120 else ("left", (10, -3))
        label = f"{word} {score[row, column]:.2f}"
        below[1].annotate(label, (column, row), where, textcoords="offset points", ha=side, color="white")
plt.show()

# %% [markdown]
# The bears have the same head and score too low. Light and contrast do not matter, only how far the cat stands out from
# the noise. And finding the peaks is itself a
# max-pooling, which asks every place whether it is the best of its neighbourhood.
#
# Now let the cat walk. Equivariance promises that the peak walks along, pixel by pixel:

# %%
background = clutter(110, 170, seed=8)
noise = torch.randn(110, 170, generator=torch.Generator().manual_seed(1))
WALK = [(round(35 - 30 * math.sin(a)), round(65 + 55 * math.cos(a))) for a in np.linspace(-math.pi, math.pi, 24)[:-1]]
scores, scenes, seen = [], [], []
for at in WALK:
    scenes.append(background.clone())
    hide(scenes[-1], CAT, at)
    scenes[-1] += 0.04 * noise
    scores.append(likeness(scenes[-1], CAT))
    seen.append(divmod(scores[-1].argmax().item(), scores[-1].shape[1]))
assert seen == WALK

figure, grid = plt.subplots(2, 4, figsize=(9, 3.3))
for step, (above, below) in zip((0, 5, 11, 17), grid.T, strict=True):
    show_image(above, scenes[step], f"step {step}", limits=(0, 1))
    outline(above, *seen[step], 40, 40, colour=ORANGE, linewidth=1.5)
    show_image(below, scores[step], "", cmap="magma", limits=(-0.5, 1))
    below.plot(*zip(*[(column, row) for row, column in WALK], strict=True), ".", color="white", markersize=2)
    below.plot(*seen[step][::-1], "o", markersize=10, markerfacecolor="none", markeredgecolor=GREEN, markeredgewidth=2)
    below.set_xlabel(f"peak {scores[step].max():.2f} at row {seen[step][0]}, column {seen[step][1]}")
plt.show()
print(f"{len(WALK)} steps, the peak at the cat's place in {sum(a == b for a, b in zip(seen, WALK, strict=True))}")

# %% [markdown]
# And with a stride? Suppose the detector looks at every fourth place only, as a layer deep in a network does. Let the
# cat take sixteen steps of one pixel to the right:

# %%
STRIDES = (1, 2, 4, 8)
heights = {stride: [] for stride in STRIDES}
for step in range(17):
    walked = background.clone()
    hide(walked, CAT, (32, 64 + step))
    walked += 0.04 * noise
    score = likeness(walked, CAT)
    for stride in STRIDES:
        heights[stride].append(score[::stride, ::stride].max().item())
figure, axes = plt.subplots(figsize=(8, 3.4))
for stride, height in heights.items():
    axes.plot(height, "o-", markersize=4, label=f"stride {stride}")
axes.axhline(0.7, color=GREY, linestyle="--", linewidth=1)
axes.text(16.3, 0.71, "threshold", fontsize=8, color=GREY)
axes.set(title="The best answer as the cat walks", xlabel="steps to the right (pixels)", ylabel="highest likeness")
axes.set(xlim=(-0.5, 18.3), ylim=(0, 1.05), xticks=range(0, 17, 2))
axes.legend(loc="lower right", ncols=4)
plt.show()
assert min(heights[1]) > 0.9 and min(heights[4]) < 0.7 < heights[4][0]

# %% [markdown]
# With stride 1 the cat is as much a cat at every step. With stride 4 it is one at every fourth, and falls below the
# threshold in between: the answer depends on where the cat happens to stand on the grid. That is the same comb that the
# classifier's consistency showed.
#
# ## What to take along
#
# - A convolution of stride 1 is **equivariant**, exactly, for parts of pixels too; borders break that as far as the
#   window reaches.
# - Max-pooling is **invariant** to moves inside its windows, in part, and equivariant as long as its stride is 1.
# - A **stride** is equivariant for multiples of itself only. In between it aliases: fine waves come out as coarse ones.
# - A blur before the stride mends most of it, for a sixteen-tap filter without a single weight to learn.
# - A network is as equivariant as its worst layer. Measure; do not believe.
#
# **Try it yourself.** (a) Let all pools of section 5 have a stride of 4. At which shifts is the error zero? (b) Give
# the bear to `likeness` as the face to look for, and predict how many are found. (c) Replace `GlobalAvgPool2d()` in
# section 6 by `nn.Flatten()` with a larger linear layer. What happens to the consistency at 8 pixels, and why?
#
# **Read on.** R. Zhang, *Making convolutional networks shift-invariant again*, ICML 2019. A. Azulay and Y. Weiss, *Why
# do deep convolutional networks generalize so poorly to small image transformations?*, JMLR 20, 2019.
