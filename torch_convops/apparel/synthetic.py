"""Drawn garments that stand in for photographs: seeded, labelled, in the ten classes of the real pictures.

A garment is a few polygons in its own coordinates (x to the right, y down, both about -1..1), with random
proportions. A picture places it with a random position, size, rotation and slant, colours it with a pattern,
and adds a cluttered background, a shadow, uneven light and sensor noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from .data import IMAGE_SIZE, SPLITS, ApparelData, Split

Array = NDArray[np.floating[Any]]
Points = Array  # [n, 2] of (x, y)

SUPERSAMPLING = 2


@dataclass(frozen=True)
class Garment:
    """Polygons filled with the cloth, polygons filled with the trim colour, and polylines stitched on top."""

    cloth: list[Points]
    trim: list[Points] = field(default_factory=list)
    seams: list[Points] = field(default_factory=list)


def synthetic_data(train: int = 1500, validation: int = 300, test: int = 300, seed: int = 0) -> ApparelData:
    """Draw a data set of the given split sizes; classes are balanced, to one picture.

    Picture ``i`` of a split depends on ``seed``, the split and ``i`` alone, not on the sizes.
    """
    sizes = (train, validation, test)
    splits = {name: _draw_split(seed, number, sizes[number]) for number, name in enumerate(SPLITS)}
    return ApparelData(**splits, classes=tuple(GARMENTS), directory=None)


def _draw_split(seed: int, split: int, size: int) -> Split:
    shapes = list(GARMENTS.values())
    labels = np.arange(size) % len(shapes)
    images = np.empty((size, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    for index, label in enumerate(labels):
        rng = np.random.default_rng((seed, split, index))
        images[index] = _draw_picture(rng, shapes[label](rng))
    return Split(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels))


# ---- shapes ------------------------------------------------------------------------------------------------


def _points(*xy: tuple[float, float]) -> Points:
    return np.array(xy, dtype=np.float64)


def _mirror(points: Points) -> Points:
    return points * (-1.0, 1.0)


def _symmetric(*right: tuple[float, float]) -> Points:
    """The closed outline whose right half is given from top to bottom."""
    half = _points(*right)
    return np.concatenate([half, _mirror(half)[::-1]])


def _ellipse(x: float, y: float, width: float, height: float, start: float = 0, stop: float = 360) -> Points:
    """An arc of an ellipse with the given half axes, angles in degrees, clockwise from the right."""
    angle = np.radians(np.linspace(start, stop, 40))
    return np.stack([x + width * np.cos(angle), y + height * np.sin(angle)], axis=1)


def _limb(top: Points, length: float, angle: float, taper: float) -> Points:
    """A sleeve or peak: the edge ``top`` [2, 2] carried ``length`` along ``angle``, degrees below x."""
    along = length * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    middle = top.mean(axis=0)
    end = middle + (top - middle) * taper + along
    return np.concatenate([top, end[::-1]])


def _top(rng: Generator, sleeve: float, widen: float = 1.0) -> tuple[list[Points], float, float]:
    """A torso with two sleeves and a scooped neck; returns its polygons, the neck's depth and the hem's y."""
    shoulder, hem_width = rng.uniform(0.38, 0.5, 2) * widen
    neck, depth, hem = rng.uniform(0.14, 0.22), rng.uniform(0.06, 0.2), rng.uniform(0.6, 0.9)
    armpit = -0.72 + rng.uniform(0.32, 0.42)
    torso = _symmetric((0, depth - 0.75), (neck, -0.8), (shoulder, -0.7), (shoulder, armpit), (hem_width, hem))
    edge = _points((shoulder * 0.9, -0.72), (shoulder * 0.9, armpit))
    arm = _limb(edge, sleeve, rng.uniform(25, 75), rng.uniform(0.55, 0.85))
    return [torso, arm, _mirror(arm)], depth, hem


def _print(rng: Generator) -> list[Points]:
    """The picture on the chest of a T-shirt, on half of them."""
    if rng.random() < 0.5:
        return []
    x, y = rng.uniform(-0.1, 0.1), rng.uniform(-0.35, 0.0)
    width, height = rng.uniform(0.1, 0.25, 2)
    corners = rng.choice([3, 4, 5, 40])
    return [_ellipse(x, y, width, height)[:: 40 // int(corners)]]


def _dress(rng: Generator) -> Garment:
    bust, waist, hem = rng.uniform(0.26, 0.36), rng.uniform(0.2, 0.28), rng.uniform(0.4, 0.65)
    waist_y, neck = rng.uniform(-0.3, -0.05), rng.uniform(0.05, 0.25)
    top = [(0, neck - 0.75), (0.15, -0.8), (bust, -0.75), (bust, -0.45)]
    body = _symmetric(*top, (waist, waist_y), (hem, 0.95))
    edge = _points((bust * 0.8, -0.77), (bust * 0.9, -0.5))
    arm = _limb(edge, rng.choice([0.0, 0.25, 0.6]), rng.uniform(30, 70), 0.8)
    belt = _symmetric((waist, waist_y - 0.04), (waist, waist_y + 0.04))
    folds = [_points((x * waist, waist_y), (x * hem, 0.9)) for x in (-0.5, 0.0, 0.5)]
    return Garment([body, arm, _mirror(arm)], [belt] if rng.random() < 0.5 else [], folds)


def _hat(rng: Generator) -> Garment:
    width, height, base = rng.uniform(0.4, 0.55), rng.uniform(0.5, 0.85), rng.uniform(0.1, 0.35)
    dome = _ellipse(0, base, width, height, 180, 360)
    band = _symmetric((width, base - 0.18), (width, base))
    kind = rng.integers(3)
    if kind == 0:  # brimmed
        brim = _ellipse(0, base, width * rng.uniform(1.5, 1.9), rng.uniform(0.14, 0.26))
        return Garment([dome, brim], [band])
    if kind == 1:  # cap
        peak = _limb(_points((width * 0.3, base), (width, base - 0.15)), rng.uniform(0.4, 0.6), 15, 0.8)
        return Garment([dome, peak], [peak], [_points((0, base), (0, base - height))])
    cuff, bobble = band + np.array([0, 0.1]), _ellipse(0, base - height, 0.14, 0.14)
    rib = _points((width, base - 0.05), (width * 0.7, base - 0.6 * height))
    return Garment([dome, cuff, bobble], [cuff, bobble], [rib * (x, 1) for x in (-0.6, -0.2, 0.2, 0.6)])


def _longsleeve(rng: Generator) -> Garment:
    cloth, depth, _ = _top(rng, rng.uniform(0.95, 1.25))
    return Garment(cloth, [], [_ellipse(0, -0.8, 0.2, depth + 0.1, 0, 180)])


def _outwear(rng: Generator) -> Garment:
    cloth, depth, hem = _top(rng, rng.uniform(0.9, 1.15), widen=rng.uniform(1.15, 1.35))
    gap = rng.uniform(0.03, 0.14)
    lining = _symmetric((gap * 0.3, -0.7 + depth), (gap, hem))
    lapel = _points((0.02, -0.3), (0.24, -0.8), (0.3, -0.5))
    pocket = _points((0.2, 0.25), (0.4, 0.2))
    hood = [_ellipse(0, -0.8, 0.3, 0.22)] if rng.random() < 0.4 else []
    return Garment(cloth + hood, [lining, lapel, _mirror(lapel)], [pocket, _mirror(pocket)])


def _trousers(rng: Generator, length: float) -> Garment:
    """Two legs down to ``length`` below the waist."""
    waist, hip, cuff = rng.uniform(0.28, 0.36), rng.uniform(0.36, 0.46), rng.uniform(0.14, 0.26)
    crotch, spread = rng.uniform(-0.35, -0.2), rng.uniform(0.04, 0.3)
    top, bottom = -0.9, -0.9 + length
    hem = [(spread + 2 * cuff, bottom), (spread, bottom)]
    leg = _points((0, top), (waist, top), (hip, crotch), *hem, (0, crotch + 0.08))
    band = _symmetric((waist, top), (waist + 0.02, top + 0.12))
    pocket = _points((waist * 0.5, top + 0.14), (hip * 0.95, top + 0.35))
    return Garment([leg, _mirror(leg)], [band], [_points((0, top), (0, crotch)), pocket, _mirror(pocket)])


def _shirt(rng: Generator) -> Garment:
    cloth, _, hem = _top(rng, rng.choice([0.35, 1.1]) * rng.uniform(0.9, 1.1))
    collar = _points((0, -0.58), (0.06, -0.84), (0.22, -0.82), (0.17, -0.55))
    placket = _symmetric((0.035, -0.6), (0.035, hem))
    buttons = [_ellipse(0, y, 0.025, 0.025) for y in np.arange(-0.5, hem, 0.22)]
    pocket = _points((0.12, -0.3), (0.3, -0.3), (0.3, -0.08), (0.12, -0.08), (0.12, -0.3))
    return Garment(cloth, [collar, _mirror(collar), placket], [*buttons, pocket])


def _shoes(rng: Generator) -> Garment:
    heel, toe, ankle = rng.uniform(0.0, 0.25), rng.uniform(0.25, 0.4), rng.uniform(0.35, 0.75)
    leg = _points((-0.8, 0.3), (-0.75, 0.3 - ankle), (-0.3, 0.3 - ankle), (0.0, 0.3 - toe))
    upper = np.concatenate([leg, _ellipse(0.45, 0.3, 0.37, toe * 0.8, 270, 360)])
    tread = [(0.84, 0.28), (0.8, 0.38), (-0.3, 0.38)]
    sole = _points((-0.82, 0.28), *tread, (-0.5, 0.38 + heel), (-0.82, 0.38 + heel))
    lace = _points((-0.2, 0.28 - toe), (-0.05, 0.32 - toe))
    laces = [lace + shift for shift in ((0, 0), (0.12, 0.07), (0.24, 0.14))]
    single = Garment([upper, sole], [sole], laces)
    apart = np.array([rng.uniform(-0.15, 0.15), rng.uniform(0.3, 0.42)])
    pairs = (
        [part * 0.85 + side * apart for side in (-1, 1) for part in parts]
        for parts in (single.cloth, single.trim, single.seams)
    )
    return Garment(*pairs)


def _skirt(rng: Generator) -> Garment:
    waist, hem, length = rng.uniform(0.28, 0.42), rng.uniform(0.45, 0.9), rng.uniform(0.7, 1.4)
    top, bottom = -length / 2, length / 2
    body = np.concatenate([_points((-waist, top), (waist, top)), _ellipse(0, bottom, hem, 0.1, 0, 180)])
    band = _symmetric((waist, top), (waist * 1.03, top + 0.12))
    pleat = _points((waist, top + 0.12), (hem, bottom))
    return Garment([body], [band], [pleat * (x, 1) for x in np.linspace(-0.7, 0.7, rng.integers(2, 6))])


def _tshirt(rng: Generator) -> Garment:
    cloth, _, _ = _top(rng, rng.uniform(0.25, 0.42))
    return Garment(cloth, _print(rng))


GARMENTS: dict[str, Callable[[Generator], Garment]] = {
    "dress": _dress,
    "hat": _hat,
    "longsleeve": _longsleeve,
    "outwear": _outwear,
    "pants": lambda rng: _trousers(rng, rng.uniform(1.6, 1.85)),
    "shirt": _shirt,
    "shoes": _shoes,
    "shorts": lambda rng: _trousers(rng, rng.uniform(0.85, 1.15)),
    "skirt": _skirt,
    "t-shirt": _tshirt,
}


# ---- pictures ----------------------------------------------------------------------------------------------


def _draw_picture(rng: Generator, garment: Garment) -> NDArray[np.uint8]:
    """Place, colour and light ``garment``: uint8 ``[128, 128, 3]``."""
    to_pixels = _placement(rng)
    cloth = _mask(garment.cloth, to_pixels)
    trim = _mask(garment.trim, to_pixels) * cloth
    seams = _mask(garment.seams, to_pixels, outline=True) * cloth

    ground_colour = _pale(_colour(rng))
    picture = _background(rng, ground_colour)
    shadow = np.roll(cloth, rng.integers(-5, 6, 2), axis=(0, 1))
    picture *= 1 - rng.uniform(0.2, 0.5) * shadow[..., None]

    base = _colour(rng, unlike=ground_colour)
    second = _colour(rng, unlike=base)
    pattern = _pattern(rng, np.linalg.inv(to_pixels))[..., None]
    fabric = base + pattern * (second - base)
    fabric += trim[..., None] * (_colour(rng, unlike=base) - fabric)
    fabric *= 1 - rng.uniform(0.4, 0.7) * seams[..., None]
    picture += cloth[..., None] * (fabric - picture)

    picture *= _light(rng)
    picture += rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(rng.uniform(0.01, 0.06))
    return (picture.clip(0, 1) * 255).astype(np.uint8)


def _placement(rng: Generator) -> Array:
    """The affine map, 3x3, from garment coordinates to pixels."""
    half = IMAGE_SIZE / 2
    turn = np.radians(np.clip(rng.normal(0, 10), -25, 25))
    width, height = half * rng.uniform(0.55, 0.85) * rng.uniform(0.9, 1.1, 2)
    slant = rng.normal(0, 0.06)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = np.eye(3)
    matrix[:2, :2] = rotation @ np.array([[width * rng.choice([-1, 1]), slant * height], [0, height]])
    matrix[:2, 2] = half + rng.uniform(-0.2, 0.2, 2) * half
    return matrix


def _mask(polygons: list[Points], to_pixels: Array, outline: bool = False) -> Array:
    """Coverage 0..1, ``[128, 128]``, of the polygons, or of the lines along them."""
    canvas = Image.new("L", (IMAGE_SIZE * SUPERSAMPLING,) * 2)
    draw = ImageDraw.Draw(canvas)
    for polygon in polygons:
        pixels = polygon @ to_pixels[:2, :2].T + to_pixels[:2, 2]
        xy = [tuple(point) for point in (pixels * SUPERSAMPLING).tolist()]
        if outline:
            draw.line(xy, fill=255, width=SUPERSAMPLING)
        else:
            draw.polygon(xy, fill=255)
    return np.asarray(canvas.reduce(SUPERSAMPLING), dtype=np.float32) / 255


def _colour(rng: Generator, unlike: Array | None = None) -> Array:
    """A colour, RGB in 0..1, that can be told apart from ``unlike``."""
    while True:
        colour = rng.random(3, dtype=np.float32) * np.float32(rng.uniform(0.5, 1.0))
        colour += np.float32(rng.uniform(0, 0.8)) * (colour.mean() - colour)  # most clothes are not vivid
        if unlike is None or np.abs(colour - unlike).max() > 0.25:
            return colour


def _pale(colour: Array) -> Array:
    """Halfway to white: most people lay clothes out on something light."""
    return (colour + 1) / 2


def _grid() -> tuple[Array, Array]:
    y, x = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE].astype(np.float32)
    return x, y


_X, _Y = _grid()


def _wave(rng: Generator, x: Array, low: float, high: float) -> Array:
    """Stripes across ``x``: 0 and 1, with a period between ``low`` and ``high``."""
    period = rng.uniform(low, high)
    return ((x / period + rng.random()) % 1 < rng.uniform(0.2, 0.6)).astype(np.float32)


def _pattern(rng: Generator, to_garment: Array) -> Array:
    """How much of the second colour each pixel shows, 0..1: plain, stripes, checks, dots or shading."""
    matrix = to_garment.astype(np.float32)
    u: Array = matrix[0, 0] * _X + matrix[0, 1] * _Y + matrix[0, 2]
    v: Array = matrix[1, 0] * _X + matrix[1, 1] * _Y + matrix[1, 2]
    kind = rng.choice(6, p=[0.4, 0.12, 0.12, 0.12, 0.12, 0.12])
    if kind == 0:
        return np.zeros_like(u)
    if kind == 1:
        return _wave(rng, v, 0.12, 0.5)
    if kind == 2:
        return _wave(rng, u, 0.12, 0.5)
    if kind == 3:
        return (_wave(rng, u, 0.15, 0.4) + _wave(rng, v, 0.15, 0.4)) / 2
    if kind == 4:
        period = rng.uniform(0.15, 0.35)
        distance: Array = np.hypot(u % period - period / 2, v % period - period / 2)
        return (distance < period * 0.3).astype(np.float32)
    return ((v + 1) / 2).clip(0, 1)


def _background(rng: Generator, colour: Array) -> Array:
    """Boards, tiles or cloth in ``colour``, with a few things lying about: ``[128, 128, 3]`` in 0..1."""
    angle = rng.uniform(0, np.pi)
    across = np.cos(angle) * _X + np.sin(angle) * _Y
    along = np.cos(angle) * _Y - np.sin(angle) * _X
    texture = _wave(rng, across, 8, 50) + rng.integers(2) * _wave(rng, along, 8, 50)
    ground = colour + np.float32(rng.uniform(-0.1, 0.1)) * texture[..., None]
    canvas = Image.fromarray((ground.clip(0, 1) * 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(0, 6)):
        centre, size = rng.uniform(0, IMAGE_SIZE, 2), rng.uniform(4, 22)
        corners = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
        blob = centre + size * np.stack([np.cos(corners), np.sin(corners)], axis=1)
        fill = (_pale(_colour(rng)) * 255).astype(int)
        draw.polygon([tuple(point) for point in blob.tolist()], fill=tuple(fill.tolist()))
    if rng.random() < 0.5:
        canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2)))
    return np.asarray(canvas, dtype=np.float32) / 255


def _light(rng: Generator) -> Array:
    """Brightness that falls off across the picture, with a colour cast: ``[128, 128, 3]``."""
    angle = rng.uniform(0, 2 * np.pi)
    slope = (np.cos(angle) * _X + np.sin(angle) * _Y) / IMAGE_SIZE
    strength = rng.uniform(0.75, 1.2) + rng.uniform(0, 0.4) * (slope - slope.mean())
    light: Array = strength[..., None] * rng.uniform(0.92, 1.08, 3)
    return light
