"""What rankings and the estimator that chooses share: networks and scores of features."""
