"""How far a layer or a model moves with its input: shifts of images, equivariance errors, consistency of classifiers.

Needs nothing but torch; the figures in :mod:`torch_convops.equivariance.plots` need matplotlib, which
``pip install 'torch_convops[cli]'`` brings.
"""

from .consistency import ConsistencyCurve, ShiftConsistency, consistency_curve, shift_consistency
from .errors import EquivarianceErrors, equivariance_errors, equivariance_map
from .shifts import BORDERS, Shift, crop, fourier_shift, shift

__all__ = [
    "BORDERS",
    "ConsistencyCurve",
    "EquivarianceErrors",
    "Shift",
    "ShiftConsistency",
    "consistency_curve",
    "crop",
    "equivariance_errors",
    "equivariance_map",
    "fourier_shift",
    "shift",
    "shift_consistency",
]
