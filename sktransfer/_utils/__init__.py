"""Configuration, random numbers, splits, resampling, plotting and scikit-learn's private names."""
