"""What annotation tools write, as pages of shapes: labelme, VIA, Label Studio."""
