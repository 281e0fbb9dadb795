"""Principal components and other orthonormal bases: fit, cache, save, project and reconstruct."""

from pmae.components.bases import cached_components, fit_basis, fit_components
from pmae.components.principal import PrincipalComponents

__all__ = ["PrincipalComponents", "cached_components", "fit_basis", "fit_components"]
