"""Configuration, random numbers, splits, resampling and plotting; nothing about images."""
