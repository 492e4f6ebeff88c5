"""From the captured decoder to a Core ML program: emit operators, write weights as they come, lay out the package."""
