"""Transfer learning for image classification that people can trust."""
