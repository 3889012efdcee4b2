# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Convolution modes: what each output pixel sees
#
# A convolution is one small idea: lay a window of weights over the image, multiply, add up, move on. *Valid*, *same*,
# *full*, *strided*, *dilated* are answers to two questions that the idea leaves open: **where may the window lie**, and
# **what does it read where there is no image**. In this notebook you look at both, one picture at a time, and check
# every formula against the operators.
#
# For an image $x$ and a kernel $k$ of $R \times S$ weights, a neural network's convolution computes
#
# $$ y_{p,q} = \sum_{r=0}^{R-1} \sum_{s=0}^{S-1} x_{\,p\,s_h + r\,d_h - t,\;\; q\,s_w + s\,d_w - l}\;\; k_{r,s} $$
#
# with stride $(s_h, s_w)$, dilation $(d_h, d_w)$, and $t$ rows of padding above, $l$ columns to the left.

# %%
import math
from itertools import product

import matplotlib.pyplot as plt
import scipy.signal
import torch
import torch.nn.functional as F
from figures import BLUE, SIGNED, VERMILION, grey, outline, photograph, show_images, show_matrix, show_row, use_style

from torch_convops import conv2d, conv2d_output_size, convolve2d, correlate2d, reference

torch.manual_seed(0)
use_style()

# %% [markdown]
# ## 1. One window
#
# Five by five pixels and a kernel that takes the right side of a window from its left side. The framed output pixel is
# the sum of nine products, those of the framed input pixels with the kernel:
#
# $$ y_{1,2} = 1\cdot 0 + 0\cdot 1 - 1\cdot 2 \;+\; 2\cdot 5 + 0\cdot 6 - 2\cdot 0 \;+\;
# 1\cdot 3 + 0\cdot 4 - 1\cdot 5 = 6 $$

# %%
x = torch.arange(25.0).reshape(5, 5) % 7
k = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
y = conv2d(x[None, None], k[None, None])[0, 0]  # the operator takes (N, C, H, W) and (K, C, R, S)
assert y[1, 2] == (x[1:4, 2:5] * k).sum() == 6

show_row(
    [
        (x, "image $x$", {"highlight": [(1, 2, 3, 3)], "labels": ("$h$", "$w$")}),
        "⋆",
        (k, "kernel $k$", {"cmap": SIGNED, "labels": ("$r$", "$s$")}),
        "=",
        (y, "output $y$", {"highlight": [(1, 2)], "cmap": SIGNED, "labels": ("$p$", "$q$")}),
    ]
)
plt.show()

# %% [markdown]
# ## 2. How large is the output?
#
# Derive it along one axis; height and width never meet. An axis has $n$ pixels, the kernel $k$ weights, stride $s$,
# dilation $d$.
#
# 1. With dilation the weights lie $d$ apart, so the window reaches over $e = d\,(k-1) + 1$ pixels.
# 2. With $l$ pixels of padding before the image and $u$ behind it, there are $n + l + u$ pixels to lie on.
# 3. Window number $p$ starts at $p\,s$ and fits if $p\,s + e \le n + l + u$. The last one that fits has
#    $p = \lfloor (n + l + u - e) / s \rfloor$, and counting starts at 0:
#
# $$ \text{output size} = \left\lfloor \frac{n + l + u - e}{s} \right\rfloor + 1 $$
#
# The modes are names for paddings:
#
# | mode | asks for | hence the padding $l + u$ |
# |---|---|---|
# | `valid` | windows inside the image only | $0$ |
# | `same` | $\lceil n/s \rceil$ outputs: as many as pixels at stride 1 | $\max(0, (\lceil n/s \rceil - 1)s + e - n)$ |
# | `same_lower` | the same, but an odd pixel lies *before* the image | the same |
# | `full` | every place where window and image share a pixel | $e - 1$ on each side |

# %%
MODES = ("valid", "same", "same_lower", "full")


def pads(mode: str, n: int, k: int, s: int = 1, d: int = 1) -> tuple[int, int]:
    """Pixels of padding before and behind an axis: the table above."""
    e = d * (k - 1) + 1
    if mode == "valid":
        return 0, 0
    if mode == "full":
        return e - 1, e - 1
    total = max(0, (math.ceil(n / s) - 1) * s + e - n)
    less, more = total // 2, total - total // 2
    return (more, less) if mode == "same_lower" else (less, more)


def size(mode: str, n: int, k: int, s: int = 1, d: int = 1) -> int:
    e = d * (k - 1) + 1
    return (n + sum(pads(mode, n, k, s, d)) - e) // s + 1


# %% [markdown]
# Now hold the formula against three witnesses: the library's own table `conv2d_output_size`, the plain loops of
# `reference`, which place one window after the other and count, and the shape that the operator really returns.

# %%
checked = 0
for mode, n, k_, s, d in product(MODES, range(1, 15), range(1, 6), (1, 2, 3), (1, 2, 3)):
    lower, upper = pads(mode, n, k_, s, d)
    if n + lower + upper < d * (k_ - 1) + 1:
        continue  # the window fits nowhere, which is an error and no size
    expected = size(mode, n, k_, s, d)
    assert conv2d_output_size((n, n), (k_, k_), s, mode, d) == (expected, expected)
    assert reference.output_size(n, k_, s, d, lower, upper) == expected
    assert conv2d(torch.zeros(1, 1, n, n), torch.zeros(1, 1, k_, k_), None, s, mode, d).shape[-2:] == (expected,) * 2
    checked += 1
print(f"{checked} combinations of mode, n, k, s and d: all four agree\n")

print("outputs along an axis of n = 7 pixels, kernel k = 3\n")
print(f"{'mode':12}{'s=1 d=1':>9}{'s=2 d=1':>9}{'s=3 d=1':>9}{'s=1 d=2':>9}{'s=2 d=2':>9}")
for mode in MODES:
    row = [size(mode, 7, 3, s, d) for s, d in ((1, 1), (2, 1), (3, 1), (1, 2), (2, 2))]
    print(f"{mode:12}" + "".join(f"{value:9}" for value in row))

# %% [markdown]
# ## 3. What each output pixel sees
#
# Blue cells are the image, 7 × 7, grey ones padding. The frame is the window of one output pixel, drawn below in the
# same colour; the dots are the pixels that its 3 × 3 weights read. Read the pictures column by column:
#
# - **valid**: no window leaves the image, so the output loses $e - 1 = 2$ rows and columns. A corner pixel of the image
#   is seen by a single output pixel, one in the middle by nine.
# - **same**: one ring of padding, and output pixel $(p, q)$ is centred on input pixel $(p, q)$.
# - **full**: two rings; the very first output pixel reads one image pixel only, the corner. Every image pixel is now
#   seen by exactly nine output pixels.
# - **stride 2**: neighbouring windows start two pixels apart, and the output has half the resolution. The frames shown
#   are *neighbours* in the output.
# - **dilation 2**: nine weights reach over 5 × 5 pixels and skip those between: a wider view for the same number of
#   weights.

# %%
N, REACH = 7, 2  # pixels of the image; pixels shown around it
SEEN = {  # title: mode, stride, dilation, the output pixels to look at
    "valid": ("valid", 1, 1, ((0, 0), (3, 4))),
    "same": ("same", 1, 1, ((0, 0), (3, 6))),
    "full": ("full", 1, 1, ((0, 0), (8, 5))),
    "valid, stride 2": ("valid", 2, 1, ((0, 0), (0, 1))),
    "valid, dilation 2": ("valid", 1, 2, ((0, 0), (2, 1))),
}


def cells(axes, height, width, title, padding=(0, 0, 0, 0)):
    """Empty cells: blue for pixels, grey for padding."""
    blank = [[""] * width for _ in range(height)]
    show_matrix(axes, torch.zeros(height, width), title, padding=padding, limits=(-1, 3), text=blank)
    axes.set(xticks=[], yticks=[])


def window(axes, row, column, extent, step, colour, inset=0.0):
    """The frame of a window and a dot on each of its taps."""
    outline(axes, row, column, *extent, colour=colour, inset=inset)
    taps = list(product(range(row, row + extent[0], step), range(column, column + extent[1], step)))
    axes.plot([w for _, w in taps], [h for h, _ in taps], "o", color=colour, markersize=3.5 if inset == 0 else 2)


# %%
figure, grid = plt.subplots(2, len(SEEN), figsize=(9, 4.3))
for (title, (mode, s, d, pixels)), (above, below) in zip(SEEN.items(), grid.T, strict=True):
    e, (lower, upper), m = 2 * d + 1, pads(mode, N, 3, s, d), size(mode, N, 3, s, d)
    cells(above, N + lower + upper, N + lower + upper, title, (lower, upper, lower, upper))
    cells(below, m, m, f"output {m} × {m}")
    for (p, q), colour, inset in zip(pixels, (VERMILION, BLUE), (0.0, 0.12), strict=True):
        window(above, p * s, q * s, (e, e), d, colour, inset)
        outline(below, p, q, colour=colour)
    # One scale for all panels: a pixel is a pixel.
    above.set(xlim=(lower - REACH - 0.7, N + lower + REACH - 0.3), ylim=(N + lower + REACH - 0.3, lower - REACH - 0.7))
    below.set(xlim=((m - 11) / 2 - 0.7, (m + 11) / 2 - 0.3), ylim=(9.7, -0.7))
grid[0, 0].set_ylabel("input", rotation=90, labelpad=4)
grid[1, 0].set_ylabel("output", rotation=90, labelpad=4)
plt.show()

# %% [markdown]
# "Seen by how many output pixels" can be counted exactly: `reference.taps` lists every pair of an output pixel and an
# input pixel that it reads. Add up how often each input pixel is read. With **valid**, the border of a photograph has
# much less say than its middle; with **full** every pixel has the same.

# %%
figure, grid = plt.subplots(1, len(SEEN), figsize=(9, 2.2))
for (title, (mode, s, d, _)), axes in zip(SEEN.items(), grid, strict=True):
    lower, upper = pads(mode, N, 3, s, d)
    m = size(mode, N, 3, s, d)
    readers = torch.zeros(N, N)
    for *_, h, w in reference.taps((N, N), (m, m), (3, 3), (s, s), (lower, upper, lower, upper), (d, d)):
        readers[h, w] += 1
    show_matrix(axes, readers, title, limits=(0, 16), fontsize=8)
    axes.set(xticks=[], yticks=[])
    if mode == "full":
        assert (readers == 9).all()
figure.suptitle("number of output pixels that read each input pixel", fontsize=10)
plt.show()

# %% [markdown]
# ## 4. The odd pixel, and four sides of your own
#
# A kernel of even size has no middle. `same` with a kernel of 2 needs *one* padding pixel along each axis, and it has
# to go somewhere: `same` puts it below and to the right, `same_lower` above and to the left. JAX knows both;
# `torch.nn.functional.conv2d` does it the first way, and only at stride 1.
#
# Pads may also be given for each side by itself, `((top, bottom), (left, right))`. A use for that: a **causal** filter
# over time (columns) may look at the past but not at the future, so all of its padding lies on the left.

# %%
CASES = {
    "same": ("same", (2, 2)),
    "same_lower": ("same_lower", (2, 2)),
    "causal: ((0, 0), (2, 0))": (((0, 0), (2, 0)), (1, 3)),
    "((0, 2), (1, 1))": (((0, 2), (1, 1)), (3, 3)),
}
figure, grid = plt.subplots(1, 4, figsize=(9, 2.6))
for (title, (padding, (R, S))), axes in zip(CASES.items(), grid, strict=True):
    given = tuple(pads(padding, 4, n) for n in (R, S)) if isinstance(padding, str) else padding
    (top, bottom), (left, right) = given
    P, Q = conv2d_output_size((4, 4), (R, S), padding=padding)
    cells(axes, 4 + top + bottom, 4 + left + right, f"{title}\nkernel {R} × {S}, output {P} × {Q}", sum(given, ()))
    window(axes, 0, 0, (R, S), 1, VERMILION)
    window(axes, P - 1, Q - 1, (R, S), 1, BLUE, 0.1)
    axes.set(xlim=(left - 2.7, left + 5.7), ylim=(top + 5.7, top - 1.7))
    image, weight = torch.randn(1, 1, 4, 4), torch.randn(1, 1, R, S)
    padded = F.pad(image, (left, right, top, bottom))
    torch.testing.assert_close(conv2d(image, weight, padding=padding), F.conv2d(padded, weight))
figure.suptitle("windows of the first (orange) and the last (blue) output pixel over 4 × 4 pixels", fontsize=10)
plt.show()

# %% [markdown]
# A stride does not change what `same` means, $\lceil n/s \rceil$ outputs, so a network with `same` and stride 2 halves
# 32, 16, 8, … without a thought about pads. PyTorch leaves that combination out:

# %%
image, weight = torch.randn(1, 3, 32, 32), torch.randn(8, 3, 5, 5)
print("torch_convops:", tuple(conv2d(image, weight, stride=2, padding="same").shape))
try:
    F.conv2d(image, weight, stride=2, padding="same")
except RuntimeError as error:
    print("torch:        ", str(error).splitlines()[0])

# %% [markdown]
# ## 5. What lies beyond the border?
#
# A window over padding reads *something*. Zeros are the usual choice, and black is seldom what was beyond the edge of a
# photograph. For a row `a b c d` and three pixels on each side:

# %%
BORDERS = ("zeros", "reflect", "replicate", "circular", "symmetric")
for padding_mode in BORDERS:
    read = [reference.border_pixel(position, 4, padding_mode) for position in range(-3, 7)]
    letters = ["0" if pixel is None else "abcd"[pixel] for pixel in read]
    print(f"{padding_mode:10}", *letters[:3], "|", *letters[3:7], "|", *letters[7:])

# %% [markdown]
# Now a photograph (a drawn one: the library makes garments to train on). Above you see what the five modes put around
# it, the frame being the image itself. Below, each is blurred with an 11 × 11 mean, `padding="same"`: with zeros the
# picture gets a **dark rim**, as if the room went black behind the frame. The others differ in which structure they
# invent: mirrored without (`reflect`) or with the edge pixel repeated (`symmetric`), the edge dragged outwards
# (`replicate`), or the opposite side (`circular`), which is right for panoramas, maps of the globe, and crystals.

# %%
photo = photograph(5, 64)
mean = torch.full((3, 1, 11, 11), 1 / 121)
figure, grid = plt.subplots(2, 5, figsize=(9, 3.9))
for padding_mode, (above, below) in zip(BORDERS, grid.T, strict=True):
    wide = F.pad(photo, (24,) * 4) if padding_mode == "zeros" else reference.padded(photo, (24,) * 4, padding_mode)
    above.imshow(wide.permute(1, 2, 0))
    outline(above, 24, 24, 64, 64, linewidth=1.5)
    blurred = conv2d(photo, mean, padding="same", groups=3, padding_mode=padding_mode)
    below.imshow(blurred.permute(1, 2, 0).clamp(0, 1))
    above.set_title(padding_mode)
    if padding_mode != "zeros":  # as if the padded copy had been made, which the operator does without
        copied = F.conv2d(reference.padded(photo, (5,) * 4, padding_mode), mean, groups=3)
        torch.testing.assert_close(blurred, copied)
for axes in grid.flat:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
grid[0, 0].set_ylabel("padded by 24 pixels")
grid[1, 0].set_ylabel("blurred, 11 × 11 mean")
plt.show()

# %% [markdown]
# The rim can be measured. The mean of an image of ones should be one everywhere; with zeros it falls to
# $36/121 \approx 0.30$ in the corner, where only $6 \times 6$ of the $11 \times 11$ weights meet the image.

# %%
ones = torch.ones(1, 1, 64, 64, dtype=torch.float64)
figure, axes = plt.subplots(figsize=(6, 2.6))
for padding_mode in BORDERS:
    blurred = conv2d(ones, mean[:1].double(), padding="same", padding_mode=padding_mode)[0, 0]
    print(f"{padding_mode:10} corner {blurred[0, 0]:.4f}   middle {blurred[32, 32]:.4f}")
    if padding_mode == "zeros":
        axes.plot(blurred.diagonal(), label="zeros")
    else:
        torch.testing.assert_close(blurred, ones[0, 0])
axes.axhline(1, color=VERMILION, linestyle="--", label="the four others")
axes.set(title="Mean of an image of ones, along its diagonal", xlabel="row = column (pixels)", ylabel="mean (of 1)")
axes.set_ylim(0, 1.1)
axes.legend(loc="lower center")
plt.show()

# %% [markdown]
# ## 6. All modes on one photograph
#
# A 9 × 9 filter that answers to vertical edges: the derivative of a Gaussian, its weights scaled so that their absolute
# values sum to 1. Red says *brighter to the right*, blue the opposite. All outputs are drawn **to scale**: `valid` is 8
# pixels smaller than the photograph, `full` 8 larger, with a strong false edge where the picture meets the zeros around
# it. Stride 2 keeps every second answer of every second row. Dilation 3 looks at a coarser scale: the checks of the
# cloth merge, the outline of the garment stays.

# %%
scene = grey(photograph(5))
t = torch.arange(-4.0, 5.0)
bell = torch.exp(-(t**2) / 8)
edge = torch.outer(bell, t * bell)
edge /= edge.abs().sum()


def respond(**arguments) -> torch.Tensor:
    return conv2d(scene[None, None], edge[None, None], **arguments)[0, 0]


answers = {
    "valid": respond(),
    "same": respond(padding="same"),
    "full": respond(padding="full"),
    "same, stride 2": respond(padding="same", stride=2),
    "valid, dilation 3": respond(dilation=3),
}
show_images([scene], ["photograph, grey values from 0 to 1"], width=2.6)
figure = show_images(list(answers.values()), list(answers), to_scale=True, cmap=SIGNED, limits=(-0.25, 0.25))
figure.suptitle("response, from −0.25 (dark blue) to 0.25 (dark red)", fontsize=10)
plt.show()

# %%
# The modes show the same answers, cropped or thinned out. With a stride, "same" needs one pixel of padding less, so the
# windows start one pixel later and every second answer is counted from the second.
torch.testing.assert_close(answers["full"][4:-4, 4:-4], answers["same"])
torch.testing.assert_close(answers["full"][8:-8, 8:-8], answers["valid"])
torch.testing.assert_close(answers["same"][1::2, 1::2], answers["same, stride 2"])
for name, answer in answers.items():
    print(f"{name:18} {tuple(answer.shape)}")

# %% [markdown]
# ## 7. True convolution and cross-correlation
#
# Mathematics calls something else a convolution: there the kernel runs *backwards*.
#
# $$ \text{cross-correlation: } \sum_{r,s} x_{p+r,\,q+s}\,k_{r,s} \qquad\qquad
# \text{convolution: } (x * k)_{i,j} = \sum_{r,s} x_{i-r,\,j-s}\,k_{r,s} $$
#
# Feed both a single bright pixel. Convolution stamps the kernel where the pixel is; cross-correlation, which is what
# networks compute under the name `conv2d`, stamps it turned by 180°. A network does not mind: it learns the weights in
# whichever order they are read. It matters as soon as somebody hands you the kernel, and in the backward pass, where
# the one turns into the other (notebook `conv_block_and_gradient`).

# %%
impulse = torch.zeros(5, 5, dtype=torch.float64)
impulse[2, 2] = 1
stamp = torch.arange(1.0, 10.0, dtype=torch.float64).reshape(3, 3)
correlated = conv2d(impulse[None, None], stamp[None, None], padding="same")[0, 0]
convolved = convolve2d(impulse, stamp, mode="same")
show_row(
    [
        (impulse, "one bright pixel $x$", {}),
        (stamp, "kernel $k$", {}),
        (correlated, "conv2d:\ncross-correlation", {"highlight": [(1, 1, 3, 3)]}),
        (convolved, "convolve2d:\nconvolution", {"highlight": [(1, 1, 3, 3)]}),
    ],
    cell=0.4,
)
plt.show()

assert torch.equal(convolved[1:4, 1:4], stamp)
assert torch.equal(correlated[1:4, 1:4], stamp.flip(0, 1))

# %% [markdown]
# So each is the other with a flipped kernel. What mathematicians gain from the flip is algebra: convolution commutes
# and associates, cross-correlation does neither.

# %%
a, b, c = (torch.randn(n, n, dtype=torch.float64) for n in (6, 4, 3))
close = torch.testing.assert_close
close(convolve2d(a, b), conv2d(a[None, None], b.flip(0, 1)[None, None], padding="full")[0, 0])
close(convolve2d(a, b), convolve2d(b, a))
close(convolve2d(convolve2d(a, b), c), convolve2d(a, convolve2d(b, c)))
close(correlate2d(a, b), correlate2d(b, a).flip(0, 1))  # not the same: turned around
print("a * b = b * a: ", torch.allclose(convolve2d(a, b), convolve2d(b, a)))
print("a ⋆ b = b ⋆ a: ", torch.allclose(correlate2d(a, b), correlate2d(b, a)))

# %% [markdown]
# ### Against SciPy
#
# `scipy.signal.convolve2d` has been the reference of many lectures. The library's function takes the same arguments;
# here is the largest difference over kernels of odd and even sizes, for every mode and boundary, both operations:

# %%
image = torch.randn(9, 11, dtype=torch.float64)
kernels = [torch.randn(*shape, dtype=torch.float64) for shape in ((3, 3), (2, 2), (4, 3), (1, 6), (5, 4))]
print(f"{'':14}" + "".join(f"{mode:>12}" for mode in ("full", "same", "valid")) + "   largest |ours - SciPy's|")
for ours, scipys in ((convolve2d, scipy.signal.convolve2d), (correlate2d, scipy.signal.correlate2d)):
    print(ours.__name__)
    for boundary in ("fill", "wrap", "symm"):
        errors = []
        for mode in ("full", "same", "valid"):
            pairs = [(ours(image, k, mode, boundary), scipys(image, k, mode, boundary)) for k in kernels]
            errors.append(max((y - torch.from_numpy(z)).abs().max().item() for y, z in pairs))
        assert max(errors) < 1e-13
        print(f"  {boundary:12}" + "".join(f"{error:12.1e}" for error in errors))

# %% [markdown]
# The last digit of float64 is all that differs. One thing the comparison brings to light: SciPy centres `same` on the
# *full* output, and for an even kernel that is our `same_lower`; and with `symm` and `wrap` SciPy's boundaries are the
# library's `symmetric` and `circular`.

# %%
even = kernels[1]
lower = conv2d(image[None, None], even.flip(0, 1)[None, None], padding="same_lower")[0, 0]
close(lower, torch.from_numpy(scipy.signal.convolve2d(image, even, "same")))
upper = conv2d(image[None, None], even[None, None], padding="same")[0, 0]
close(upper, torch.from_numpy(scipy.signal.correlate2d(image, even, "same")))

# %% [markdown]
# ## What to take along
#
# - A mode is a padding with a name; **one** formula gives every size: $\lfloor (n + l + u - e)/s \rfloor + 1$.
# - `valid` reads only real pixels and shrinks; `same` keeps the size and invents a border; `full` lets every pixel be
#   seen equally often.
# - Stride thins the output, dilation spreads the window: neither costs a weight.
# - Zeros at the border are a choice. Look at what they do before you keep it.
# - Networks cross-correlate. Flip the kernel and you have the mathematicians' convolution.
#
# **Try it yourself.** (a) Which padding makes a kernel of 4 with stride 4 cover 30 pixels completely? (b) Two `valid`
# layers of 3 × 3 in a row: how many input pixels does one output pixel see? And with dilation 2 in the second? (c)
# Change the photograph's number in section 6 to 9 and predict, before you run it, where red and blue will be.
