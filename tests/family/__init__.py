"""A family of backbones that lives outside the package."""
