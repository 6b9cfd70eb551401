"""Masks for other tools: COCO, YOLO, Label Studio, labelme, label maps and images."""
