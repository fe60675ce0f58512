"""The study engine: what is to be trained (`plan`), what has been (`store`), and who trains it (`worker`)."""
