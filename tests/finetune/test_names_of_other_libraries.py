"""Names of Keras, fastai and others are refused with the name that is meant, wherever typed."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor
from sktransfer.datasets import load_image_folder, load_image_table
from sktransfer.exceptions import UnknownStageError
from sktransfer.preprocessing import ImageAugmentation, ImageWhitening


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("learning_rate", "lr"),
        ("learningRate", "lr"),
        ("lrr", "lr"),
        ("epochs", "max_epochs"),
        ("max_epoch", "max_epochs"),
        ("patience", "early_stopping"),
        ("dropout_rate", "head__dropout"),
        ("head__dropout_rate", "head__dropout"),
        ("class_weights", "class_weight"),
        ("trainable_layers", "freeze_depth"),
        ("checkpoint_dir", "checkpoint__dir"),
        ("test_time_views", "augmentation__test_time_views"),
        ("wise_ft_alpha", "weight_interpolation"),
        ("use_lora", "trainable"),
        ("lora_rank", "trainable__rank"),
        ("freeze_dept", "freeze_depth"),
        ("batchsize", "batch_size"),
        ("validation_split", "validation_fraction"),
        ("momentum", "optimizer__momentum"),
        ("clipnorm", "optimizer__max_grad_norm"),
        ("input_shape", "image_size"),
        ("include_top", "head"),
    ],
)
def test_a_parameter_is_named_as_it_is_here(typed, meant):
    with pytest.raises(TypeError, match=rf"Did you mean {meant}\b"):
        FineTuneClassifier(**{typed: 1})
    with pytest.raises(ValueError, match=rf"Did you mean {meant}\b"):
        FineTuneClassifier().set_params(**{typed: 1})


def test_the_first_guess_is_a_parameter_that_exists(small):
    from sktransfer._finetune._parameters import _MEANT

    known = {*FineTuneClassifier().get_params()}
    of_torch = {"optimizer__momentum", "optimizer__betas"}
    assert {*_MEANT.values()} <= known | of_torch
    assert not {*_MEANT} & known


def test_a_grid_names_it_too(small, task):
    with pytest.raises(ValueError, match=r"Did you mean lr\?"):
        GridSearchCV(small(), {"learning_rate": [1, 2]}, cv=2).fit(*task)
    pipe = make_pipeline(small())
    with pytest.raises(ValueError, match=r"Did you mean max_epochs\?"):
        GridSearchCV(pipe, {"finetuneclassifier__epochs": [1, 2]}, cv=2).fit(*task)


@pytest.mark.parametrize(
    ("parameter", "typed", "meant"),
    [
        ("optimizer", "Adam", "adam"),
        ("optimizer", "RMSProp", "rmsprop"),
        ("head__optimizer", "SGD", "sgd"),
        ("lr_schedule", "CosineAnnealingLR", "cosine"),
        ("lr_schedule", "ReduceLROnPlateau", "plateau"),
        ("loss", "categorical_crossentropy", "cross_entropy"),
        ("precision", "fp16", "float16"),
        ("head__init", "Logistic", "logistic"),
        ("class_weight", "balance", "balanced"),
    ],
)
def test_a_value_is_named_as_it_is_here(small, task, parameter, typed, meant):
    with pytest.raises(ValueError, match=f"{parameter}='{typed}'.* Did you mean '{meant}'"):
        small(**{parameter: typed}).fit(*task)


def test_fit_names_the_parameter_that_a_keyword_of_keras_is(small, task):
    for typed, meant in (("epochs", "max_epochs"), ("validation_split", "validation_fraction")):
        with pytest.raises(TypeError, match=f"{typed!r}: set {meant} in the constructor"):
            small().fit(*task, **{typed: 1})
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'sample_weigth'\.$"):
        small().fit(*task, sample_weigth=np.ones(len(task[1])))


def test_parameters_of_an_augmentation_are_sent_there():
    with pytest.raises(TypeError, match=r"augmentation=ImageAugmentation\(shear_range=...\)"):
        FineTuneClassifier(shear_range=10)
    with pytest.raises(ValueError, match="has to be an object with parameters"):
        FineTuneClassifier(augmentation="light").set_params(augmentation__rotation_range=5)
    with pytest.raises(ValueError, match="Leave it out: pixels are scaled"):
        FineTuneClassifier(augmentation=ImageAugmentation()).set_params(augmentation__rescale=1)


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("rescale", "Leave it out: pixels are scaled"),
        ("zca_whitening", r"ImageWhitening\(method='zca'\)"),
        ("zca_epsilon", r"ImageWhitening\(method='zca', epsilon=...\)"),
        ("featurewise_center", r"ImageWhitening\(featurewise_center=True\)"),
        ("featurewise_std_normalization", r"ImageWhitening\(featurewise_std_normalization=True\)"),
        ("samplewise_center", r"ImageWhitening\(samplewise_center=True\)"),
        ("preprocessing_function", "as preprocessing= of the estimator"),
        ("validation_split", r"Use FineTuneClassifier\(validation_fraction=\)"),
        ("data_format", "channels are recognized"),
        ("rotation_rnage", r"Did you mean rotation_range\?"),
        ("degrees", r"Did you mean rotation_range\?"),
        ("hflip", r"Did you mean horizontal_flip\?"),
        ("flip", r"Did you mean horizontal_flip or vertical_flip\?"),
        ("nonsense", r"for ImageAugmentation\. Its parameters are brightness_range, "),
    ],
)
def test_keras_augmentation_names_are_answered(typed, answer):
    with pytest.raises(TypeError, match=answer):
        ImageAugmentation(**{typed: 0.1})
    with pytest.raises(ValueError, match=answer):
        ImageAugmentation().set_params(**{typed: 0.1})


def test_what_is_said_of_whitening_can_be_typed():
    from sktransfer.preprocessing import ImageWhitening

    for settings in ({"method": "zca", "epsilon": 0.1}, {"samplewise_std_normalization": True}):
        ImageWhitening(**settings)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("edge", "nearest"), ("zeros", "constant"), ("mirror", "reflect"), ("Wrap", "wrap")],
)
def test_fill_modes_of_others_are_answered(typed, meant):
    with pytest.raises(ValueError, match=f"got '{typed}'. Did you mean '{meant}'"):
        ImageAugmentation(fill_mode=typed).validate()


def test_one_number_as_brightness_is_answered_with_a_pair():
    with pytest.raises(ValueError, match=r"such as \(0.8, 1.2\); got 0.2"):
        ImageAugmentation(brightness_range=0.2).validate()


@pytest.mark.parametrize(
    ("parameter", "unit"),
    [
        ("shear_range", "0.1 is in degrees, as in Keras.*5.73 if it is radians"),
        ("rotation_range", "0.1 is in degrees, 36 if it is a fraction of a full turn"),
        ("channel_shift_range", "0.1 is in gray levels of 0 to 255, 25.5 if"),
    ],
)
def test_a_tiny_angle_warns_in_fit_and_a_visible_one_does_not(small, task, parameter, unit):
    augmentation = ImageAugmentation(**{parameter: 0.1})
    with pytest.warns(UserWarning, match=unit):
        small("squeezenet1_1", augmentation=augmentation, augment_views=1, max_epochs=1).fit(*task)
    ImageAugmentation(**{parameter: 1}).validate()  # warnings are errors here
    ImageAugmentation(**{parameter: 0}).validate()


def test_an_augmentation_with_unknown_names_refused_is_cloned_and_printed_as_before():
    augmentation = ImageAugmentation(rotation_range=5)
    assert repr(clone(augmentation)) == "ImageAugmentation(rotation_range=5)"
    assert "kwargs" not in augmentation.get_params()


@pytest.mark.parametrize(
    ("called", "typed", "answer"),
    [
        (PretrainedFeatureExtractor, "include_top", "Leave it out: the output layer"),
        (PretrainedFeatureExtractor, "input_shape", r"Did you mean image_size\?"),
        (PretrainedFeatureExtractor, "poolling", r"Did you mean pooling\?"),
        (PretrainedFeatureExtractor, "trainable", "FineTuneClassifier"),
        (PretrainedFeatureExtractor, "xyzzy", " Its parameters are backbone, weights,"),
        (ImageWhitening, "zca_epsilon", r"Did you mean epsilon\?"),
        (ImageWhitening, "zca_whitening", r"Use method='zca'\."),
        (load_image_folder, "target_size", "image_size"),
        (load_image_folder, "class_mode", "positive="),
        (load_image_folder, "directory", r"Did you mean path\?"),
        (load_image_folder, "validation_split", "train_test_split"),
        (load_image_table, "x_col", r"Did you mean image\?"),
        (load_image_table, "y_col", r"Did you mean target\?"),
    ],
)
def test_what_keras_names_elsewhere_is_answered_too(called, typed, answer):
    with pytest.raises(TypeError, match=rf"unexpected keyword argument '{typed}'.*{answer}"):
        called(**{typed: 1})


@pytest.mark.parametrize(
    ("backbone", "typed", "meant"),
    [
        ("inception_v3", "mixed8", "Mixed_7a"),
        ("inception_v3", "mixed0", "Mixed_5b"),
        ("inception_v3", "mixed10", "Mixed_7c"),
        ("inception_v3", "mixed_7A", "Mixed_7a"),
        ("squeezenet1_1", "feature.9", "features.9"),
    ],
)
def test_a_stage_is_named_as_it_is_here(task, backbone, typed, meant):
    clf = FineTuneClassifier(backbone, weights=None, freeze_depth=typed)
    with pytest.raises(UnknownStageError, match=f"Did you mean '{meant}'"):
        clf.fit(*task)


def test_a_stage_like_no_other_is_not_guessed_and_249_layers_are_named(small, task):
    with pytest.raises(UnknownStageError, match=r"has no stage 'block4_pool'\. Its"):
        small(freeze_depth="block4_pool").fit(*task)
    with pytest.raises(ValueError, match="first 249 of Inception v3 are those through 'Mixed_7a'"):
        small(freeze_depth=249).fit(*task)


@pytest.mark.parametrize("lr", [slice(1e-5, 1e-3), [1e-5, 1e-3], (1e-5, 1e-3)])
def test_rates_by_stage_are_answered_with_the_decay(small, task, lr):
    with pytest.raises(ValueError, match=r"one rate.*lr__layer_decay=0\.7"):
        small(lr=lr).fit(*task)


def test_tensors_as_weights_are_answered_with_a_file_and_not_printed(small, task):
    with pytest.raises(ValueError, match=r"torch\.save") as caught:
        small(weights={"conv1.weight": np.zeros(1000)}).fit(*task)
    assert len(str(caught.value)) < 200
