"""Principal components and other orthonormal bases: fit, cache, save, project and reconstruct."""

from pmae.components.bases import fit_basis
from pmae.components.cached import cached_components
from pmae.components.principal import PrincipalComponents

__all__ = ["PrincipalComponents", "cached_components", "fit_basis"]
