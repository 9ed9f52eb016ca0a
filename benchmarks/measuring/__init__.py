"""What the speed and alignment commands measure, and what they compare it with."""
