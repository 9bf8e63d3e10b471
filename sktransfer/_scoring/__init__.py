"""What rankings and the estimator that chooses share: networks, scores of features, temperature."""
