"""Annotations of COCO and Pascal VOC as a dataset of images and boxes."""
