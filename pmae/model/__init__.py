"""The masked autoencoder: patches, encoder, decoder, and the projection onto visible and masked components."""

from pmae.model.autoencoder import MaskedAutoencoder, MaskedOutput
from pmae.model.encoder import Encoder

__all__ = ["Encoder", "MaskedAutoencoder", "MaskedOutput"]
