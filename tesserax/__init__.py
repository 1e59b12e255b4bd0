"""tesserax: images to discrete tokens, tokens to images."""
