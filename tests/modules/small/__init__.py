"""Small networks on small images, which tests of the image modules share."""
