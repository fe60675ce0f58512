"""Object detection: heads, and the network of a backbone with one. Import `DETECTOR` from `detection.heads`.

The settings are mmdet's, which papers report; where torchvision's parts agree they are taken (`detection.parts`).
Of mmdet is left out: that anchors in a batch's padding are dropped, that a box below IoU 0.5 with its best object is
matched to it in the second stage, and RetinaNet's choice of the 1,000 best anchors, of which mmdet 2.11 takes those
with the best class, and later versions, as here, pairs of anchor and class.
"""
