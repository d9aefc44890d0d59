"""Pages and pictures: templates, how numbers are written, images as PNG."""
