"""What timm and torchvision build under the names of the architectures."""
