"""SYNTHETIC images of shapes over real textures, whose sizes within an image differ by a known factor."""
